"""Failures of the database: what clients are told of each kind, and what operators read.

A failure within a session has an SQLSTATE. One of a connection that cannot be made has none, because libpq passes on
the text alone: its own is always English, that of a server in another language is ``UNREACHABLE``. Clients get the
constant text of the kind; ``describe`` adds what libpq says, such as the address, for logs and commands. Each kind has
an entry in ``docs/operations/troubleshooting.md``.
"""

from __future__ import annotations

import re

import msgspec
import psycopg

from kernel.errors import UnavailableError


class Failure(msgspec.Struct, frozen=True):
    """A kind of failure.

    Args:
        code: The ``code`` of the 503 response.
        detail: Its ``detail``.
        retry_after_s: Its ``Retry-After``.
        passes: Whether a service that starts waits for it to pass; False if somebody has to change something.
        sqlstates: SQLSTATEs, or the classes they start with.
        words: Match the message of an error with one of these; by default any does. Only for messages that are never
            translated.
        pattern: Matches the text of an error without an SQLSTATE.
        renews: Whether the sessions of the pool are of no use any more, while new ones may be.
    """

    code: str
    detail: str
    retry_after_s: int = 2
    passes: bool = True
    sqlstates: tuple[str, ...] = ()
    words: str = ""
    pattern: str = "$^"
    renews: bool = False

    def error(self, addition: str | None = None) -> UnavailableError:
        """Return the error that is raised; a new one each time, as several threads may wait for one connection."""
        detail = self.detail if addition is None else f"{self.detail}: {addition}"
        return UnavailableError(detail, retry_after_s=self.retry_after_s, code=self.code)


POOL_EXHAUSTED = Failure("pool_exhausted", "every database connection of this process is busy")
STOPPING = Failure("unavailable", "the service is stopping", retry_after_s=5)
NO_ANSWER = Failure(
    "database_timeout",
    "the database does not answer",
    retry_after_s=5,
    pattern=r"timeout expired|timed out|does not answer|no route to host|network is unreachable",
)
UNREACHABLE = Failure("database_unreachable", "the connection to the database failed")
READ_ONLY = Failure(
    "database_read_only",
    "the database is read-only: it is a standby, or default_transaction_read_only is on",
    retry_after_s=5,
    sqlstates=("25006",),
    pattern=r"session is read-only|in hot standby mode",
)
_LOST = Failure("database_lost", "the connection to the database was lost", 1, sqlstates=("08", "57P01", "57P02"))
# A pooler adds an error of its own to the one with which the server ended the session.
_TWO_ERRORS = re.compile(r"received 2 results from command")
_OTHER = Failure("unavailable", "the database is unavailable")
_PERMISSION = Failure(
    "database_permission",
    "the role of the service lacks a privilege in the database",
    retry_after_s=10,
    passes=False,
    sqlstates=("42501",),
    pattern="permission denied",
)

