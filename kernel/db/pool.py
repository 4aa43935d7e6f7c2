"""Connections to the database: a pool of live ones, and transactions."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import Connection
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolClosed

from kernel.db.engine import OLDEST_POSTGRESQL, Engine, detect
from kernel.db.failures import translated
from kernel.db.queries import load_queries
from kernel.errors import BootError
from kernel.settings import DatabaseSettings

Row = tuple[Any, ...]
T = TypeVar("T")
QUERIES = load_queries(__package__)

# What a server gets beyond the statement timeout, at which it should have given up by itself.
_GRACE_S = 2.0


class _Connection(Connection[Row]):
    """Gives up on a server that does not answer at all.

    The server enforces the statement timeout. One that is frozen, or behind a network that swallows packets, enforces
    nothing; and TCP's own limits do not help while its kernel still acknowledges, or on a Unix socket.
    """

    answer_timeout_s: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as ex:
            # Nobody knows what the server made of it: such a connection must not be used again.
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from ex


@contextmanager
def _patient(connection: Connection[Row], timeout_s: float | None) -> Iterator[None]:
    if timeout_s is None or not isinstance(connection, _Connection):
        yield
        return
    usual_s, connection.answer_timeout_s = connection.answer_timeout_s, timeout_s + _GRACE_S
    try:
        yield
    finally:
        connection.answer_timeout_s = usual_s


@contextmanager
def _begun_at_one_moment(connection: Connection[Row], first: LiteralString) -> Iterator[None]:
    begin = QUERIES["begin_at_one_moment"]
    try:
        # In one message: one round trip for all. Several statements in one cannot be prepared.
        connection.execute(f"{begin};\n{first}", prepare=False)
        yield
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    connection.commit()


class _Pool(ConnectionPool[Connection[Row]]):
    """Hands out live connections only, and the one that came back last.

    psycopg_pool has a check of its own, but waits a second after each connection that fails it, then two, then four:
    after a restart of the server, a pool full of dead ones would be out of service for longer than requests wait.

    Left alone it hands out the one that has been idle for longest, whose server process has the least of what it needs
    in the caches of the processor.
    """

    def getconn(self, timeout: float | None = None) -> Connection[Row]:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            connection = super().getconn(deadline - time.monotonic())
            if _is_alive(connection):
                return connection
            connection.close()
            self.putconn(connection)

    def _get_ready_connection(self, timeout: float | None) -> Connection[Row] | None:
        # It takes the leftmost; those that come back stand at the right.
        self._pool.rotate(1)
        return super()._get_ready_connection(timeout)


def _is_alive(connection: Connection[Row]) -> bool:
    # An idle connection has nothing to read unless its server said good-bye; asking the kernel costs microseconds,
    # a round trip twenty times more.
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if not poller.poll(0):
        return True
    try:
        ConnectionPool.check_connection(connection)
    except psycopg.OperationalError:
        return False
    return True


class Database:
    """The pool of one process. Open it after the fork, never at import.

    Args:
        settings: Pool sizes and time limits.
        conninfo: Where the server is.
        embedded: Whether Tiercel started that server itself.
    """

    def __init__(self, settings: DatabaseSettings, conninfo: str, *, embedded: bool) -> None:
        self._settings = settings
        self._embedded = embedded
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self.conninfo = make_conninfo(conninfo, application_name="tiercel", connect_timeout=settings.connect_timeout_s)
        self._pool: _Pool | None = None

    def open(self) -> None:
        """Start the pool. Does not wait for the server: requests do, each up to the pool's timeout."""
        settings = self._settings
        self._pool = _Pool(
            self.conninfo,
            connection_class=_Connection,
            kwargs={"autocommit": True},
            min_size=settings.pool_min,
            max_size=max(settings.pool_max, settings.pool_min),
            max_waiting=settings.pool_waiting_max,
            timeout=settings.pool_timeout_s,
            reconnect_timeout=10,
            configure=self._configure,
            name="tiercel",
            open=False,
        )
        self._pool.open()

    def close(self) -> None:
        """Close the pool; what is borrowed is closed when it comes back."""
        if self._pool is not None:
            self._pool.close(timeout=5)
            self._pool = None

    @contextmanager
    def connection(self, timeout_s: float | None = None) -> Iterator[Connection[Row]]:
        """Borrow a connection in autocommit mode.

        Args:
            timeout_s: For work that is no request: a statement, or a pause in a transaction, may take this long
                instead of the statement timeout.

        Raises:
            UnavailableError: No connection came free in time, the server is gone, read-only or out of room,
                or a statement took longer than it may.
        """
        with translated():
            if self._pool is None:
                raise PoolClosed("the pool is not open")
            with self._pool.connection() as connection, self._longer(connection, timeout_s):
                yield connection

    @contextmanager
    def _longer(self, connection: Connection[Row], timeout_s: float | None) -> Iterator[None]:
        if timeout_s is None:
            yield
            return
        self._set_timeouts(connection, timeout_s)
        try:
            with _patient(connection, timeout_s):
                yield
        finally:
            if not connection.closed:
                self._set_timeouts(connection, self._settings.statement_timeout_s)

    @contextmanager
    def transaction(
        self, timeout_s: float | None = None, *, at_one_moment: bool = False, first: LiteralString = ""
    ) -> Iterator[Connection[Row]]:
        """Borrow a connection for one transaction: committed at the end, rolled back by an exception.

        Args:
            timeout_s: For work that is no request: a statement, or a pause between two, may take this long instead of
                the statement timeout.
            at_one_moment: Let all its statements see the database as it was at the first, not each as of its own start.
            first: Statements without parameters that such a transaction begins with, at no cost of their own.

        Raises:
            UnavailableError: As ``connection``.
            ValueError: ``first``, and not ``at_one_moment``.
        """
        if first and not at_one_moment:
            raise ValueError("first goes with at_one_moment only")
        begun = partial(_begun_at_one_moment, first=first) if at_one_moment else Connection.transaction
        with self.connection() as connection, _patient(connection, timeout_s), begun(connection):
            if timeout_s is not None:
                milliseconds = str(round(timeout_s * 1000))
                connection.execute(QUERIES["configure_transaction"], {"timeout_ms": milliseconds})
            yield connection

    @property
    def engine(self) -> Engine:
        """What the server can do; asked once.

        Raises:
            UnavailableError: The server cannot be asked at the moment.
        """
        with self._engine_lock:
            if self._engine is None:
                with self.connection() as connection:
                    self._engine = detect(connection, embedded=self._embedded)
            return self._engine

    def is_read_only(self) -> bool:
        """Tell whether the server refuses writes: a standby, or switched to read-only.

        Raises:
            UnavailableError: As ``connection``.
        """
        with self.connection() as connection:
            row = connection.execute(QUERIES["is_read_only"]).fetchone()
        return row is not None and row[0] == "on"

    def ping(self) -> None:
        """Make one round trip.

        Raises:
            UnavailableError: As ``connection``.
        """
        with self.connection() as connection:
            connection.execute(QUERIES["ping"])

    def stats(self) -> dict[str, int]:
        """Return psycopg_pool's figures; times are in ms. Empty while the pool is closed."""
        return dict(self._pool.get_stats()) if self._pool is not None else {}

    def _configure(self, connection: Connection[Row]) -> None:
        if isinstance(connection, _Connection):
            connection.answer_timeout_s = self._settings.statement_timeout_s + _GRACE_S
        connection.execute(QUERIES["configure_session"])
        self._set_timeouts(connection, self._settings.statement_timeout_s)

    def _set_timeouts(self, connection: Connection[Row], timeout_s: float) -> None:
        connection.execute(QUERIES["configure_timeouts"], {"timeout_ms": str(round(timeout_s * 1000))})


def wait_for_server(database: Database, timeout_s: float) -> Engine:
    """Wait until the server takes a connection, then check that it is new enough.

    Raises:
        BootError: It took none within the time, refuses our credentials, or is too old.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with psycopg.connect(database.conninfo, autocommit=True) as connection:
                engine = detect(connection, embedded=database._embedded)
        except psycopg.OperationalError as ex:
            if time.monotonic() >= deadline:
                raise BootError(f"the database cannot be reached: {str(ex).strip()}") from ex
            time.sleep(0.2)
            continue
        if engine.version_number < OLDEST_POSTGRESQL:
            raise BootError(f"PostgreSQL {engine.version} is too old; 15 is the oldest that works")
        return engine
