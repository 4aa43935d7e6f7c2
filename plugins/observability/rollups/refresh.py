"""Bring rollups up to date, day by day, from the log of touched hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from kernel import ConflictError, Database
from plugins.observability.rollups.plan import DAY, HOUR
from plugins.observability.rollups.touched import QUERIES, Connected

# A statement over a day of events may take this long.
_TIMEOUT_S = 600.0
_TABLES = ("rollup", "histogram", "coarse")
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
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Refreshed:
        """Compute the hours that were touched, and their days; oldest first, one transaction a day.

        Args:
            start: Of what is refreshed.
            end: Up to but without it.
            progress: Called with days done and days in all; may raise to stop.

        Raises:
            ConflictError: Somebody else is refreshing.
            UnavailableError: The database is away; the days that are done stay done.
        """
        with self._alone():
            days = self._days(start, end)
            progress(0, len(days))
            for done, (day, hours) in enumerate(days, 1):
                if self._db.engine.has_continuous_aggregates:
                    self._refresh_aggregates(day, hours)
                else:
                    self._refresh_tables(day, hours)
                progress(done, len(days))
        return Refreshed(len(days), sum(len(hours) for _, hours in days))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # The lock is the session's: it ends with it, however this process dies.
        with self._db.connection() as connection:
            row = connection.execute(QUERIES["try_refresh_lock"]).fetchone()
            if row is None or not row[0]:
                raise ConflictError("Somebody else is refreshing the rollups.")
            try:
                yield
            finally:
                connection.execute(QUERIES["refresh_unlock"])

    def _days(self, start: datetime, end: datetime) -> Sequence[tuple[datetime, list[datetime]]]:
        with self._db.connection() as connection:
            return list(connection.execute(QUERIES["list_days_to_refresh"], {"start": start, "end": end}).fetchall())

    def _refresh_tables(self, day: datetime, hours: Sequence[datetime]) -> None:
        # One moment for all statements: what is written meanwhile touches its hour again, and is not forgotten.
        with self._db.transaction(_TIMEOUT_S, at_one_moment=True) as connection:
            connection.execute(QUERIES["forget_touched"], {"hours": list(hours)})
            connection.execute(QUERIES["create_cells"])
            for start, end in _runs(hours):
                connection.execute(QUERIES["fill_cells"], {"start": start, "end": end})
            for table in _TABLES:
                connection.execute(QUERIES[f"clear_{table}_hours"], {"buckets": list(hours)})
                connection.execute(QUERIES[f"fill_{table}_hours"])
                connection.execute(QUERIES[f"clear_{table}_day"], {"day": day})
                connection.execute(QUERIES[f"fill_{table}_day"], {"day": day})

    def _refresh_aggregates(self, day: datetime, hours: Sequence[datetime]) -> None:
        with self._db.connection() as connection:
            # Known before the refresh begins: whoever writes after this touches the hour again.
            ids = [number for (number,) in connection.execute(QUERIES["list_touched_ids"], {"hours": list(hours)})]
            for table in _TABLES:
                for start, end in _runs(hours):
                    _refresh_aggregate(connection, f"observability.{table}_hour", start, end)
                _refresh_aggregate(connection, f"observability.{table}_day", day, day + DAY)
            connection.execute(QUERIES["forget_touched_ids"], {"ids": ids})


def _refresh_aggregate(connection: Connected, view: str, start: datetime, end: datetime) -> None:
    connection.execute(QUERIES["refresh_aggregate"], {"view": view, "start": start, "end": end})


def _runs(hours: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Join hours that follow one another."""
    start = previous = hours[0]
    for hour in hours[1:]:
        if hour - previous > HOUR:
            yield start, previous + HOUR
            start = hour
        previous = hour
    yield start, previous + HOUR
