"""The connection pool of a process, transactions, and 503 in place of failures of the database."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, LiteralString, NamedTuple, Self, TypeVar

import psycopg
from psycopg import Connection, Copy, Cursor, ServerCursor, Transaction, sql
from psycopg.abc import Params, PQGen, Query
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from kernel.db.engine import MIN_VERSION_NUMBER, Engine, detect_engine, is_pooled
from kernel.db.failures import (
    NO_ANSWER,
    POOL_EXHAUSTED,
    STOPPING,
    Failure,
    as_unavailable,
    describe,
    identify,
    identify_connecting,
)
from kernel.db.queries import load_queries
from kernel.deadline import Deadline, current_deadline
from kernel.errors import BootError
from kernel.identity import Identity, current_identity
from kernel.logging import Logger
from kernel.settings import DatabaseSettings
from kernel.tracking import ResourceTracker, current_tracker

Row = tuple[Any, ...]
T = TypeVar("T")
# Of the rows of a cursor; some return others than tuples.
R = TypeVar("R")
# Called before a transaction commits, with its connection and what ``defer_until_commit`` collected, in order. What it
# raises rolls back. Returns what to call once the commit has succeeded, or None.
CommitHook = Callable[[Connection[Row], Sequence[Any]], Callable[[], None] | None]
QUERIES = load_queries(__package__)

# An account, and those of its sites that are visible; None for all of them.
_Scope = tuple[int | None, tuple[int, ...] | None]
_NOBODY = -1
# How long the client waits for an answer after the statement timeout, at which the server should have given up.
_ANSWER_GRACE_S = 2.0
# A request to cancel a statement goes to the server over a connection of its own.
_CANCEL_TIMEOUT_S = 2.0
_CLOSE_TIMEOUT_S = 5.0
_STARTUP_POLL_S = 0.2
# During an outage, a request waits for a connection no longer than this, and reuses a failure younger than that.
_OUTAGE_WAIT_S = 1.0
_OUTAGE_RETRY_S = 0.1
# The reason may last, and every request would have all connections made anew.
_RENEWAL_INTERVAL_S = 5.0


class DatabaseMeasures(NamedTuple):
    """What is measured of the database.

    Args:
        connections: To this database, of anybody.
        server_connections: To all databases of the server.
        server_connections_max: How many the server allows.
    """

    connections: int
    server_connections: int
    server_connections_max: int


class Database:
    """The connection pool of one process. Open it after the fork, never at import.

    Args:
        settings: Pool sizes and time limits.
        conninfo: Connection string of the server.
        direct: One that leads to the same database past a pooler, for what needs a session; None if ``conninfo`` does.
        embedded: Whether Tiercel started that server itself.
        log: Gets a line when an outage begins, and when it ends.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        conninfo: str,
        direct: str | None = None,
        *,
        embedded: bool,
        log: Logger | None = None,
    ) -> None:
        self._settings = settings
        self._embedded = embedded
        self._log = log
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        add = partial(make_conninfo, application_name="tiercel", connect_timeout=settings.connect_timeout_s)
        self.conninfo = add(conninfo)
        self.direct_conninfo = self.conninfo if direct is None else add(direct)
        self._has_direct = direct is not None
        self._pool: _LiveConnectionPool | None = None
        self._commit_hook: CommitHook | None = None

    def before_commit(self, hook: CommitHook) -> None:
        """Call a function before each transaction commits. Set it before ``open``; a second call replaces the first."""
        self._commit_hook = hook

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
            # Give up at once: the next request that needs a connection tries again.
            reconnect_timeout=0,
            configure=self._configure_session,
            name="tiercel",
            open=False,
            on_outage=self._log_outage,
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

        Do not leave anything in its session, such as settings, locks or prepared statements: behind a pooler, the next
        statement may run in another session.

        A statement that is running when the deadline of the request passes, or its client disconnects, is cancelled.
        In a request, it sees and writes rows of the request's account only; see ``kernel.identity.acting_as``.

        Args:
            timeout_s: Replaces the configured statement timeout, the limit on idle time in a transaction, and the
                deadline of the request, while the connection is borrowed. For work outside requests.

        Raises:
            UnavailableError: No connection became free in time, the server is gone, read-only or out of resources,
                or a statement exceeded its timeout.
            ClientGoneError: The client of the request has disconnected.
        """
        with self._borrow(timeout_s) as connection:
            yield connection

    @contextmanager
    def _borrow(self, timeout_s: float | None = None) -> Iterator[_TimeLimitedConnection]:
        with raise_unavailable():
            if self._pool is None:
                raise PoolClosed("the pool is not open")
            with self._pool.connection() as connection, self._renewal(self._pool, connection):
                connection.set_scope(current_identity())
                if timeout_s is None:
                    connection.deadline = current_deadline()
                    try:
                        yield connection
                    finally:
                        connection.deadline = None
                    return
                connection.set_timeouts(timeout_s)
                try:
                    with _answer_timeout(connection, timeout_s):
                        yield connection
                finally:
                    if not connection.closed:
                        connection.set_timeouts(self._settings.statement_timeout_s)

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
            self._borrow() as connection,
            _answer_timeout(connection, timeout_s),
            _repeatable_read(connection, begin_with) if repeatable_read else connection.transaction(),
        ):
            if timeout_s is not None:
                connection.execute(QUERIES["set_transaction_timeouts"], {"timeout_ms": _milliseconds(timeout_s)})
            yield connection

    @staticmethod
    def execute_outside_transaction(connection: Connection[Row], query: LiteralString, values: Params) -> None:
        """Execute a statement that cannot run in a transaction, such as CALL of a procedure that commits.

        Args:
            connection: In autocommit mode. Behind a pooler, its statement timeout and scope do not hold.
            query: The statement.
            values: Its parameters.
        """
        # Cursors that the connection makes put each statement into a transaction behind a pooler.
        Cursor(connection).execute(query, values)

    @staticmethod
    def create_temporary_table(connection: Connection[Row], query: LiteralString) -> None:
        """Create a temporary table, for the current transaction, unless the session has it from an earlier one.

        Args:
            connection: In a transaction.
            query: CREATE TEMPORARY TABLE IF NOT EXISTS, which ends in ``ON COMMIT {on_commit}``.
        """
        # Sessions of a pooler outlive the service. After an upgrade, the table may have other columns.
        is_kept = not (isinstance(connection, _TimeLimitedConnection) and connection.is_pooled)
        on_commit = sql.SQL("DELETE ROWS" if is_kept else "DROP")
        connection.execute(sql.SQL(query).format(on_commit=on_commit))

    @contextmanager
    def try_lock(self, name: str, timeout_s: float) -> Iterator[Connection[Row] | None]:
        """Take an advisory lock of the database, and borrow a connection in autocommit mode to work with meanwhile.

        However this process ends, the lock ends with it.

        Args:
            name: Of the lock.
            timeout_s: As for ``connection``.

        Yields:
            The connection; None if another session has the lock.

        Raises:
            UnavailableError: As for ``connection``; or the lock was lost, and the current transaction is rolled back.
        """
        with self._borrow(timeout_s) as connection:
            if connection.is_pooled:
                with self._hold_lock(name, timeout_s) as guard:
                    connection.guard = guard
                    try:
                        yield None if guard is None else connection
                    finally:
                        connection.guard = None
                return
            # All work is done in the session that has the lock, so that none of it goes on without the lock.
            ((is_locked,),) = connection.execute(QUERIES["try_lock_session"], {"name": name})
            try:
                yield connection if is_locked else None
            finally:
                if is_locked and not connection.closed:
                    connection.execute(QUERIES["unlock_session"], {"name": name})

    @contextmanager
    def _hold_lock(self, name: str, timeout_s: float) -> Iterator[Callable[[], object] | None]:
        # A pooler would keep the session, and its lock, for others. A transaction has a session to itself, and ends
        # with its client: one that does nothing else has the lock. Its session may be lost while the work goes on in
        # another one, hence the guard.
        with self.transaction(timeout_s) as holder:
            # With a parameter, its portal would stay open, and hold a snapshot that keeps VACUUM from its work.
            ((is_locked,),) = holder.execute(sql.SQL(QUERIES["try_lock_transaction"]).format(name=sql.Literal(name)))
            yield partial(holder.execute, QUERIES["ping"]) if is_locked else None

    def is_direct(self) -> bool:
        """Tell whether ``direct_conninfo`` leads to the server, and not to a pooler. Does not need the pool.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        with raise_unavailable(), psycopg.connect(self.direct_conninfo, autocommit=True) as connection:
            return not is_pooled(connection)

    @property
    def engine(self) -> Engine:
        """The server and its capabilities, detected once per process, and after each renewal of the connections.

        Raises:
            UnavailableError: The server does not answer at the moment.
        """
        with self._engine_lock:
            engine = self._engine
            if engine is None:
                with self.connection() as connection:
                    engine = self._engine = detect_engine(connection, embedded=self._embedded)
            return engine

    def wait_for_server(self, timeout_s: float) -> Engine:
        """Wait until the server accepts a connection, and check its version. Does not need the pool.

        Raises:
            BootError: The server accepted no connection in time, or is too old. At once if waiting does not help: it
                rejects the credentials, or has no such database, or the direct connection leads to another one.
        """
        deadline = time.monotonic() + timeout_s
        waits_for: Failure | None = None
        while True:
            try:
                with psycopg.connect(self.conninfo, autocommit=True, prepare_threshold=None) as connection:
                    engine = detect_engine(connection, embedded=self._embedded)
                    database = _identify_database(connection)
                if self._has_direct:
                    with psycopg.connect(self.direct_conninfo, autocommit=True) as connection:
                        self._ensure_same_database(connection, database)
            except psycopg.OperationalError as ex:
                failure = identify_connecting(ex)
                if not failure.passes or time.monotonic() >= deadline:
                    raise BootError(f"the database cannot be reached: {describe(ex, failure)}") from ex
                if failure is not waits_for:
                    waits_for = failure
                    self._log_outage(failure, ex)
                time.sleep(_STARTUP_POLL_S)
                continue
            if engine.version_number < MIN_VERSION_NUMBER:
                raise BootError(f"PostgreSQL {engine.version} is too old; 15 is the oldest that works")
            return engine

    def detect_engine(self) -> None:
        """Detect the engine, for this process and those that it forks. After migrations; does not need the pool.

        Without it, whoever asks first waits for the server, which may be away by then.

        Raises:
            UnavailableError: The server does not answer.
        """
        with (
            raise_unavailable(),
            psycopg.connect(self.conninfo, autocommit=True, prepare_threshold=None) as connection,
        ):
            self._engine = detect_engine(connection, embedded=self._embedded)

    def _ensure_same_database(self, direct: Connection[Row], database: Row) -> None:
        if is_pooled(direct):
            raise BootError("db.direct_url leads to a pooler as well")
        if _identify_database(direct) != database:
            raise BootError("db.direct_url and db.url lead to different databases")

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

    def measures(self, timeout_s: float) -> DatabaseMeasures:
        """Return what is measured of the database.

        Args:
            timeout_s: Of the statement.

        Raises:
            UnavailableError: As for ``connection``.
        """
        with self.connection(timeout_s=timeout_s) as connection:
            row = connection.execute(QUERIES["measure_database"]).fetchone()
        return DatabaseMeasures(*(row or (0, 0, 0)))

    def size_bytes(self, timeout_s: float) -> int:
        """Return the size of the database on disk; arguments and errors as of ``measures``."""
        with self.connection(timeout_s=timeout_s) as connection:
            row = connection.execute(QUERIES["size_of_database"]).fetchone()
        return 0 if row is None else int(row[0])

    def stats(self) -> dict[str, int]:
        """Return the statistics of psycopg_pool, times in ms; empty while the pool is closed."""
        return dict(self._pool.get_stats()) if self._pool is not None else {}

    @contextmanager
    def _renewal(self, pool: _LiveConnectionPool, connection: _TimeLimitedConnection) -> Iterator[None]:
        """Replace every connection of the pool after a failure that the others would have as well."""
        try:
            yield
        except psycopg.Error as ex:
            failure = identify(ex)
            if failure is not None and failure.renews:
                # A session without its library would find no event from its second statement on.
                connection.close()
                # What was detected may have changed.
                self._engine = None
                if pool.renew():
                    self._log_renewal(failure, ex)
            raise

    def _log_renewal(self, failure: Failure, error: psycopg.Error) -> None:
        if self._log is not None:
            self._log.warning("database_connections_renewed", code=failure.code, reason=describe(error, failure))

    def _log_outage(self, failure: Failure | None, error: Exception | None) -> None:
        if self._log is None:
            return
        if failure is None or error is None:
            self._log.info("database_available")
        else:
            self._log.warning("database_unavailable", code=failure.code, reason=describe(error, failure))

    def _configure_session(self, connection: _TimeLimitedConnection) -> None:
        connection.answer_timeout_s = self._settings.statement_timeout_s + _ANSWER_GRACE_S
        connection.commit_hook = self._commit_hook
        connection.configure(self._settings.statement_timeout_s)


