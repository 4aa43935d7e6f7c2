"""The connection pool of a process, transactions, and how failures of the database become 503 answers."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import Connection
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from kernel.db.engine import MIN_VERSION_NUMBER, Engine, detect_engine
from kernel.db.queries import load_queries
from kernel.errors import BootError, UnavailableError
from kernel.settings import DatabaseSettings

Row = tuple[Any, ...]
T = TypeVar("T")
QUERIES = load_queries(__package__)

# How long the client waits for an answer after the statement timeout, at which the server should have given up.
_ANSWER_GRACE_S = 2.0
_CLOSE_TIMEOUT_S = 5.0
_RECONNECT_TIMEOUT_S = 10.0
_STARTUP_POLL_S = 0.2

# SQLSTATEs after which a retry can succeed: classes for connection, resources, operator intervention and system
# errors; read-only transaction, idle-in-transaction timeout, serialization failure, deadlock, lock timeout.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = ("08", "53", "57", "58", "25006", "25P03", "40001", "40P01", "55P03")


class Database:
    """The connection pool of one process. Open it after the fork, never at import.

    Args:
        settings: Pool sizes and time limits.
        conninfo: Connection string of the server.
        embedded: Whether Tiercel started that server itself.
    """

    def __init__(self, settings: DatabaseSettings, conninfo: str, *, embedded: bool) -> None:
        self._settings = settings
        self._embedded = embedded
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self.conninfo = make_conninfo(conninfo, application_name="tiercel", connect_timeout=settings.connect_timeout_s)
        self._pool: _LiveConnectionPool | None = None

    def open(self) -> None:
        """Start the pool without waiting for the server: each request waits for it, up to the pool's timeout."""
        settings = self._settings
        self._pool = _LiveConnectionPool(
            self.conninfo,
            connection_class=_TimeLimitedConnection,
            kwargs={"autocommit": True},
            min_size=settings.pool_min,
            max_size=max(settings.pool_max, settings.pool_min),
            max_waiting=settings.pool_waiting_max,
            timeout=settings.pool_timeout_s,
            reconnect_timeout=_RECONNECT_TIMEOUT_S,
            configure=self._configure_session,
            name="tiercel",
            open=False,
        )
        self._pool.open()

    def close(self) -> None:
        """Close the pool. Connections in use are closed when they are returned."""
        if self._pool is not None:
            self._pool.close(timeout=_CLOSE_TIMEOUT_S)
            self._pool = None

    @contextmanager
    def connection(self, timeout_s: float | None = None) -> Iterator[Connection[Row]]:
        """Borrow a connection in autocommit mode.

        Args:
            timeout_s: Replaces the configured statement timeout, and the limit on idle time in a transaction, while
                the connection is borrowed. For work outside requests.

        Raises:
            UnavailableError: No connection became free in time, the server is gone, read-only or out of resources,
                or a statement exceeded its timeout.
        """
        with raise_unavailable():
            if self._pool is None:
                raise PoolClosed("the pool is not open")
            with self._pool.connection() as connection:
                if timeout_s is None:
                    yield connection
                    return
                self._set_session_timeouts(connection, timeout_s)
                try:
                    with _answer_timeout(connection, timeout_s):
                        yield connection
                finally:
                    if not connection.closed:
                        self._set_session_timeouts(connection, self._settings.statement_timeout_s)

    @contextmanager
    def transaction(
        self,
        timeout_s: float | None = None,
        *,
        repeatable_read: bool = False,
        begin_with: LiteralString = "",
    ) -> Iterator[Connection[Row]]:
        """Borrow a connection for one transaction: committed at the end, rolled back by an exception.

        Args:
            timeout_s: As for ``connection``, for this transaction.
            repeatable_read: Use isolation level REPEATABLE READ, so that all statements see one snapshot of the
                database; READ COMMITTED by default.
            begin_with: Statements without parameters, sent in one round trip with the BEGIN of a REPEATABLE READ
                transaction.

        Raises:
            UnavailableError: As for ``connection``.
            ValueError: ``begin_with`` is given without ``repeatable_read``.
        """
        if begin_with and not repeatable_read:
            raise ValueError("begin_with requires repeatable_read")
        with (
            self.connection() as connection,
            _answer_timeout(connection, timeout_s),
            _repeatable_read(connection, begin_with) if repeatable_read else connection.transaction(),
        ):
            if timeout_s is not None:
                connection.execute(QUERIES["set_transaction_timeouts"], {"timeout_ms": _milliseconds(timeout_s)})
            yield connection

    @property
    def engine(self) -> Engine:
        """The server and its capabilities, detected once per process.

        Raises:
            UnavailableError: The server does not answer at the moment.
        """
        with self._engine_lock:
            if self._engine is None:
                with self.connection() as connection:
                    self._engine = detect_engine(connection, embedded=self._embedded)
            return self._engine

    def wait_for_server(self, timeout_s: float) -> Engine:
        """Wait until the server accepts a connection, and check its version. Does not need the pool.

        Raises:
            BootError: The server accepted no connection in time, rejects the credentials, or is too old.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with psycopg.connect(self.conninfo, autocommit=True) as connection:
                    engine = detect_engine(connection, embedded=self._embedded)
            except psycopg.OperationalError as ex:
                if time.monotonic() >= deadline:
                    raise BootError(f"the database cannot be reached: {str(ex).strip()}") from ex
                time.sleep(_STARTUP_POLL_S)
                continue
            if engine.version_number < MIN_VERSION_NUMBER:
                raise BootError(f"PostgreSQL {engine.version} is too old; 15 is the oldest that works")
            return engine

    def is_read_only(self) -> bool:
        """Tell whether the server rejects writes: it is a standby, or was switched to read-only.

        Raises:
            UnavailableError: As for ``connection``.
        """
        with self.connection() as connection:
            row = connection.execute(QUERIES["show_read_only"]).fetchone()
        return row is not None and row[0] == "on"

    def ping(self) -> None:
        """Make one round trip to the server.

        Raises:
            UnavailableError: As for ``connection``.
        """
        with self.connection() as connection:
            connection.execute(QUERIES["ping"])

    def stats(self) -> dict[str, int]:
        """Return the statistics of psycopg_pool, times in ms; empty while the pool is closed."""
        return dict(self._pool.get_stats()) if self._pool is not None else {}

    def _configure_session(self, connection: Connection[Row]) -> None:
        if isinstance(connection, _TimeLimitedConnection):
            connection.answer_timeout_s = self._settings.statement_timeout_s + _ANSWER_GRACE_S
        connection.execute(QUERIES["configure_session"])
        self._set_session_timeouts(connection, self._settings.statement_timeout_s)

    def _set_session_timeouts(self, connection: Connection[Row], timeout_s: float) -> None:
        connection.execute(QUERIES["set_session_timeouts"], {"timeout_ms": _milliseconds(timeout_s)})


class _TimeLimitedConnection(Connection[Row]):
    """A connection that stops waiting for a server that does not answer at all.

    The server enforces the statement timeout. A frozen one, or one behind a network that drops packets, enforces
    nothing; and TCP's own limits do not help while its kernel still acknowledges, or on a Unix socket.
    """

    answer_timeout_s: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as ex:
            # The statement may or may not have been executed, so the connection must not be used again.
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from ex


class _LiveConnectionPool(ConnectionPool[Connection[Row]]):
    """A pool that hands out only live connections, the most recently used first.

    psycopg_pool has a check of its own, but waits one second after the first connection that fails it, then two, then
    four: after a restart of the server, a pool full of dead connections would be out of service for longer than
    requests wait.

    By default it hands out the connection that was idle for longest, whose server process is least likely to be in the
    processor's caches.
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
        # The base class takes the leftmost; connections are returned at the right.
        self._pool.rotate(1)
        return super()._get_ready_connection(timeout)