# The first that matches counts, so kinds precede the class of their SQLSTATE.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
FAILURES: tuple[Failure, ...] = (
    Failure(
        "database_authentication",
        "the database rejects the role or password of the service",
        retry_after_s=10,
        passes=False,
        sqlstates=("28",),
        pattern=r'authentication failed|no password supplied|pg_hba\.conf|role ".*" (does not exist|is not permitted)',
    ),
    Failure(
        "database_missing",
        "the database of the service does not exist on the server",
        retry_after_s=10,
        passes=False,
        sqlstates=("3D000",),
        pattern=r'database ".*" does not exist',
    ),
    _PERMISSION,
    Failure(
        "database_connections",
        "the database accepts no further connection: a limit of the server, role or database is reached",
        sqlstates=("53300",),
        pattern=r"too many (connections|clients)|remaining connection slots",
    ),
    Failure(
        "database_starting",
        "the database accepts no connections at the moment: it is starting up, shutting down or in recovery",
        sqlstates=("57P03",),
        pattern=r"starting up|shutting down|in recovery mode|not (yet|currently) accepting connections",
    ),
    READ_ONLY,
    Failure(
        "database_refused",
        "no database server listens at the configured address",
        pattern="connection refused|no such file or directory",
    ),
    Failure(
        "database_unknown_host",
        "the host name of the database cannot be resolved",
        retry_after_s=5,
        pattern="failed to resolve host|could not translate host name",
    ),
    NO_ANSWER,
    # https://github.com/timescale/timescaledb: src/extension.c, src/loader/loader.c, src/cross_module_fn.c
    Failure(
        "timescaledb_updated",
        "TimescaleDB was updated; the connections of before are replaced",
        retry_after_s=1,
        sqlstates=("0A000", "42710"),
        words=r'"timescaledb" (version mismatch|already loaded with a different version)',
        renews=True,
    ),
    Failure(
        "timescaledb_library",
        "the database server lacks the library of the version of TimescaleDB that the database has",
        retry_after_s=10,
        passes=False,
        sqlstates=("58P01",),
        words=r"timescaledb-[0-9]",
        renews=True,
    ),
    Failure(
        "timescaledb_license",
        "timescaledb.license of the database server does not allow what the database was made with",
        retry_after_s=10,
        passes=False,
        sqlstates=("0A000",),
        words=r'under the current "(\w+" license|timescaledb\.license")',
        renews=True,
    ),
    Failure("database_disk_full", "the disk of the database is full", retry_after_s=5, sqlstates=("53100",)),
    Failure(
        "statement_timeout",
        "the database did not answer within the statement timeout",
        retry_after_s=5,
        sqlstates=("57014",),
    ),
    POOL_EXHAUSTED,
    _LOST,
    # Resources, operator intervention, system errors, idle-in-transaction timeout, serialization failure, deadlock,
    # lock timeout: a retry can succeed.
    msgspec.structs.replace(_OTHER, sqlstates=("53", "57", "58", "25P03", "40001", "40P01", "55P03")),
    UNREACHABLE,
)


def identify(error: psycopg.Error) -> Failure | None:
    """Return the kind of a failure; None for an error in our own statement."""
    if error.sqlstate is not None:
        words = error.diag.message_primary or ""
        return next(
            (
                kind
                for kind in FAILURES
                if error.sqlstate.startswith(kind.sqlstates) and re.search(kind.words, words) is not None
            ),
            None,
        )
    if _TWO_ERRORS.match(str(error)):
        return _LOST
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return None
    return next((kind for kind in FAILURES if re.search(kind.pattern, str(error), re.IGNORECASE)), _LOST)


def identify_connecting(error: Exception) -> Failure:
    """Return the kind of a failure to connect, or of one that ``as_unavailable`` named."""
    if isinstance(error, UnavailableError):
        return next((kind for kind in FAILURES if kind.code == error.code), _OTHER)
    found = identify(error) if isinstance(error, psycopg.Error) else None
    return UNREACHABLE if found is None or found is _LOST else found


def as_unavailable(error: psycopg.Error) -> UnavailableError | None:
    """Return the error for clients; None for an error in our own statement."""
    kind = identify(error)
    if kind is None:
        return None
    if kind is _PERMISSION:
        return kind.error(error.diag.message_primary)
    return kind.error(f"SQLSTATE {error.sqlstate}" if kind.detail == _OTHER.detail else None)


def describe(error: Exception, kind: Failure | None = None) -> str:
    """Return one line for operators: the kind of a failure, and what libpq says, which has no password.

    Args:
        error: Raised by psycopg, or by ``as_unavailable``.
        kind: Its kind, if it is known.
    """
    if isinstance(error, UnavailableError):
        return error.detail or str(error)
    if kind is None and isinstance(error, psycopg.Error):
        kind = identify(error)
    # A connection to several hosts fails with one line for each after the first.
    words = str(error).strip().partition("\n")[0]
    words = re.sub(r"^connection (failed|is bad): ", "", words)
    return words if kind is None else f"{kind.detail} ({words})"
