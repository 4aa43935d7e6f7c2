"""Behind PgBouncer in transaction mode: nothing of one client is left for the next in a session of the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import kernel.notifications
from kernel import Database, Identity, UnavailableError
from kernel.app import Tiercel
from kernel.db.migrations import find_migrations, migrate
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.identity import ALL_SCOPES, acting_as
from kernel.notifications import NotificationListener, notify
from kernel.settings import DatabaseSettings
from kernel.testing import make_configuration
from tests.commands import make_runner
from tests.kernel.fakes import CapturedLog
from tests.pgbouncer import NOTHING, SESSIONS, left_in_sessions, pgbouncer
from tests.processes import eventually, python_environment

SHOW = "SELECT current_setting('tiercel.account', true), current_setting('tiercel.sites', true), "
SHOW += "current_setting('statement_timeout'), current_setting('TimeZone')"
LOCK = "a lock"
HOLD_LOCK = """
import sys, time
from kernel import Database
from kernel.settings import DatabaseSettings
db = Database(DatabaseSettings(), sys.argv[1], embedded=False)
db.open()
with db.try_lock(sys.argv[2], 60) as connection:
    print(connection is not None, flush=True)
    # The test ends this process.
    time.sleep(60)
"""
END_LOCK = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_locks
WHERE locktype = 'advisory' AND objid::bigint = hashtext(%s)::bigint & 4294967295
"""


@pytest.fixture(scope="module")
def through_pooler(server: EmbeddedServer) -> Iterator[Callable[[str], str]]:
    """Return the connection string of a database through PgBouncer."""
    with pgbouncer(server.conninfo) as url:
        parts = conninfo_to_dict(url)
        yield lambda database: make_conninfo(database, host=parts["host"], port=parts["port"])


@pytest.fixture
def pooled(through_pooler: Callable[[str], str], database: str) -> str:
    """The connection string of the test's database through PgBouncer."""
    return through_pooler(database)


@pytest.fixture
def db(pooled: str) -> Iterator[Database]:
    """A pool with more connections than the pooler has sessions."""
    db = Database(DatabaseSettings(pool_max=2 * SESSIONS), pooled, embedded=False)
    db.open()
    with closing(db):
        yield db


def identity(account: int) -> Identity:
    """Return an identity that sees one site of its account."""
    return Identity(scheme="job", name="test", account=account, scopes=ALL_SCOPES, sites=(account * 10,))


def test_every_statement_has_the_scope_and_the_limits_of_its_client(db: Database, pooled: str) -> None:
    assert db.engine.pooled

    def single(account: int | None, timeout_s: float | None) -> object:
        with db.connection(timeout_s) as connection:
            return connection.execute(SHOW).fetchone()

    def in_transaction(account: int | None, timeout_s: float | None) -> object:
        with db.transaction(timeout_s) as connection, connection.transaction():
            return connection.execute(SHOW).fetchone()

    def in_snapshot(account: int | None, timeout_s: float | None) -> object:
        with db.transaction(timeout_s, repeatable_read=True, begin_with="LOCK TABLE tiercel.job_run") as connection:
            return connection.execute(SHOW).fetchone()

    def set_isolation(account: int | None, timeout_s: float | None) -> object:
        with db.connection(timeout_s) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return connection.execute(SHOW).fetchone()

    def stream(account: int | None, timeout_s: float | None) -> object:
        with db.transaction(timeout_s) as connection, connection.cursor(name="test") as cursor:
            return cursor.execute(SHOW).fetchone()

    def run(number: int) -> None:
        ways = cycle([single, in_transaction, in_snapshot, set_isolation, stream])
        for turn, way in enumerate(islice(ways, number, number + 25)):
            account, timeout_s = (None, 1, 2)[(number + turn) % 3], (None, 7.0)[turn % 2]
            with acting_as(None if account is None else identity(account)):
                scope = ("", "") if account is None else (str(account), f"{{{account * 10}}}")
                assert way(account, timeout_s) == (*scope, "20s" if timeout_s is None else "7s", "UTC"), way

    with ThreadPoolExecutor(3 * SESSIONS) as executor:
        list(executor.map(run, range(3 * SESSIONS)))

    db.close()
    assert left_in_sessions(pooled) == [NOTHING] * SESSIONS


def test_a_statement_that_fails_leaves_the_connection_usable(db: Database) -> None:
    with db.connection() as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT FROM nowhere")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(UnavailableError) as refused, db.connection(0.1) as limited:
            limited.execute("SELECT pg_sleep(20)")
        assert refused.value.code == "statement_timeout"
        connection.cursor().executemany("SELECT set_config('a.b', %s, true)", [["1"], ["2"]])
        with connection.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert list(copy.rows()) == [("1",)]


