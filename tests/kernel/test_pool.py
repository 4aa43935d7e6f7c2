"""The pool while the database is busy, slow, restarted, down or read-only: 503 with ``Retry-After``; transactions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kernel import Database, Route, Services, UnavailableError
from kernel.embedded.server import EmbeddedServer
from kernel.settings import DatabaseSettings
from kernel.testing import Client, Result, create_database
from tests.conftest import FAST, Serve
from tests.kernel.fakes import CapturedLog, MakePlugin
from tests.plugins.observability.events import make_event
from tests.processes import eventually

pytestmark = pytest.mark.slow

LIST = "/api/requests/"
# Long enough to be told from an answer at once on a busy machine.
POOL_TIMEOUT_S = 20.0
# Until then, an attempt to connect that failed counts for further requests.
RETRY_S = 0.15


class SleepQuery(msgspec.Struct):
    seconds: float


def sleeping_routes(services: Services) -> Iterable[Route]:
    """Routes that sleep in the database, and that show the parameters of the session."""

    def sleep(query: SleepQuery) -> str:
        with services.db.connection() as connection:
            connection.execute("SELECT pg_sleep(%s)", [query.seconds])
        return "awake"

    def session() -> dict[str, str]:
        names = ("TimeZone", "statement_timeout", "idle_in_transaction_session_timeout", "application_name")
        with services.db.connection() as connection:
            rows = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        return {name: row[0] for name, row in zip(names, rows, strict=True) if row is not None}

    return [
        Route(path="/sleep/", handler=sleep, policy="public"),
        Route(path="/session/", handler=session, policy="public"),
    ]


@pytest.fixture
def sleeper(make_plugin: MakePlugin) -> str:
    return make_plugin("sleeper", register_routes=sleeping_routes)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that a test may stop; it runs again afterwards."""
    with EmbeddedServer(tmp_path_factory.mktemp("own"), options=FAST) as started:
        yield started


@pytest.fixture
def client(own_server: EmbeddedServer, serve: Serve) -> Client:
    """A service on the server that a test may stop."""
    url = create_database(own_server.conninfo, "stoppable")
    # Only requests use the database, so that nothing else reconnects to the stopped server.
    return serve(db={"url": url, "pool_timeout_s": POOL_TIMEOUT_S}, observability={"log_own_requests": False})


@pytest.fixture
def stopped(own_server: EmbeddedServer, client: Client) -> Iterator[Client]:
    """A service whose database server was stopped after a successful request."""
    assert client.get(LIST).status == 200
    own_server.release()
    # A moment after it is stopped, the server still has its socket.
    socket = Path(str(conninfo_to_dict(own_server.conninfo)["host"])) / ".s.PGSQL.5432"
    assert eventually(lambda: not socket.exists())
    # An attempt to connect may have met the server while it stopped, and counts for a moment.
    assert eventually(lambda: client.get(LIST).json()["code"] == "database_refused")
    yield client
    own_server.acquire()


def assert_unavailable(answer: Result, code: str) -> None:
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] == code
    assert answer.json()["detail"]


def test_an_exhausted_pool_answers_503_within_its_timeout(serve: Serve) -> None:
    client = serve(db={"pool_max": 1, "pool_timeout_s": 0.5})
    with client.service.shared.db.connection():
        started = time.monotonic()
        answer = client.get(LIST)
        took_s = time.monotonic() - started

    assert_unavailable(answer, "pool_exhausted")
    assert 0.4 < took_s < 2
    assert client.get(LIST).status == 200


def test_a_statement_beyond_its_timeout_answers_503_and_leaves_the_pool_usable(serve: Serve, sleeper: str) -> None:
    client = serve(plugins=["system", sleeper], db={"statement_timeout_s": 0.3, "pool_max": 1})

    assert_unavailable(client.get("/sleep/?seconds=30"), "statement_timeout")
    assert client.get("/sleep/?seconds=0.01").json() == "awake"


def test_every_session_is_in_utc_and_has_time_limits(serve: Serve, sleeper: str) -> None:
    client = serve(plugins=["system", sleeper], db={"statement_timeout_s": 7.5})

    assert client.get("/session/").json() == {
        "TimeZone": "UTC",
        "statement_timeout": "7500ms",
        "idle_in_transaction_session_timeout": "7500ms",
        "application_name": "tiercel",
    }


