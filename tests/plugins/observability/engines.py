"""The database engines that the behaviour of this plugin is tested on.

Each is a real server: the embedded PostgreSQL; an older PostgreSQL, as the distribution has it or where
``TIERCEL_TEST_POSTGRES_URL`` says; TimescaleDB under either licence, compiled for Node; and one that
``TIERCEL_TEST_TIMESCALE_URL`` names.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from psycopg.conninfo import make_conninfo

from kernel.app import Tiercel
from kernel.db.embedded import EmbeddedServer
from kernel.testing import create_database, drop_database, make_configuration

MODULES = os.environ.get("TIERCEL_TEST_PGLITE")
POSTGRES_URL = os.environ.get("TIERCEL_TEST_POSTGRES_URL")
TIMESCALE_URL = os.environ.get("TIERCEL_TEST_TIMESCALE_URL")
OLDEST_BINARIES = Path("/usr/lib/postgresql/15/bin")
SCRIPT = Path(__file__).with_name("timescale.cjs")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_numbers = itertools.count()


class TestedEngine(msgspec.Struct, frozen=True):
    """A server to test on.

    Args:
        name: As the service reports it.
        database: Gives a fresh database, migrated by every plugin, for as long as it is used; says how to connect.
        one_session: Whether it serves one session at a time and knows no COPY.
    """

    __test__ = False

    name: str
    database: Callable[[], AbstractContextManager[str]]
    one_session: bool = False

    def settings(self, url: str) -> Mapping[str, Any]:
        """Return the table ``db`` of a configuration."""
        return {"url": url, "pool_min": 1, "pool_max": 1} if self.one_session else {"url": url}


def migrate(url: str) -> None:
    """Apply the migrations of every plugin in the tree."""
    service = Tiercel(make_configuration(db={"url": url}, log={"level": "error"}))
    try:
        service.prepare()
    finally:
        service.close()


def _cloned(server: str, template: str) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def clone() -> Iterator[str]:
        name = f"engine_{os.getpid()}_{next(_numbers)}"
        yield create_database(server, name, template)
        drop_database(server, name)

    return clone


def _migrated(server: str) -> Callable[[], AbstractContextManager[str]]:
    # A database with TimescaleDB is no template: its workers are always connected.
    @contextmanager
    def make() -> Iterator[str]:
        name = f"engine_{os.getpid()}_{next(_numbers)}"
        url = create_database(server, name)
        migrate(url)
        yield url
        drop_database(server, name)

    return make


@contextmanager
def oldest_postgresql() -> Iterator[str]:
    """Start the oldest PostgreSQL that works; yield how to connect as a role that may create databases."""
    if POSTGRES_URL:
        yield POSTGRES_URL
        return
    if not OLDEST_BINARIES.is_dir() and not os.environ.get("CI"):
        pytest.skip(f"no PostgreSQL in {OLDEST_BINARIES}, and TIERCEL_TEST_POSTGRES_URL names none")
    with tempfile.TemporaryDirectory(prefix="tiercel-test-") as home:
        server = EmbeddedServer(Path(home), options={**FAST, "max_connections": "100"})
        server._bin = OLDEST_BINARIES
        with server:
            yield server.conninfo


class NodeTimescale:
    """TimescaleDB in Node: one session at a time, any password, no COPY.

    Args:
        licence: ``timescale`` or ``apache``.
    """

    def __init__(self, licence: str) -> None:
        node = shutil.which("node")
        if not (MODULES and node) and not os.environ.get("CI"):
            pytest.skip("TIERCEL_TEST_PGLITE names no directory with node_modules, or there is no node")
        assert node is not None
        assert MODULES, "TIERCEL_TEST_PGLITE names no directory with node_modules"
        self._process = subprocess.Popen(
            [node, SCRIPT, MODULES, licence], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = make_conninfo(
            "",
            host="127.0.0.1",
            port=int(self._line()),
            user="postgres",
            password="any",
            dbname="postgres",
            sslmode="disable",
        )

    def command(self, name: str) -> None:
        """Let it do something, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        assert self._line() == name

    def stop(self) -> None:
        """End it."""
        self._process.communicate()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Begin anew."""
        self.command("fresh")
        yield self.url

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def _in_node(name: str, licence: str) -> Iterator[TestedEngine]:
    node = NodeTimescale(licence)
    try:
        migrate(node.url)
        node.command("keep")
        yield TestedEngine(name, node.database, one_session=True)
    finally:
        node.stop()


def _grouped(name: str, group: str) -> Any:
    # One worker for each that takes long to start.
    return pytest.param(name, marks=pytest.mark.xdist_group(group))


ENGINES = [
    "embedded",
    "postgresql-15",
    _grouped("timescaledb-node", "timescale"),
    _grouped("timescaledb-apache-node", "timescale-apache"),
    *(["timescaledb-server"] if TIMESCALE_URL else []),
]


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[TestedEngine]:
    """Each engine in turn."""
    with ExitStack() as stack:
        match request.param:
            case "embedded":
                server: EmbeddedServer = request.getfixturevalue("server")
                yield TestedEngine("postgresql", _cloned(server.conninfo, request.getfixturevalue("template")))
            case "postgresql-15":
                url = stack.enter_context(oldest_postgresql())
                template = f"tiercel_template_{os.getpid()}"
                migrate(create_database(url, template))
                yield TestedEngine("postgresql", _cloned(url, template))
                drop_database(url, template)
            case "timescaledb-node":
                yield stack.enter_context(_in_node("timescaledb", "timescale"))
            case "timescaledb-apache-node":
                yield stack.enter_context(_in_node("timescaledb-apache", "apache"))
            case _:
                assert TIMESCALE_URL
                yield TestedEngine("timescaledb", _migrated(TIMESCALE_URL))
