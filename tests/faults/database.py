"""Faults of the embedded database of a service, as context managers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.processes import START_TIMEOUT_S, eventually, postmaster

Connected = psycopg.Connection[tuple[Any, ...]]


def connect(home: Path) -> Connected:
    """Connect to the embedded database of a home as its superuser, and wait for it if it is starting."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return _try_to_connect(home, "tiercel")
        except psycopg.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def _try_to_connect(home: Path, dbname: str) -> Connected:
    return psycopg.connect("", host=str(home / "run"), user="postgres", dbname=dbname, autocommit=True)


def _server(home: Path) -> psutil.Process:
    assert eventually(lambda: postmaster(home) is not None, START_TIMEOUT_S)
    server = postmaster(home)
    assert server is not None
    return server


def ask(home: Path, query: str) -> Any:
    """Return the first value of the first row."""
    with connect(home) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def end_server(home: Path, how: signal.Signals) -> psutil.Process:
    """Send a signal that ends the server, wait until it ended, and return its process."""
    server = _server(home)
    server.send_signal(how)
    assert eventually(lambda: postmaster(home) != server)
    return server


@contextmanager
def frozen(home: Path) -> Iterator[None]:
    """Suspend all processes of the server (SIGSTOP)."""
    server = _server(home)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def read_only(home: Path) -> Iterator[None]:
    """Reject writes, in open sessions as well."""
    _configure(home, "ALTER SYSTEM SET default_transaction_read_only = on", expected="on")
    try:
        yield
    finally:
        _configure(home, "ALTER SYSTEM RESET default_transaction_read_only", expected="off")


def _configure(home: Path, statement: str, expected: str) -> None:
    with connect(home) as connection:
        # ALTER SYSTEM does not run in a transaction, but is rejected in a read-only session.
        connection.execute(b"SET default_transaction_read_only = off")
        connection.execute(statement.encode())
        connection.execute(b"SELECT pg_reload_conf()")
    assert eventually(lambda: ask(home, "SHOW default_transaction_read_only") == expected)


@contextmanager
def locked(home: Path, table: str = "observability.event") -> Iterator[None]:
    """Hold an ACCESS EXCLUSIVE lock on a table."""
    with connect(home) as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@contextmanager
def no_connections_left(home: Path) -> Iterator[None]:
    """Use up the connections of the server, and end those of the service."""
    with ExitStack() as stack:
        admin = stack.enter_context(connect(home))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                stack.enter_context(_try_to_connect(home, "postgres"))
            except psycopg.OperationalError:
                if not end_sessions(admin):
                    break
        yield


def end_sessions(connection: Connected) -> int:
    """End the sessions of the service, and return their number."""
    query = b"SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity WHERE application_name = 'tiercel'"
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
