"""Each kind of failure of the database is named, at once and without secrets; the pool works again afterwards."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kernel import Database, UnavailableError
from kernel.config import load
from kernel.db.failures import FAILURES, UNREACHABLE, identify_connecting
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError, ConfigError
from kernel.settings import DatabaseSettings
from tests.conftest import FAST
from tests.contract.tree import ROOT
from tests.kernel.fakes import CapturedLog
from tests.processes import eventually, free_port, postmaster

pytestmark = pytest.mark.slow

SECRET = "secret-word"
# An address of this machine for this process alone, so that the server can have its usual port.
HOST = f"127.{os.getpid() >> 16 & 127 | 64}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
SETTINGS = DatabaseSettings(pool_timeout_s=20.0, connect_timeout_s=1)
SET_UP = """
ALTER ROLE tiercel PASSWORD 'secret-word';
CREATE ROLE nologin_role NOLOGIN PASSWORD 'secret-word';
CREATE ROLE limited_role LOGIN PASSWORD 'secret-word' CONNECTION LIMIT 0;
CREATE DATABASE private_database;
REVOKE CONNECT ON DATABASE private_database FROM PUBLIC;
CREATE DATABASE closed_database ALLOW_CONNECTIONS false
"""


@pytest.fixture(scope="module")
def tcp_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tcp")


@pytest.fixture(scope="module")
def tcp_server(tcp_home: Path) -> Iterator[EmbeddedServer]:
    """A server on TCP that demands passwords, and that a test may stop; it runs again afterwards."""
    with EmbeddedServer(tcp_home, options={**FAST, "listen_addresses": HOST}) as server:
        rules = "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n"
        (tcp_home / "postgres" / "pg_hba.conf").write_text(rules)
        with as_superuser(server) as connection:
            for statement in SET_UP.split(";"):
                connection.execute(statement.encode())
            connection.execute("SELECT pg_reload_conf()")
        yield server


def as_superuser(server: EmbeddedServer) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(make_conninfo(server.conninfo, user="postgres", dbname="postgres"), autocommit=True)


def url(user: str = "tiercel", password: str = SECRET, dbname: str = "tiercel", host: str = HOST) -> str:
    return f"postgresql://{user}:{password}@{host}/{dbname}"


@contextmanager
def opened(conninfo: str, log: CapturedLog | None = None) -> Iterator[Database]:
    with closing(Database(SETTINGS, conninfo, embedded=False, log=None if log is None else log.log)) as database:
        database.open()
        yield database


def failure_of(database: Database) -> UnavailableError:
    """Return the error of a request that needs a connection."""
    with pytest.raises(UnavailableError) as caught:
        database.ping()
    return caught.value


def code_of(database: Database) -> str | None:
    """Return the code of the error of a request that needs a connection; None if there is none."""
    try:
        database.ping()
    except UnavailableError as ex:
        return ex.code
    return None


def succeeds_soon(database: Database) -> bool:
    """Tell whether requests succeed once the latest failure is older than it is reused for, a tenth of a second."""
    return eventually(lambda: code_of(database) is None, timeout_s=5)


def code_of_new_pool() -> str | None:
    with opened(url()) as database:
        return code_of(database)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of something that listens and never answers."""
    with socket.create_server((HOST, 0)) as listener:
        yield f"{HOST}:{listener.getsockname()[1]}"


REFUSALS = {
    "nobody_listens": (url(host=f"127.0.0.1:{free_port()}"), "database_refused"),
    "no_socket": (f"postgresql://tiercel:{SECRET}@/tiercel?host=/nonexistent", "database_refused"),
    "no_host": (url(host="no-such-host.invalid"), "database_unknown_host"),
    "wrong_password": (url(password="wrong-word"), "database_authentication"),
    "no_password": (f"postgresql://tiercel@{HOST}/tiercel", "database_authentication"),
    "no_role": (url(user="no_such_role"), "database_authentication"),
    "no_login": (url(user="nologin_role"), "database_authentication"),
    "no_database": (url(dbname="no_such_database"), "database_missing"),
    "no_privilege": (url(dbname="private_database"), "database_permission"),
    "closed": (url(dbname="closed_database"), "database_starting"),
    "too_many": (url(user="limited_role"), "database_connections"),
}
LASTING = ("wrong_password", "no_database", "no_privilege")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_refuses_is_named_at_once(
    tcp_server: EmbeddedServer, captured: CapturedLog, refusal: str
) -> None:
    conninfo, code = REFUSALS[refusal]
    with opened(conninfo, captured) as database:
        started = time.monotonic()
        failures = [failure_of(database) for _ in range(3)]
        took_s = time.monotonic() - started

    assert took_s < SETTINGS.pool_timeout_s / 2
    assert {failure.code for failure in failures} == {code}
    assert {failure.status for failure in failures} == {503}
    (logged,) = captured.events("database_unavailable")
    assert logged["code"] == code
    assert "-word" not in f"{logged} {[(each.detail, each.message) for each in failures]}"