def test_one_client_has_a_lock_until_it_is_done_or_killed(db: Database, pooled: str) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, pooled, LOCK]
    with subprocess.Popen(command, env=python_environment(), stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            with db.try_lock(LOCK, 60) as connection:
                assert connection is None
        finally:
            other.kill()

    def is_free() -> bool:
        with db.try_lock(LOCK, 60) as connection:
            return connection is not None

    assert eventually(is_free)
    # More often than there are sessions: none of them has kept it.
    assert all(is_free() for _ in range(3 * SESSIONS))


def test_nothing_is_committed_once_the_lock_is_lost(db: Database, database: str) -> None:
    def work() -> None:
        with db.try_lock(LOCK, 60) as connection:
            assert connection is not None
            with connection.transaction():
                connection.execute("CREATE TABLE written ()")
                assert direct.execute(END_LOCK, [LOCK]).fetchone() == (True,)

    with psycopg.connect(database, autocommit=True) as direct:
        # As the pooler has it: the session of the server has ended.
        with pytest.raises(UnavailableError):
            work()
        assert direct.execute("SELECT to_regclass('written')").fetchone() == (None,)


def test_one_process_at_a_time_migrates(
    through_pooler: Callable[[str], str], empty_database: str, tmp_path: Path
) -> None:
    pooled = through_pooler(empty_database)
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE a (n integer); SELECT pg_sleep(0.5)")
    (tmp_path / "0002_index.sql").write_text("-- transactional: false\nCREATE INDEX CONCURRENTLY a_n ON a (n);")
    migrations = find_migrations("test", tmp_path)

    with ThreadPoolExecutor(SESSIONS) as executor:
        # Each has the connection that migrates and that with the lock.
        applied = list(executor.map(lambda _: migrate(pooled, migrations), range(SESSIONS - 1)))

    assert sorted(map(len, applied)) == [*[0] * (SESSIONS - 2), 2]
    assert migrate(pooled, migrations) == ()
    assert left_in_sessions(pooled) == [NOTHING] * SESSIONS


def test_changes_of_others_are_polled_for_or_heard_directly(
    pooled: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel.notifications, "UNHEARD_POLL_S", 0.1)
    received: dict[str, list[object]] = {pooled: [], database: []}
    polled = {pooled: 0, database: 0}
    listeners = []
    for url in (pooled, database):
        listener = NotificationListener(url, name="test", poll_interval_s=60, log=CapturedLog().log)

        def count(url: str = url) -> None:
            polled[url] += 1

        listener.subscribe("a", received[url].extend, poll=count)
        listener.start()
        listeners.append(listener)
    try:
        assert eventually(lambda: polled[pooled] > 3 and listeners[1].is_listening)
        with psycopg.connect(pooled) as connection:
            notify(connection, "a", "heard")
        assert eventually(lambda: received[database] == ["heard"])
        assert received[pooled] == []
        assert [each.check() for each in listeners] == ["polling every 0.1 s: db.direct_url is not set", "listening"]
    finally:
        for each in listeners:
            each.stop()
    assert polled[database] == 1


def test_the_direct_address_must_lead_to_the_same_database_past_the_pooler(
    pooled: str, database: str, empty_database: str
) -> None:
    def start(direct: str) -> bool:
        db = Database(DatabaseSettings(), pooled, direct, embedded=False)
        db.wait_for_server(10)
        db.open()
        with closing(db):
            return db.is_direct()

    assert start(database)
    with pytest.raises(BootError, match=r"db\.direct_url and db\.url lead to different databases"):
        start(empty_database)
    with pytest.raises(BootError, match=r"db\.direct_url leads to a pooler as well"):
        start(pooled)
    with pytest.raises(BootError, match=r"db\.direct_url is set without db\.url"):
        Tiercel(make_configuration(db={"direct_url": database}))


def test_commands_say_what_does_not_work_through_the_pooler_alone(
    pooled: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiercel = make_runner(pooled, tmp_path, monkeypatch, capsys)
    select = ("db", "shell", "-c", "SELECT count(*) FROM event")

    checked, cleared, shell = tiercel("check"), tiercel("cache", "clear"), tiercel(*select)

    assert (checked.code, "[warning] pooler: " in checked.output) == (0, True)
    assert (cleared.code, "set db.direct_url" in cleared.errors) == (1, True)
    # psql prints past what captures the output of this process.
    assert shell.code == 1

    monkeypatch.setenv("TIERCEL_DATABASE_DIRECT_URL", database)
    assert "[warning] pooler" not in tiercel("check").output
    assert tiercel("cache", "clear").code == 0
    assert tiercel(*select).code == 0
