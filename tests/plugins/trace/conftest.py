"""A fake Notion with specifications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.testing import Client
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import PATIENCE, PLUGINS, Specifications, refresh, serve_trace


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


@pytest.fixture
def tiercel(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    notion: FakeNotion,
    specifications: Specifications,
) -> RunCommand:
    """Run commands on the test's database, with that Notion."""
    made = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    monkeypatch.setenv("NOTION_TOKEN", notion.token)
    given: dict[str, Any] = {**PATIENCE, "api_url": notion.url, "sources": specifications.sources()}
    for name, value in given.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        monkeypatch.setenv(f"TIERCEL_TRACE__{name.upper()}", text)
    return made


@pytest.fixture
def exported(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Client:
    """A service that has exported everything, an hour ago; and nothing had been edited for an hour then."""
    specifications.workspace.wait(hours=1)
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    specifications.workspace.wait(hours=1)
    return client
