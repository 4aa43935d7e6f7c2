"""Take off the disk what no answer is made of any more: a day in a transaction, so that it can stop anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel import Database, load_queries
from plugins.observability.ids import LOWEST_TAIL, make_id
from plugins.observability.ingest.rows import unix_us
from plugins.observability.rollups.plan import DAY, Level, floor
from plugins.observability.rollups.refresh import has_aggregates
from plugins.observability.rollups.touched import Connected

QUERIES = load_queries(__package__)
TIMEOUT_S = 600.0
OnStep = Callable[[str], None]
_AGGREGATES = ("rollup", "histogram", "coarse")
_ROLLUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hour": ("first_bucket_hour", ("delete_rollup_hour", "delete_coarse_hour")),
    "day": ("first_bucket_day", ("delete_rollup_day", "delete_coarse_day")),
}


class Removed(msgspec.Struct):
    """What retention removed.

    Args:
        partitions: Partitions or chunks that were dropped.
        events: Events that were deleted one by one, because they shared a partition with some that stay.
        rollups: Rows of rollups.
        series: Series that nothing was left of.
        moved: Notes about events whose time was edited.
        ledger: Entries of the ledger that were summed up with others.
        kept_from: From when on each level has everything now; none where nothing was removed ever.
    """

    partitions: int = 0
    events: int = 0
    rollups: int = 0
    series: int = 0
    moved: int = 0
    ledger: int = 0
    kept_from: Mapping[str, datetime] = {}


class Sweep:
    """Deletes what lies before each level's time.

    Args:
        db: The database.
        removed: What was removed so far; says what may go, and counts on.
        on_step: Told what comes next; may raise to stop.
    """

    def __init__(self, db: Database, removed: Removed, on_step: OnStep) -> None:
        self._db = db
        self._removed = removed
        self._on_step = on_step

    def events(self) -> None:
        """Delete events that shared a partition with some that stay, and what else spoke of those that went."""
        before = self._removed.kept_from.get("raw")
        if before is None:
            return
        for day in self._days("first_event", before, "events"):
            self._removed.events += self._delete(["delete_events"], day, min(day + DAY, before))
        with self._db.transaction(TIMEOUT_S) as connection:
            given = {"before": before, "first_id": make_id(unix_us(before) // 1000, LOWEST_TAIL)}
            self._removed.moved += connection.execute(QUERIES["delete_moved"], given).rowcount

    def rollups(self) -> None:
        """Delete rollups. Where they are continuous aggregates, only whole chunks go, and those are gone by now."""
        with self._db.connection() as connection:
            if has_aggregates(connection):
                return
        for level, (first, deletes) in _ROLLUPS.items():
            before = self._removed.kept_from.get(level)
            for day in self._days(first, before, "rollups") if before is not None else ():
                self._removed.rollups += self._delete(deletes, day, day + DAY)

    def ledger(self, before: datetime) -> None:
        """Make one entry of those of a minute and sender."""
        for day in self._days("first_ledger_entry", before, "ledger"):
            span = {"start": day, "end": day + DAY}
            with self._db.transaction(TIMEOUT_S) as connection:
                entries = one(connection, "count_ledger", **span)
                kept = connection.execute(QUERIES["sum_up_ledger"], span).rowcount
                connection.execute(QUERIES["advance_level"], {"level": "ledger", "from_time": day + DAY})
            self._removed.ledger += entries - kept

    def _days(self, first: str, before: datetime, step: str) -> Iterator[datetime]:
        """Walk the days that have something. Whatever happens to one must move the first of them on."""
        while True:
            self._on_step(step)
            with self._db.transaction(TIMEOUT_S) as connection:
                moment: datetime | None = one(connection, first, before=before)
            if moment is None:
                return
            yield floor(moment, DAY)

    def _delete(self, names: Iterable[str], start: datetime, end: datetime) -> int:
        with self._db.transaction(TIMEOUT_S) as connection:
            return sum(connection.execute(QUERIES[name], {"start": start, "end": end}).rowcount for name in names)


def aggregates_of(connection: Connected, level: Level) -> Sequence[str]:
    """Return the continuous aggregates of a level, whose chunks go as a whole; none where rollups are tables."""
    return [f"{name}_{level}" for name in _AGGREGATES] if has_aggregates(connection) else []


def one(connection: Connected, name: str, **given: Any) -> Any:
    """Return the only value that a query gives."""
    row = connection.execute(QUERIES[name], given).fetchone()
    return None if row is None else row[0]
