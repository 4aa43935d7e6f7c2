"""One place that turns failures of the database into answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from kernel.errors import UnavailableError

# Classes of SQLSTATE that say "not now", not "not so": connection, resources, intervention, system; and read-only,
# a pause that was too long, serialisation, deadlock, lock timeout. https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = ("08", "53", "57", "58", "25006", "25P03", "40001", "40P01", "55P03")


def is_transient(error: psycopg.Error) -> bool:
    """Tell whether trying again later can help."""
    if error.sqlstate is None:
        # The server never answered: it is gone, or the pool has nothing to give.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_TRANSIENT)


def translate(error: psycopg.Error) -> UnavailableError | None:
    """Return what a client is told about a failing database; None if the failure is our own fault."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return UnavailableError("every database connection is busy", retry_after_s=2)
    if isinstance(error, PoolClosed):
        return UnavailableError("the service is stopping", retry_after_s=5)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return UnavailableError("the database did not answer within the statement timeout", retry_after_s=5)
    if is_transient(error):
        return UnavailableError(f"the database is unavailable ({error.sqlstate or 'no answer'})", retry_after_s=2)
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise ``UnavailableError`` in place of failures of the database that may pass."""
    try:
        yield
    except psycopg.Error as ex:
        unavailable = translate(ex)
        if unavailable is None:
            raise
        raise unavailable from ex