def _is_alive(connection: Connection[Row]) -> bool:
    # An idle connection has nothing to read unless the server closed it. Polling the socket takes microseconds, a
    # round trip twenty times as long.
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if not poller.poll(0):
        return True
    try:
        ConnectionPool.check_connection(connection)
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _answer_timeout(connection: Connection[Row], timeout_s: float | None) -> Iterator[None]:
    """Wait for answers as long as a statement timeout needs; None leaves the limit as it is."""
    if timeout_s is None or not isinstance(connection, _TimeLimitedConnection):
        yield
        return
    previous_s, connection.answer_timeout_s = connection.answer_timeout_s, timeout_s + _ANSWER_GRACE_S
    try:
        yield
    finally:
        connection.answer_timeout_s = previous_s


@contextmanager
def _repeatable_read(connection: Connection[Row], begin_with: LiteralString) -> Iterator[None]:
    begin = QUERIES["begin_repeatable_read"]
    try:
        # One message, so one round trip. Several statements in one message cannot be prepared.
        connection.execute(f"{begin};\n{begin_with}", prepare=False)
        yield
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    connection.commit()


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


@contextmanager
def raise_unavailable() -> Iterator[None]:
    """Raise ``UnavailableError``, which answers 503, in place of transient failures of the database."""
    try:
        yield
    except psycopg.Error as ex:
        unavailable = _as_unavailable(ex)
        if unavailable is None:
            raise
        raise unavailable from ex


def _as_unavailable(error: psycopg.Error) -> UnavailableError | None:
    """Return what a client is told about a failure of the database; None for an error in our own statement."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return UnavailableError("every database connection is busy", retry_after_s=2)
    if isinstance(error, PoolClosed):
        return UnavailableError("the service is stopping", retry_after_s=5)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return UnavailableError("the database did not answer within the statement timeout", retry_after_s=5)
    if _is_transient(error):
        return UnavailableError(f"the database is unavailable ({error.sqlstate or 'no answer'})", retry_after_s=2)
    return None


def _is_transient(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        # No answer from a server: the connection broke.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_TRANSIENT)
