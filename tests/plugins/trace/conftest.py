"""A fake Notion with specifications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import Specifications


@pytest.fixture
def workspace() -> Workspace:
    """An empty workspace."""
    return Workspace()


@pytest.fixture
def specifications(workspace: Workspace) -> Specifications:
    """Its tables of specifications, with a few rows."""
    made = Specifications(workspace)
    made.fill()
    return made


@pytest.fixture
def notion(workspace: Workspace) -> Iterator[FakeNotion]:
    """The server of that workspace."""
    with running_notion(FakeNotion(workspace)) as started:
        yield started
