"""Fixtures of all tests: one PostgreSQL server per run, a migrated template database, a copy of it for each test."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from kernel.app import Tiercel
from kernel.embedded.server import EmbeddedServer
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.processes import run_tiercel

Serve = Callable[..., Client]
FirstMigrate = tuple[Path, subprocess.CompletedProcess[str]]

# Tests share the machine, so the time that an example takes says nothing about the code.
hypothesis.settings.register_profile("tiercel", deadline=None)
hypothesis.settings.load_profile("tiercel")

# Durability does not matter in tests.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
# Copies of databases are made three to seven times faster in memory.
_MEMORY = Path("/dev/shm")
_MEMORY_MIN_BYTES = 4 * 1024**3
_numbers = itertools.count()


def pytest_configure() -> None:
    """Let processes that tests start be interrupted: a shell that runs the tests in its background ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``."""
    parser.addoption(
        "--quick", action="store_true", help="Only tests that start no processes, on the embedded PostgreSQL."
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what ``--quick`` leaves out; keep tests that share a fixture of their file in one worker of xdist."""
    if config.getoption("quick"):
        chosen = [item for item in items if _is_quick(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
    for item in items:
        if _shares_fixtures(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.relative_to(config.rootpath)}:{_engine_of(item)}"))


def pytest_collection_finish() -> None:
    """Hide what was collected from the garbage collector, which would look through it again and again."""
    # With what plugins and libraries have, half a million objects: without this, a tenth of all time.
    gc.collect()
    gc.freeze()


def _is_quick(item: pytest.Item) -> bool:
    if item.get_closest_marker("process") or item.get_closest_marker("slow"):
        return False
    return _engine_of(item) == "embedded_engine"


def _engine_of(item: pytest.Item) -> str:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return str(parameters.get("engine", "embedded_engine"))


def _shares_fixtures(item: pytest.Item) -> bool:
    """Tell whether a test uses a fixture of its file: a service or a database, which every worker would start."""
    assert isinstance(item, pytest.Function)
    used = item._fixtureinfo.name2fixturedefs.values()
    return any(definition.scope == "module" for definitions in used for definition in definitions)


def memory_directory() -> str | None:
    """Return a directory in memory for data that need not outlive a run; None if there is not enough room."""
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_MIN_BYTES
    return str(_MEMORY) if has_room else None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server of this run, in a separate directory."""
    with (
        tempfile.TemporaryDirectory(prefix="tiercel-test-", dir=memory_directory()) as home,
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
    """The connection string of a new, migrated database."""
    name = f"test_{next(_numbers)}"
    yield create_database(server.conninfo, name, template)
    drop_database(server.conninfo, name)


@pytest.fixture(scope="module")
def module_database(server: EmbeddedServer, template: str) -> Iterator[str]:
    """As ``database``, but shared by the tests of a module, for processes that they share."""
    name = f"module_{next(_numbers)}"
    yield create_database(server.conninfo, name, template)
    drop_database(server.conninfo, name)


@pytest.fixture
def empty_database(server: EmbeddedServer) -> Iterator[str]:
    """The connection string of a new, empty database."""
    name = f"empty_{next(_numbers)}"
    yield create_database(server.conninfo, name)
    drop_database(server.conninfo, name)


@pytest.fixture
def db_settings(database: str) -> Mapping[str, Any]:
    """The settings ``db`` for the test's database."""
    return {"url": database}


@pytest.fixture
def serve(db_settings: Mapping[str, Any]) -> Iterator[Serve]:
    """Start a service in this process, on the test's database: ``serve(plugins=[...], clock=...)``."""
    with service_starter(db_settings) as start:
        yield start


@pytest.fixture(scope="module")
def module_serve(module_database: str) -> Iterator[Serve]:
    """As ``serve``, for services that all tests of a file share because none of them changes it."""
    with service_starter({"url": module_database}) as start:
        yield start


@contextmanager
def service_starter(db_settings: Mapping[str, Any]) -> Iterator[Serve]:
    """Return a function that starts services on a database; stop them all at the end of the block."""
    with ExitStack() as stack:

        def start(clock: Any = None, **values: Any) -> Client:
            db = {**db_settings, **values.pop("db", {})}
            values.setdefault("log", {"level": "error", "requests": False})
            started: AbstractContextManager[Client] = running(make_configuration(db=db, **values), clock)
            return stack.enter_context(started)

        yield start


@pytest.fixture(scope="session")
def first_migrate(tmp_path_factory: pytest.TempPathFactory) -> FirstMigrate:
    """A new home, and what ``tiercel migrate`` printed when it initialised it."""
    home = tmp_path_factory.mktemp("initialised") / ".tiercel"
    return home, run_tiercel(home, "migrate")


@pytest.fixture(scope="session")
def initialised(first_migrate: FirstMigrate) -> Path:
    """A home with a migrated database, to be copied with ``copy_home``: initialising one takes seconds."""
    home, ran = first_migrate
    assert ran.returncode == 0, ran.stderr
    return home


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run that skipped tests: as root, with what ``.ci/run`` installs, all of them can run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and os.geteuid() == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
