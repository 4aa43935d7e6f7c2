"""A real PostgreSQL for every test: one server a run, a migrated template, a clone for each test."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from kernel.app import Tiercel
from kernel.embedded.server import EmbeddedServer
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.processes import run_tiercel

Serve = Callable[..., Client]

# Other tests share the machine: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("tiercel", deadline=None)
hypothesis.settings.load_profile("tiercel")

# Tests may lose their data with the power.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server of this run; its directory is private, so that tests of the embedded server do not meet it."""
    with (
        tempfile.TemporaryDirectory(prefix="tiercel-test-") as home,
        EmbeddedServer(Path(home), options=FAST) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> str:
    """A database with the migrations of every plugin in the tree."""
    conninfo = create_database(server.conninfo, "tiercel_template")
    service = Tiercel(make_configuration(db={"url": conninfo}, log={"level": "error"}))
    service.prepare()
    service.close()
    return "tiercel_template"


@pytest.fixture
def database(server: EmbeddedServer, template: str) -> Iterator[str]:
    """How to connect to a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    yield create_database(server.conninfo, name, template)
    drop_database(server.conninfo, name)


@pytest.fixture(scope="module")
def module_database(server: EmbeddedServer, template: str) -> Iterator[str]:
    """As ``database``, but one for all tests of a file: for processes that they share."""
    name = f"module_{next(_numbers)}"
    yield create_database(server.conninfo, name, template)
    drop_database(server.conninfo, name)


@pytest.fixture
def empty_database(server: EmbeddedServer) -> Iterator[str]:
    """How to connect to a database with nothing in it."""
    name = f"empty_{next(_numbers)}"
    yield create_database(server.conninfo, name)
    drop_database(server.conninfo, name)


@pytest.fixture
def db_settings(database: str) -> Mapping[str, Any]:
    """The table ``db`` of a configuration that uses the test's database."""
    return {"url": database}


@pytest.fixture
def serve(db_settings: Mapping[str, Any]) -> Iterator[Serve]:
    """Start a service on the test's database: ``serve(plugins=[...], clock=...)``."""
    with ExitStack() as stack:

        def start(clock: Any = None, **values: Any) -> Client:
            db = {**db_settings, **values.pop("db", {})}
            values.setdefault("log", {"level": "error", "requests": False})
            started: AbstractContextManager[Client] = running(make_configuration(db=db, **values), clock)
            return stack.enter_context(started)

        yield start


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database is made and migrated, to be copied with ``copy_home``: making one takes seconds."""
    home = tmp_path_factory.mktemp("initialised") / ".tiercel"
    made = run_tiercel(home, "migrate")
    assert made.returncode == 0, made.stderr
    return home


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of CI that skipped something: as root, with what ``.ci/run`` installs, every test can run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and os.geteuid() == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
