"""The database engines that this plugin is tested on; a test is marked with those it runs on.

Each is a real server, started once for a run: the embedded PostgreSQL; an older PostgreSQL, of the distribution or at
``TIERCEL_TEST_POSTGRES_URL``; the embedded one behind PgBouncer in transaction mode; TimescaleDB under either licence,
compiled for Node; and the TimescaleDB at ``TIERCEL_TEST_TIMESCALE_URL``, under the licence that it has, if that is set.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.app import Tiercel
from kernel.db.engine import detect_engine
from kernel.embedded.server import EmbeddedServer
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.conftest import memory_directory
from tests.pgbouncer import pgbouncer
from tests.plugins.observability.copy_emulation import emulate_copy
from tests.processes import eventually

MODULES = os.environ.get("TIERCEL_TEST_PGLITE")
POSTGRES_URL = os.environ.get("TIERCEL_TEST_POSTGRES_URL")
TIMESCALE_URL = os.environ.get("TIERCEL_TEST_TIMESCALE_URL")
# Where Debian and Ubuntu install PostgreSQL, by version.
INSTALLED = Path("/usr/lib/postgresql")
SCRIPT = Path(__file__).with_name("timescale.cjs")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_numbers = itertools.count()


class TestedEngine(msgspec.Struct, frozen=True):
    """A server to test on.

    Args:
        name: ``Engine.name``.
        make_database: Context manager of a new, migrated database; yields its connection string.
        one_session: Whether it serves one session at a time, and has no COPY.
        tries_all: Whether it tries all examples of a property; see ``examples``.
        pooler: Where the service reaches the server through a pooler, as parameters of a connection string.
        superuser_url: Of a server that runs the policies of its databases by itself, the connection string of a
            superuser.
    """

    __test__ = False

    name: str
    make_database: Callable[[], AbstractContextManager[str]]
    one_session: bool = False
    tries_all: bool = False
    pooler: Mapping[str, Any] = {}
    superuser_url: str | None = None

    def examples(self, most: int) -> int:
        """Return how many examples of a property to try here.

        All of them on the embedded server alone: the code is the same on the others, and what they do otherwise shows
        in few examples, which are others in each run.
        """
        return most if self.tries_all else max(6, most // 6)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create a new, migrated database, and drop it afterwards; yield its connection string."""
        with ExitStack() as stack:
            if self.one_session:
                emulate_copy(stack.enter_context(pytest.MonkeyPatch.context()))
            yield stack.enter_context(self.make_database())

    def settings(self, url: str) -> Mapping[str, Any]:
        """Return the table ``db`` of a configuration."""
        url = make_conninfo(url, **self.pooler)
        return {"url": url, "pool_min": 1, "pool_max": 1} if self.one_session else {"url": url}

    def stop_policies(self, url: str) -> None:
        """Stop what the server does by itself in a database: for tests that do it, or say how rows are stored."""
        if self.superuser_url is None:
            return
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(make_conninfo(self.superuser_url, dbname=str(name)), autocommit=True) as connection:
            # Also those that are yet to be made. It waits for the scheduler, but not for what that has begun.
            connection.execute("SELECT _timescaledb_functions.stop_background_workers()")
            running = (
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ '[[][0-9]+[]]$'"
            )
            assert eventually(lambda: connection.execute(running).fetchone() is None)


def migrate(url: str) -> None:
    """Apply the migrations of every plugin of the project."""
    service = Tiercel(make_configuration(db={"url": url}, log={"level": "error"}))
    try:
        service.prepare()
        service.registry.check_health()
    finally:
        service.close()


def _cloned(server: str, template: str) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def clone() -> Iterator[str]:
        name = f"engine_{os.getpid()}_{next(_numbers)}"
        try:
            yield create_database(server, name, template)
        finally:
            drop_database(server, name)

    return clone