def test_requests_succeed_after_a_restart_of_the_server(own_server: EmbeddedServer, client: Client) -> None:
    database = client.service.shared.db
    created = client.post(LIST, make_event())
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(database.connection())
    own_server.release()
    own_server.acquire()

    for _ in range(5):
        answer = client.get(f"{LIST}{created.json()['id']}/")
        assert (answer.status, answer.json()) == (200, created.json())


def test_requests_answer_503_while_the_server_is_down(stopped: Client) -> None:
    started = time.monotonic()

    assert_unavailable(stopped.get(LIST), "database_refused")
    assert_unavailable(stopped.post(LIST, make_event()), "database_refused")
    assert time.monotonic() - started < POOL_TIMEOUT_S / 2


def test_the_service_is_alive_but_not_ready_while_the_server_is_down(stopped: Client) -> None:
    ready = stopped.get("/readyz")

    assert ready.status == 503
    assert [check["name"] for check in ready.json()["checks"] if check["status"] == "failed"] == ["database"]
    assert stopped.get("/livez").status == 200


def test_every_health_endpoint_says_what_requests_say_while_the_server_is_down(stopped: Client) -> None:
    detail = stopped.get(LIST).json()["detail"]

    checks = {check["name"]: check["detail"] for check in stopped.get("/readyz").json()["checks"]}
    assert (checks["database"], checks["writes"]) == (detail, detail)
    assert stopped.get("/health/").json()["database"] == detail
    assert stopped.get("/api/health/?db=1").json()["db"] == detail


def test_the_first_request_after_an_outage_succeeds(own_server: EmbeddedServer, stopped: Client) -> None:
    assert stopped.get(LIST).status == 503

    own_server.acquire()
    # The server may start faster than requests make another attempt.
    time.sleep(RETRY_S)
    try:
        assert stopped.post(LIST, make_event()).status == 201
        assert eventually(lambda: stopped.get("/readyz").status == 200, 20)
    finally:
        own_server.release()


def test_a_read_only_database_answers_reads_and_refuses_writes_with_503(serve: Serve, database: str) -> None:
    client = serve()
    created = client.post(LIST, make_event()).json()
    name = sql.Identifier(str(conninfo_to_dict(database)["dbname"]))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
        )

    assert_unavailable(client.post(LIST, make_event(service="other")), "database_read_only")
    assert client.get(f"{LIST}{created['id']}/").json() == created


@pytest.mark.parametrize("fails", [False, True])
def test_a_repeatable_read_transaction_is_committed_or_rolled_back_as_a_whole(database: str, fails: bool) -> None:
    with closing(Database(DatabaseSettings(pool_min=1, pool_max=1), database, embedded=False)) as db:
        db.open()
        statements = "CREATE TABLE one (n int); SET LOCAL work_mem = '5MB'"
        with suppress(LookupError), db.transaction(repeatable_read=True, begin_with=statements) as connection:
            connection.execute("INSERT INTO one VALUES (1)")
            inside = connection.execute("SHOW work_mem").fetchone()
            if fails:
                raise LookupError
        with db.connection() as connection:
            found = connection.execute("SELECT to_regclass('one') IS NULL").fetchone()
            after = connection.execute("SHOW work_mem").fetchone()

    assert found == (fails,)
    assert inside == ("5MB",) != after


def test_a_repeatable_read_transaction_that_cannot_begin_leaves_the_connection_usable(database: str) -> None:
    with closing(Database(DatabaseSettings(pool_min=1, pool_max=1), database, embedded=False)) as db:
        db.open()
        with (
            pytest.raises(psycopg.errors.UndefinedTable),
            db.transaction(repeatable_read=True, begin_with="LOCK TABLE none"),
        ):
            pytest.fail("began")
        with db.connection() as connection:
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_begin_with_requires_repeatable_read() -> None:
    db = Database(DatabaseSettings(), "", embedded=False)

    with pytest.raises(ValueError, match="begin_with requires repeatable_read"), db.transaction(begin_with="SELECT 1"):
        pytest.fail("began")


