"""A fake Notion with specifications, and a service that exports them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.db.pool import Database
from kernel.settings import DatabaseSettings
from kernel.testing import Client, make_configuration, running
from tests.applications import publish_demo
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import FAST, PLUGINS, Specifications, export, serve_trace

_numbers = itertools.count()


@pytest.fixture
def workspace() -> Workspace:
    """An empty workspace."""
    return Workspace()


@pytest.fixture
def specifications(workspace: Workspace) -> Specifications:
    """Data sources of specifications with a few rows."""
    made = Specifications(workspace)
    made.fill()
    return made


@pytest.fixture
def notion(workspace: Workspace) -> Iterator[FakeNotion]:
    """A server of that workspace, with a unique token: tests may share a database, and so request budgets."""
    with running_notion(FakeNotion(workspace, token=f"ntn_test_{next(_numbers)}")) as started:
        yield started


@pytest.fixture(scope="module")
def db(module_database: str) -> Iterator[Database]:
    """A migrated database, shared by the tests of a file."""
    opened = Database(DatabaseSettings(), module_database, embedded=False)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def demo(module_database: str) -> Iterator[Client]:
    """A service with the demo data, shared by the tests of a file: they only read."""
    configuration = make_configuration(
        plugins=PLUGINS, db={"url": module_database}, log={"level": "error", "requests": False}
    )
    with running(configuration) as client:
        publish_demo(client)
        yield client


@pytest.fixture
def tiercel(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    notion: FakeNotion,
    specifications: Specifications,
) -> RunCommand:
    """Run commands on the test's database, with that server."""
    made = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    monkeypatch.setenv("NOTION_TOKEN", notion.token)
    given: dict[str, Any] = {**FAST, "api_url": notion.url, "sources": specifications.sources()}
    for name, value in given.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        monkeypatch.setenv(f"TIERCEL_TRACE__{name.upper()}", text)
    return made


@pytest.fixture
def exported(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Client:
    """A service that exported everything an hour ago, and an hour after the last edit."""
    specifications.workspace.wait(hours=1)
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    specifications.workspace.wait(hours=1)
    return client