def test_a_server_that_never_answers_is_named_and_holds_up_only_the_first_request(black_hole: str) -> None:
    with opened(url(host=black_hole)) as database:
        assert failure_of(database).code == "database_timeout"

        for _ in range(2):
            started = time.monotonic()
            assert failure_of(database).code == "database_timeout"
            assert time.monotonic() - started < SETTINGS.pool_timeout_s / 4


def test_a_server_that_shuts_down_is_named_and_requests_succeed_after_its_start(
    tcp_home: Path, tcp_server: EmbeddedServer, captured: CapturedLog
) -> None:
    running = postmaster(tcp_home)
    assert running is not None
    with as_superuser(tcp_server):
        # SIGTERM is a smart shutdown, which waits for this session.
        running.send_signal(signal.SIGTERM)
        assert eventually(lambda: code_of_new_pool() == "database_starting")
    assert eventually(lambda: postmaster(tcp_home) is None)
    with opened(url(), captured) as database:
        assert code_of(database) == "database_refused"

        assert tcp_server.restart_if_dead()
        assert succeeds_soon(database)

    assert len(captured.events("database_available")) == 1


def test_an_outage_that_breaks_every_connection_of_the_pool_is_named_at_once(
    tcp_home: Path, tcp_server: EmbeddedServer
) -> None:
    running = postmaster(tcp_home)
    assert running is not None
    with opened(url()) as database:
        with ExitStack() as stack:
            for _ in range(SETTINGS.pool_max):
                stack.enter_context(database.connection())
        running.send_signal(signal.SIGINT)
        assert eventually(lambda: postmaster(tcp_home) is None)

        started = time.monotonic()
        assert failure_of(database).code == "database_refused"
        assert time.monotonic() - started < SETTINGS.pool_timeout_s / 2

        assert tcp_server.restart_if_dead()
        assert succeeds_soon(database)


def test_connections_in_use_are_waited_for_although_no_further_one_can_be_made(tcp_server: EmbeddedServer) -> None:
    with as_superuser(tcp_server) as connection:
        connection.execute("ALTER ROLE limited_role CONNECTION LIMIT 1")
    with opened(url(user="limited_role")) as database:
        in_use = ExitStack()
        in_use.enter_context(database.connection())
        release = threading.Timer(0.5, in_use.close)
        release.start()

        database.ping()

        release.join()
    with as_superuser(tcp_server) as connection:
        connection.execute("ALTER ROLE limited_role CONNECTION LIMIT 0")


@pytest.mark.parametrize("refusal", LASTING)
def test_a_start_does_not_wait_for_what_does_not_pass(tcp_server: EmbeddedServer, refusal: str) -> None:
    conninfo, _ = REFUSALS[refusal]
    started = time.monotonic()

    with pytest.raises(BootError, match="the database cannot be reached: ") as caught:
        Database(SETTINGS, conninfo, embedded=False).wait_for_server(30)

    assert time.monotonic() - started < 10
    assert "-word" not in str(caught.value)


def test_a_start_says_what_it_waits_for(captured: CapturedLog) -> None:
    conninfo = url(host=f"127.0.0.1:{free_port()}")

    with pytest.raises(BootError, match=r"no database server listens at the configured address .*Connection refused"):
        Database(SETTINGS, conninfo, embedded=False, log=captured.log).wait_for_server(0.5)

    assert [each["code"] for each in captured.events("database_unavailable")] == ["database_refused"]


def test_a_server_in_another_language_is_at_least_unreachable() -> None:
    german = "connection failed: FATAL:  Passwort-Authentifizierung für Benutzer »tiercel« fehlgeschlagen"

    assert identify_connecting(psycopg.OperationalError(german)) is UNREACHABLE


def test_each_failure_has_an_entry_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "operations" / "troubleshooting.md").read_text()

    assert [kind.code for kind in FAILURES if f"| `{kind.detail}`" not in page] == []


@pytest.mark.parametrize("password", ["pass@word", "pass/word", "pass:word@x"])
def test_a_password_that_ends_too_early_is_not_shown(password: str) -> None:
    with pytest.raises(ConfigError, match="%40") as caught:
        load({"TIERCEL_DATABASE_URL": url(password=password)})

    assert "word@" not in str(caught.value)
    assert "pass" not in str(caught.value).replace("the password", "")