@pytest.mark.parametrize("fails", [False, True])
def test_the_isolation_level_applies_to_one_transaction_only(database: str, fails: bool) -> None:
    level = "SELECT current_setting('transaction_isolation')"

    with closing(Database(DatabaseSettings(pool_min=1, pool_max=1), database, embedded=False)) as db:
        db.open()
        with suppress(LookupError), db.transaction(repeatable_read=True) as connection:
            repeatable_read = connection.execute(level).fetchone()
            if fails:
                raise LookupError
        with db.transaction() as connection:
            usual = connection.execute(level).fetchone()

    assert (repeatable_read, usual) == (("repeatable read",), ("read committed",))


def processes(db: Database) -> set[int]:
    """Return the server processes of the two connections of a pool."""
    with db.connection() as one, db.connection() as other:
        return {one.info.backend_pid, other.info.backend_pid}


@pytest.mark.parametrize(
    ("sqlstate", "message", "code"),
    [
        ("42710", '"timescaledb" already loaded with a different version', "timescaledb_updated"),
        (
            "0A000",
            'extension "timescaledb" version mismatch: shared library version 2.28.0; SQL version 2.29.2',
            "timescaledb_updated",
        ),
        ("58P01", 'could not access file "timescaledb-2.29.2": No such file or directory', "timescaledb_library"),
        (
            "0A000",
            'functionality not supported under the current "apache" license. Learn more at https://tsdb.co/pdbir1r3',
            "timescaledb_license",
        ),
        (
            "0A000",
            'querying compressed data is not supported under the current "timescaledb.license"',
            "timescaledb_license",
        ),
        ("0A000", 'function "x" is not supported under the current "apache" license', "timescaledb_license"),
    ],
)
def test_a_failure_of_timescaledb_is_named_and_every_connection_is_replaced(
    database: str, captured: CapturedLog, sqlstate: str, message: str, code: str
) -> None:
    settings = DatabaseSettings(pool_min=2, pool_max=2)
    statement = f"DO $$BEGIN RAISE USING ERRCODE = '{sqlstate}', MESSAGE = '{message}'; END$$".encode()
    with closing(Database(settings, database, embedded=False, log=captured.log)) as db:
        db.open()
        before, engine = processes(db), db.engine
        for _ in ("first", "just now"):
            with pytest.raises(UnavailableError) as caught, db.connection() as connection:
                connection.execute(statement)
            assert caught.value.code == code

        assert not before & processes(db)
        assert db.engine is not engine

    assert [each["code"] for each in captured.events("database_connections_renewed")] == [code]


def test_an_error_in_a_statement_with_the_same_sqlstate_is_not_taken_for_one_of_timescaledb(database: str) -> None:
    with closing(Database(DatabaseSettings(pool_min=2, pool_max=2), database, embedded=False)) as db:
        db.open()
        before = processes(db)
        with pytest.raises(psycopg.errors.FeatureNotSupported), db.connection() as connection:
            connection.execute("DO $$BEGIN RAISE 'no such function' USING ERRCODE = '0A000'; END$$")

        assert processes(db) == before


def test_the_most_recently_used_connection_is_handed_out_first(database: str) -> None:
    with closing(Database(DatabaseSettings(), database, embedded=False)) as db:
        db.open()
        with db.connection() as last, db.connection() as first:
            assert first is not last

        for _ in range(3):
            with db.connection() as handed_out:
                assert handed_out is last


def test_short_queries_start_no_parallel_workers(database: str) -> None:
    with closing(Database(DatabaseSettings(), database, embedded=True)) as db:
        db.open()
        with db.transaction() as connection:
            connection.execute("CREATE TABLE public.number AS SELECT generate_series(1, 300_000) AS number")
            connection.execute("ANALYZE public.number")
            ours = connection.execute("EXPLAIN SELECT sum(number) FROM public.number").fetchall()
            connection.execute("SET LOCAL parallel_setup_cost TO DEFAULT")
            usual = connection.execute("EXPLAIN SELECT sum(number) FROM public.number").fetchall()

    assert ("Gather" in str(ours), "Gather" in str(usual)) == (False, True)
