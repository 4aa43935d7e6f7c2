"""Read any number of events as they are at one moment, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

from psycopg import sql

from kernel import Database, UnavailableError, load_queries
from plugins.observability.filters import order_by, parse_ordering, refuse_out_of_range, with_tie_breaker
from plugins.observability.model import Event, FilterQuery
from plugins.observability.series import LOCAL_ACCOUNT
from plugins.observability.store import resolve, select_events, to_event

QUERIES = load_queries(__package__)
_BATCH_EVENTS = 1000


class Scans:
    """Reads events batch by batch through a cursor of the server.

    Args:
        db: The database.
        timeout_s: A scan may take this long.
        pause_s: Between two batches, whoever takes them may take this long; after that the server ends the scan.
    """

    def __init__(self, db: Database, timeout_s: float, pause_s: float) -> None:
        self._db = db
        self._timeout_s = timeout_s
        self._pause_s = pause_s

    def scan(self, query: FilterQuery) -> Iterator[list[Event]]:
        """Return all events that meet some filters, in order. Holds a connection until it is closed.

        Raises:
            InvalidError: A parameter is wrong; names it.
            UnavailableError: The database is away, or one of the times is up.
        """
        refuse_out_of_range(query)
        order = order_by(with_tie_breaker(parse_ordering(query.ordering)))
        return self._batches(query, order)

    def _batches(self, query: FilterQuery, order: sql.Composable) -> Iterator[list[Event]]:
        deadline = time.monotonic() + self._timeout_s
        # The statement timeout is one of requests: a sort of everything may take longer.
        with self._db.transaction(self._timeout_s, repeatable_read=True) as connection:
            connection.execute(QUERIES["limit_pauses"], {"pause_ms": str(round(self._pause_s * 1000))})
            conditions = resolve(connection, query, LOCAL_ACCOUNT)
            # An empty name would make it a cursor of this side, which has all rows at once.
            with connection.cursor(name="export") as cursor:
                cursor.execute(select_events(conditions, order), {**conditions.values, "limit": None, "offset": 0})
                while rows := cursor.fetchmany(_BATCH_EVENTS):
                    yield [to_event(row) for row in rows]
                    if time.monotonic() > deadline:
                        raise UnavailableError(f"the export took longer than {self._timeout_s:g} s")