@contextmanager
def _ordinary_role(server: str) -> Iterator[str]:
    """Create a role without any privilege on a server; yield its name. It has the password of the connection string."""
    name, password = f"engine_{os.getpid()}", conninfo_to_dict(server).get("password")
    role = sql.Identifier(name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
        try:
            yield name
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def _migrated(server: str, owner: str) -> Callable[[], AbstractContextManager[str]]:
    # A database with TimescaleDB cannot be a template: its background workers are always connected. And its launcher
    # visits template1 from time to time.
    @contextmanager
    def make() -> Iterator[str]:
        name = f"engine_{os.getpid()}_{next(_numbers)}"
        created = create_database(server, name, "template0")
        try:
            with psycopg.connect(created, autocommit=True) as connection:
                statement = sql.SQL("ALTER DATABASE {} OWNER TO {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))
            url = make_conninfo(created, user=owner)
            migrate(url)
            yield url
        finally:
            drop_database(server, name)

    return make


@contextmanager
def oldest_postgresql() -> Iterator[str]:
    """Start the oldest supported PostgreSQL; yield the connection string of a role that may create databases."""
    if POSTGRES_URL:
        yield POSTGRES_URL
        return
    versions = sorted(int(path.parts[-3]) for path in INSTALLED.glob("*/bin/postgres"))
    if not versions and not os.environ.get("CI"):
        pytest.skip(f"no PostgreSQL in {INSTALLED}, and TIERCEL_TEST_POSTGRES_URL names none")
    oldest = INSTALLED / str(versions[0]) / "bin"
    with tempfile.TemporaryDirectory(prefix="tiercel-test-", dir=memory_directory()) as home:
        # Compiling a query with LLVM, which the embedded server does not have, takes longer than a thousand events.
        server = EmbeddedServer(Path(home), options={**FAST, "max_connections": "100", "jit": "off"})
        server._bin = oldest
        with server:
            yield server.conninfo


class NodeTimescale:
    """TimescaleDB in Node (timescale.cjs): one session at a time, any password, no COPY.

    Args:
        licence: ``timescale`` or ``apache``.
    """

    def __init__(self, licence: str) -> None:
        node = shutil.which("node")
        if not (MODULES and node) and not os.environ.get("CI"):
            pytest.skip("TIERCEL_TEST_PGLITE names no directory with node_modules, or there is no node")
        assert node is not None
        assert MODULES, "TIERCEL_TEST_PGLITE names no directory with node_modules"
        self._is_used = False
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
        """Send a command of timescale.cjs, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        assert self._line() == name

    def stop(self) -> None:
        """Stop the process."""
        self._process.communicate()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Restore the template; yield the connection string."""
        assert not self._is_used, (
            "there is one database at a time: a test has either a separate service or the shared one"
        )
        self.command("restore_template")
        self._is_used = True
        try:
            yield self.url
        finally:
            self._is_used = False

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def _in_node(name: str, licence: str) -> Iterator[TestedEngine]:
    node = NodeTimescale(licence)
    try:
        migrate(node.url)
        node.command("save_template")
        yield TestedEngine(name, node.database, one_session=True)
    finally:
        node.stop()


@pytest.fixture(scope="session")
def embedded_engine(server: EmbeddedServer, template: str) -> TestedEngine:
    """The embedded server of this run."""
    return TestedEngine("postgresql", _cloned(server.conninfo, template), tries_all=True)


@pytest.fixture(scope="session")
def oldest_engine() -> Iterator[TestedEngine]:
    """The oldest supported PostgreSQL."""
    with oldest_postgresql() as url:
        template = f"tiercel_template_{os.getpid()}"
        migrate(create_database(url, template))
        yield TestedEngine("postgresql", _cloned(url, template))
        drop_database(url, template)


@pytest.fixture(scope="session")
def pgbouncer_engine(server: EmbeddedServer, template: str) -> Iterator[TestedEngine]:
    """PgBouncer before the embedded server; what tests do themselves, they do past it."""
    with pgbouncer(server.conninfo) as url:
        pooler = {name: conninfo_to_dict(url)[name] for name in ("host", "port")}
        yield TestedEngine("postgresql", _cloned(server.conninfo, template), pooler=pooler)


@pytest.fixture(scope="session")
def timescale_engine() -> Iterator[TestedEngine]:
    """TimescaleDB in Node, under the community licence."""
    with _in_node("timescaledb", "timescale") as engine:
        yield engine


@pytest.fixture(scope="session")
def apache_engine() -> Iterator[TestedEngine]:
    """TimescaleDB in Node, under the Apache licence."""
    with _in_node("timescaledb-apache", "apache") as engine:
        yield engine


@pytest.fixture(scope="session")
def timescale_server_engine() -> Iterator[TestedEngine]:
    """The TimescaleDB at ``TIERCEL_TEST_TIMESCALE_URL``, used by a role that owns its databases and nothing else."""
    assert TIMESCALE_URL
    with _ordinary_role(TIMESCALE_URL) as owner:
        make_database = _migrated(TIMESCALE_URL, owner)
        with make_database() as url, psycopg.connect(url) as connection:
            name = detect_engine(connection, embedded=False).name
        assert name.startswith("timescaledb"), "the server at TIERCEL_TEST_TIMESCALE_URL has no TimescaleDB"
        yield TestedEngine(name, make_database, superuser_url=TIMESCALE_URL)


# A Node takes long to start: all tests of one run in the same worker of xdist.
_IN_NODE = [
    pytest.param("timescale_engine", marks=pytest.mark.xdist_group("timescale")),
    pytest.param("apache_engine", marks=pytest.mark.xdist_group("timescale_apache")),
]
_NAMED = ["timescale_server_engine"] if TIMESCALE_URL else []
_SERVERS = ["embedded_engine", "oldest_engine", "pgbouncer_engine", *_NAMED]
DEFAULT_ENGINES = _SERVERS[:1]
# For tests that need neither COPY nor two sessions, and for those that need one of them.
every_engine = pytest.mark.engines(*_SERVERS, *_IN_NODE)
every_server = pytest.mark.engines(*_SERVERS)
# For tests of native partitions.
partitioned_server = pytest.mark.engines("embedded_engine", "oldest_engine")
# For tests of continuous aggregates and compression.
community_licence = pytest.mark.engines(*_NAMED, *_IN_NODE[:1])
# For tests of what is refused before the database is asked.
one_engine = pytest.mark.engines(*DEFAULT_ENGINES)

# Every test on every engine that it is marked with, as `make engines` has it.
RUNS_ALL_ENGINES = os.environ.get("TIERCEL_TEST_ENGINES") == "all"
_ENGINES_MAX = 2


def choose_engines(test: str, engines: Sequence[Any]) -> Sequence[Any]:
    """Return the engines that a test runs on: of many the first, a server that is named, and one of the others.

    Which one depends on the name of the test alone, so that it is always the same and each engine has its share.
    """
    if RUNS_ALL_ENGINES or len(engines) <= _ENGINES_MAX:
        return engines
    others = [each for each in engines[1:] if each != "timescale_server_engine"]
    named = [each for each in engines[1:] if each == "timescale_server_engine"]
    return [engines[0], *named, others[zlib.crc32(test.encode()) % len(others)]]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> TestedEngine:
    """Each engine that the test is marked with, in turn; the embedded server without a mark."""
    found: TestedEngine = request.getfixturevalue(request.param)
    return found


def require_community_licence(engine: TestedEngine) -> None:
    """Skip the test if the server that was named has the other licence."""
    if engine.name != "timescaledb":
        pytest.skip("the server at TIERCEL_TEST_TIMESCALE_URL has the Apache licence")


@contextmanager
def serving_on(engine: TestedEngine, before: LiteralString | None = None) -> Iterator[Client]:
    """Run a service on a new database of an engine.

    Args:
        engine: The engine.
        before: A statement to run before the service starts; with ``one_session``, in the session of the service.
    """
    with engine.database() as url:
        if before is not None:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(before)
        configuration = make_configuration(
            db=engine.settings(url),
            log={"level": "error", "requests": False},
            observability={"log_own_requests": False},
        )
        with running(configuration) as started:
            yield started


def run_statement(client: Client, statement: LiteralString) -> list[Any]:
    """Run a statement on the database of a service; return its rows, none if it has no result."""
    with client.service.shared.db.connection() as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description is not None else []