class _TimeLimitedConnection(Connection[Row]):
    """A connection that has a scope and time limits, and stops waiting for a server that does not answer at all.

    The server enforces the statement timeout. A frozen one, or one behind a network that drops packets, enforces
    nothing; and TCP's own limits do not help while its kernel still acknowledges, or on a Unix socket.

    Scope and time limits are settings of the session. Behind a pooler, which may run each transaction in another
    session, they are settings of each transaction in place of that, and every statement has a transaction: what stays
    in a session would be in force for somebody else.
    """

    # Whether there is a pooler between this process and the server.
    is_pooled = False
    # Called before a transaction commits; raises if it must not.
    guard: Callable[[], object] | None = None
    answer_timeout_s: float | None = None
    # Of the request that has borrowed the connection.
    deadline: Deadline | None = None
    tracker: ResourceTracker | None = None
    commit_hook: CommitHook | None = None
    _scope: _Scope | None = None
    _timeout_ms = ""
    _configuration: LiteralString = ""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Of the current transaction; see ``defer_until_commit``.
        self.deferred: list[Any] = []

    def configure(self, timeout_s: float) -> None:
        """Set what sessions of this pool have in common.

        Args:
            timeout_s: Limit on statements, and on idle time in a transaction.
        """
        self._timeout_ms = _milliseconds(timeout_s)
        ((has_limit,),) = self.execute(QUERIES["has_decompression_limit"])
        self._configuration = QUERIES["configure"] + (QUERIES["lift_decompression_limit"] if has_limit else "")
        self.is_pooled = is_pooled(self)
        if self.is_pooled:
            # A statement that is prepared in one session does not exist in another, or is another one there.
            self.prepare_threshold = None
            # Poolers keep the time zone of each client, and psycopg reads it, also after a transaction.
            self.execute(QUERIES["set_time_zone"])
            self.cursor_factory = _PooledCursor
        else:
            self.execute(self._settings("SESSION"))

    def _settings(self, extent: LiteralString) -> sql.Composed:
        values = {"timeout_ms": self._timeout_ms, **_scope_settings(self._scope)}
        literals = {name: sql.Literal(value) for name, value in values.items()}
        return sql.SQL(self._configuration).format(extent=sql.SQL(extent), **literals)

    def begin(self, begin: LiteralString, statements: LiteralString = "") -> None:
        """Begin a transaction in one round trip with some statements without parameters."""
        if self.is_pooled:
            message = sql.Composed([sql.SQL(begin), self._settings("LOCAL"), sql.SQL(statements)])
            Cursor(self).execute(message, prepare=False)
        else:
            self.execute(f"{begin}\n{statements}", prepare=False)

    @contextmanager
    def single_statement(self) -> Iterator[None]:
        """Run a statement behind a pooler: in a transaction of its own, unless there is one."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            yield
            return
        self.begin(QUERIES["begin"])
        try:
            yield
        except BaseException:
            if not self.closed:
                self.rollback()
            raise
        self.commit()

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:  # noqa: FBT001, FBT002 - as of the base class
        """Open a transaction, or a savepoint in the current one, as psycopg does; before it commits, call the hook."""
        is_outermost = self.pgconn.transaction_status == TransactionStatus.IDLE
        count = 0 if is_outermost else len(self.deferred)
        done: Callable[[], None] | None = None
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                try:
                    if is_outermost and self.is_pooled:
                        Cursor(self).execute(self._settings("LOCAL"), prepare=False)
                    yield transaction
                    if is_outermost and not force_rollback:
                        done = self.call_commit_hook()
                    if force_rollback:
                        del self.deferred[count:]
                except BaseException:
                    # A savepoint that is rolled back takes with it what was deferred since.
                    del self.deferred[count:]
                    raise
        finally:
            if is_outermost:
                self.deferred.clear()
        if done is not None:
            done()

    def call_commit_hook(self) -> Callable[[], None] | None:
        """Call guard and hook, with what was deferred, unless a statement has failed: nothing would be committed."""
        if self.pgconn.transaction_status != TransactionStatus.INTRANS:
            return None
        if self.guard is not None:
            self.guard()
        if self.commit_hook is None:
            return None
        return self.commit_hook(self, self.deferred)

    def include_accounts(self, accounts: Collection[int]) -> None:
        """See these accounts until the end of the transaction, or all. A round trip only where the scope is another."""
        if self._scope is not None and any(account != self._scope[0] for account in accounts):
            self.execute(QUERIES["lift_account_scope"])

    def set_scope(self, identity: Identity | None) -> None:
        """Limit the session to the account of an identity; None ends that. A round trip only where it changes.

        See ``kernel/migrations/0006_account_scope.sql``.
        """
        # Nobody's account is not no account: that would be all of them.
        scope = (
            None if identity is None else (_NOBODY if identity.account is None else identity.account, identity.sites)
        )
        if scope == self._scope:
            return
        if not self.is_pooled:
            self.execute(QUERIES["set_account_scope"], _scope_settings(scope))
        self._scope = scope

    def set_timeouts(self, timeout_s: float) -> None:
        """Limit statements, and idle time in a transaction, from the next transaction on."""
        self._timeout_ms = _milliseconds(timeout_s)
        if not self.is_pooled:
            self.execute(QUERIES["set_session_timeouts"], {"timeout_ms": self._timeout_ms})

    def track(self, tracker: ResourceTracker | None) -> None:
        """Let a tracker record statements, and the time that they take; None ends that."""
        self.tracker = tracker
        if tracker is not None:
            self.cursor_factory = _TrackedCursor
        else:
            self.cursor_factory = _PooledCursor if self.is_pooled else Cursor
        self.server_cursor_factory = ServerCursor if tracker is None else _TrackedServerCursor

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        if self.tracker is not None:
            with self.tracker.measure("sql"):
                return self._wait(gen, interval, timeout)
        return self._wait(gen, interval, timeout)

    def _wait(self, gen: PQGen[T], interval: float, timeout: float | None) -> T:
        if self.deadline is not None:
            gen = self._within_deadline(gen, self.deadline)
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as ex:
            # The statement may or may not have been executed, so the connection must not be used again.
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from ex

    def _within_deadline(self, gen: PQGen[T], deadline: Deadline) -> PQGen[T]:
        """Run a generator of psycopg; cancel the statement that it waits for once the deadline has passed."""
        is_cancelled = False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                # Nothing was ready for a tenth of a second.
                if not ready and not is_cancelled and deadline.is_over():
                    is_cancelled = True
                    # The statement may still succeed, as a COMMIT does: the server tells.
                    with suppress(psycopg.Error):
                        self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
                wanted = gen.send(ready)
        except StopIteration as ex:
            result: T = ex.value
            return result


def _identify_database(connection: Connection[Row]) -> Row:
    row = connection.execute(QUERIES["identify_database"]).fetchone()
    if row is None:
        raise RuntimeError("the query for the database returned no row")
    return row


def _scope_settings(scope: _Scope | None) -> dict[str, str]:
    account, sites = scope or (None, None)
    return {
        "account": "" if account is None else str(account),
        "sites": "" if sites is None else f"{{{','.join(map(str, sites))}}}",
    }


class _PooledCursor(Cursor[R]):
    """A cursor behind a pooler: a statement outside a transaction gets one of its own."""

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        with _single_statement(self):
            return super().execute(query, params, **options)

    def executemany(self, query: Query, params_seq: Iterable[Params], **options: Any) -> None:
        with _single_statement(self):
            super().executemany(query, params_seq, **options)

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None, **options: Any) -> Iterator[Copy]:
        with _single_statement(self), super().copy(statement, params, **options) as copy:
            yield copy


def _single_statement(cursor: Cursor[Any]) -> AbstractContextManager[None]:
    connection = cursor.connection
    if isinstance(connection, _TimeLimitedConnection) and connection.is_pooled:
        return connection.single_statement()
    return nullcontext()


class _TrackedCursor(_PooledCursor[R]):
    """A cursor that has its statements recorded."""

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        with _recorded(self, query):
            return super().execute(query, params, **options)

    def executemany(self, query: Query, params_seq: Iterable[Params], **options: Any) -> None:
        with _recorded(self, query):
            super().executemany(query, params_seq, **options)

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None, **options: Any) -> Iterator[Copy]:
        with _recorded(self, statement), super().copy(statement, params, **options) as copy:
            yield copy


class _TrackedServerCursor(ServerCursor[R]):
    """A cursor of the server that has its statement recorded. What is fetched later counts as waiting only."""

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        with _recorded(self, query):
            return super().execute(query, params, **options)


@contextmanager
def _recorded(cursor: Cursor[Any], query: Query) -> Iterator[None]:
    """Record a statement with the tracker of the connection."""
    tracker = cursor.connection.tracker if isinstance(cursor.connection, _TimeLimitedConnection) else None
    if tracker is None:
        yield
        return
    with tracker.statement(_without_values(query)) as statement:
        yield
        statement.rows = None if cursor.rowcount < 0 else cursor.rowcount


def _without_values(query: Query | sql.Composable) -> str:
    """Return the text of a statement with its placeholders, and one in place of each value that is part of it."""
    if isinstance(query, sql.Composed):
        return "".join(map(_without_values, query))
    if isinstance(query, sql.Literal):
        return "%s"
    if isinstance(query, sql.Composable):
        return query.as_string()
    if isinstance(query, bytes):
        return query.decode()
    # A template has its values in it.
    return query if isinstance(query, str) else type(query).__name__


class _LiveConnectionPool(ConnectionPool[_TimeLimitedConnection]):
    """A pool that hands out only live connections, the most recently used first, and reports why it has none.

    psycopg_pool has a check of its own, but waits one second after the first connection that fails it, then two, then
    four: after a restart of the server, a pool full of dead connections would be out of service for longer than
    requests wait.

    By default it hands out the connection that was idle for longest, whose server process is least likely to be in the
    processor's caches.

    Of connections that cannot be made, psycopg_pool tells only its log, and requests wait for its next attempt. Here
    an attempt that fails ends their wait, unless a connection in use may be returned to them, and there is no attempt
    without a request that needs it: so an outage ends with the first request after it.

    Args:
        on_outage: Called in any thread: with the failure and its cause when an outage begins or its kind changes, and
            with None when a connection can be made again.
        given: As for ConnectionPool.
    """

    def __init__(
        self, *given: Any, on_outage: Callable[[Failure | None, Exception | None], None], **named: Any
    ) -> None:
        self._on_outage = on_outage
        # Why the latest attempt to connect failed, and when; None if it succeeded.
        self._failure: tuple[Failure, float] | None = None
        self._in_use = 0
        self._renew_from = 0.0
        super().__init__(*given, **named)

    def getconn(self, timeout: float | None = None) -> _TimeLimitedConnection:
        tracker = current_tracker()
        if tracker is None:
            return self._get_live(timeout)
        with tracker.measure("pool"):
            connection = self._get_live(timeout)
        connection.track(tracker)
        return connection

    def renew(self) -> bool:
        """Replace all connections, those in use once they are returned; return False if this was done just now."""
        with self._lock:
            now = time.monotonic()
            if now < self._renew_from:
                return False
            self._renew_from = now + _RENEWAL_INTERVAL_S
        self.drain()
        return True

    def _get_live(self, timeout: float | None) -> _TimeLimitedConnection:
        wait_s = self.timeout if timeout is None else timeout
        if self._failure is not None and not self._in_use:
            failure, failed_at = self._failure
            if not self._nconns and time.monotonic() - failed_at < _OUTAGE_RETRY_S:
                raise failure.error()
            wait_s = min(wait_s, _OUTAGE_WAIT_S)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                connection = super().getconn(deadline - time.monotonic())
            except (PoolTimeout, TooManyRequests) as ex:
                raise self._why_none().error() from ex
            with self._lock:
                self._in_use += 1
            if _is_alive(connection):
                return connection
            connection.close()
            self.putconn(connection)

    def putconn(self, conn: _TimeLimitedConnection) -> None:
        if conn.tracker is not None:
            conn.track(None)
        with self._lock:
            self._in_use -= 1
        super().putconn(conn)

    def reconnect_failed(self) -> None:
        with self._lock:
            if self._nconns or self._failure is None:
                return
            clients, failure = list(self._waiting), self._failure[0]
            self._waiting.clear()
        for client in clients:
            client.fail(failure.error())

    def _why_none(self) -> Failure:
        if self._failure is not None:
            return self._failure[0]
        return POOL_EXHAUSTED if self._in_use else NO_ANSWER

    def _connect(self, timeout: float | None = None) -> _TimeLimitedConnection:
        try:
            connection = super()._connect(timeout)
        except Exception as ex:
            self._note(identify_connecting(ex), ex)
            raise
        self._note(None, None)
        return connection

    def _note(self, failure: Failure | None, error: Exception | None) -> None:
        before, self._failure = self._failure, None if failure is None else (failure, time.monotonic())
        if failure is not (before[0] if before else None):
            self._on_outage(failure, error)

    def _get_ready_connection(self, timeout: float | None) -> _TimeLimitedConnection | None:
        # The base class takes the leftmost; connections are returned at the right.
        self._pool.rotate(1)
        return super()._get_ready_connection(timeout)


def _is_not_about_connecting(record: logging.LogRecord) -> bool:
    # A line for each attempt to connect, and for each connection that broke. Here an outage is two lines.
    return not str(record.msg).startswith(("error connecting", "reconnection attempt", "discarding closed connection"))


logging.getLogger("psycopg.pool").addFilter(_is_not_about_connecting)


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
def _answer_timeout(connection: _TimeLimitedConnection, timeout_s: float | None) -> Iterator[None]:
    """Wait for answers as long as a statement timeout needs; None leaves the limits as they are."""
    if timeout_s is None:
        yield
        return
    previous = connection.answer_timeout_s, connection.deadline
    connection.answer_timeout_s, connection.deadline = timeout_s + _ANSWER_GRACE_S, None
    try:
        yield
    finally:
        connection.answer_timeout_s, connection.deadline = previous


@contextmanager
def _repeatable_read(connection: _TimeLimitedConnection, begin_with: LiteralString) -> Iterator[None]:
    try:
        connection.begin(QUERIES["begin_repeatable_read"], begin_with)
        yield
        done = connection.call_commit_hook()
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    finally:
        connection.deferred.clear()
    connection.commit()
    if done is not None:
        done()


def defer_until_commit(connection: Connection[Row], item: Any) -> None:
    """Keep something for the hook of ``Database.before_commit``, until the current transaction commits.

    Args:
        connection: Of the pool, in a transaction.
        item: Is dropped if the transaction is rolled back, or the savepoint that it was deferred in.

    Raises:
        TypeError: The connection is not one of the pool.
        RuntimeError: There is no transaction.
    """
    if not isinstance(connection, _TimeLimitedConnection):
        raise TypeError(f"{type(connection).__name__} is no connection of the pool")
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        raise RuntimeError("there is no transaction")
    connection.deferred.append(item)


def include_accounts(connection: Connection[Row], accounts: Collection[int]) -> None:
    """Let a connection of the pool see these accounts until its transaction ends, whatever its scope is.

    For what the kernel writes last in a transaction of a request, in rows of another account.
    """
    if isinstance(connection, _TimeLimitedConnection):
        connection.include_accounts(accounts)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


@contextmanager
def raise_unavailable() -> Iterator[None]:
    """Raise ``UnavailableError``, which answers 503, in place of transient failures of the database."""
    try:
        yield
    except PoolClosed as ex:
        raise STOPPING.error() from ex
    except psycopg.Error as ex:
        if isinstance(ex, psycopg.errors.QueryCanceled):
            # What ended the request is the reason, if that cancelled the statement.
            current_deadline().check()
        unavailable = as_unavailable(ex)
        if unavailable is None:
            raise
        raise unavailable from ex
