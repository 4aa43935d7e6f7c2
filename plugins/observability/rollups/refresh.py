"""Bring rollups up to date, day by day, from the log of touched hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import LiteralString

import msgspec
from psycopg import sql

from kernel import ConflictError, Database
from plugins.observability.rollups.plan import HOUR
from plugins.observability.rollups.touched import QUERIES, Connected

# A statement over a day of events may take this long.
_TIMEOUT_S = 600.0
# What their rows are told apart by, what is summed up for an hour, and how its histogram is kept.
_TABLES = {
    "rollup": (("series",), "cells_of_series", "number_for_each_bin"),
    "coarse": (("account", "service", "method"), "cells_of_methods", "one_number"),
}
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)


class Refreshed(msgspec.Struct, frozen=True):
    """What a refresh did.

    Args:
        days: Days that were looked at.
        hours: Hours that were computed anew.
    """

    days: int
    hours: int


class Rollups:
    """Keeps rollups.

    Args:
        db: The database. Where it has continuous aggregates, those are refreshed.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def refresh(
        self,
        start: datetime = BEGINNING,
        end: datetime = END,
        *,
        running_wait_s: float = 0.0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Refreshed:
        """Compute the hours that were touched, and their days; oldest first, one transaction a day.

        Args:
            start: Of what is refreshed.
            end: Up to but without it.
            running_wait_s: The running hour is left alone until it has been waiting for this long: while events keep
                coming, all that was computed of it is computed again.
            progress: Called with days done and days in all; may raise to stop.

        Raises:
            ConflictError: Somebody else is refreshing.
            UnavailableError: The database is away; the days that are done stay done.
        """
        with self._alone() as connection:
            days = _days(connection, start, end, running_wait_s)
            refresh_day = _refresh_aggregates if has_aggregates(connection) else _refresh_tables
            progress(0, len(days))
            for done, (day, hours) in enumerate(days, 1):
                refresh_day(connection, day, hours)
                progress(done, len(days))
            # Every question reads the log. Nobody else may be refreshing: an entry that is newer than what a refresh
            # saw must outlive it.
            connection.execute(QUERIES["shorten_touched"])
        return Refreshed(len(days), sum(len(hours) for _, hours in days))

    @contextmanager
    def _alone(self) -> Iterator[Connected]:
        # The lock is the session's: it ends with it, however this process dies. All work is done in that session, so
        # that none of it goes on without the lock.
        with self._db.connection(_TIMEOUT_S) as connection:
            row = connection.execute(QUERIES["try_refresh_lock"]).fetchone()
            if row is None or not row[0]:
                raise ConflictError("Somebody else is refreshing the rollups.")
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.execute(QUERIES["refresh_unlock"])


def has_aggregates(connection: Connected) -> bool:
    """Tell whether rollups are continuous aggregates."""
    # What is there, not what the server could do by now: its licence may have changed since.
    row = connection.execute(QUERIES["has_aggregates"]).fetchone()
    return row is not None and bool(row[0])


def _days(
    connection: Connected, start: datetime, end: datetime, running_wait_s: float
) -> Sequence[tuple[datetime, list[datetime]]]:
    given = {"start": start, "end": end, "running_wait_s": running_wait_s}
    return list(connection.execute(QUERIES["list_days_to_refresh"], given).fetchall())


def _refresh_tables(connection: Connected, day: datetime, hours: Sequence[datetime]) -> None:
    with connection.transaction():
        # One moment for all statements: what is written meanwhile touches its hour again, and is not forgotten.
        connection.execute(QUERIES["see_one_moment"])
        connection.execute(QUERIES["make_room_to_sort"])
        connection.execute(QUERIES["forget_touched"], {"hours": list(hours)})
        connection.execute(QUERIES["create_cells"])
        for start, end in _runs(hours):
            connection.execute(QUERIES["fill_cells"], {"start": start, "end": end})
        for query in _filling():
            connection.execute(query, {"hours": list(hours), "day": day})


def _refresh_aggregates(connection: Connected, day: datetime, hours: Sequence[datetime]) -> None:
    connection.execute(QUERIES["refresh_day"], {"day": day, "hours": list(hours)})


@cache
def _filling() -> Sequence[bytes]:
    """Return what writes the tables by hour, and then those by day, which are made of them."""
    return [
        _compose(query, table, unit)
        for table in _TABLES
        for unit in ("hour", "day")
        for query in (QUERIES[f"clear_{unit}"], QUERIES[f"fill_{unit}"])
    ]


def _compose(query: LiteralString, table: str, unit: str) -> bytes:
    keys, cells, histograms = _TABLES[table]
    return (
        sql.SQL(query)
        .format(
            table=sql.Identifier(f"{table}_{unit}"),
            hours=sql.Identifier(f"{table}_hour"),
            keys=sql.SQL(", ").join(map(sql.Identifier, keys)),
            cells=sql.SQL(QUERIES[cells]),
            histograms=sql.SQL(QUERIES[histograms]),
        )
        .as_bytes()
    )


def _runs(hours: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Join hours that follow one another."""
    start = previous = hours[0]
    for hour in hours[1:]:
        if hour - previous > HOUR:
            yield start, previous + HOUR
            start = hour
        previous = hour
    yield start, previous + HOUR
