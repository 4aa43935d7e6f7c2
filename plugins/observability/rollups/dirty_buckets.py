"""Dirty hours: hours with events that their rollups do not include yet.

Every transaction that writes events inserts their hours into the table ``rollup_touched``. Such an hour, and its day,
are dirty until a refresh has computed them. Writers only ever append, so that they never wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from psycopg import Connection
from psycopg.rows import TupleRow

from kernel import load_queries
from plugins.observability.resolution import BEGINNING, Span
from plugins.observability.retention.watermark import Watermarks

QUERIES = load_queries(__package__)
# What a REPEATABLE READ transaction over rollups and events begins with.
LOCK_EVENTS_SHARED = QUERIES["lock_events_shared"]
# A SELECT of the columns that ``RollupState.from_columns`` takes; queries of the analytics include it.
ROLLUP_STATE = QUERIES["rollup_state"]


class RollupState(msgspec.Struct, frozen=True):
    """Which rollups of a window can be read in place of events, in one snapshot of the database.

    Args:
        dirty_hours: Those of the window.
        first_dirty_hour: The first of all; None if there is none.
        watermarks: What retention has left.
    """

    dirty_hours: Collection[datetime]
    first_dirty_hour: datetime | None
    watermarks: Watermarks

    @classmethod
    def from_columns(
        cls, dirty_hours: Sequence[datetime], first_dirty_hour: datetime | None, from_times: Sequence[datetime | None]
    ) -> RollupState:
        """Make a state of the columns of ``ROLLUP_STATE``."""
        return cls(dirty_hours, first_dirty_hour, Watermarks(*(time or BEGINNING for time in from_times)))


def list_dirty_days(
    connection: Connection[TupleRow], span: Span, running_hour_wait_s: float
) -> Sequence[tuple[datetime, list[datetime]]]:
    """Return days with their dirty hours that are due for a refresh, the oldest first; last, days that have failed.

    Args:
        connection: In autocommit mode.
        span: Only hours that begin in it.
        running_hour_wait_s: The running hour is due once it has been dirty for this long.
    """
    values = {"start": span.start, "end": span.end, "running_hour_wait_s": running_hour_wait_s}
    return [(day, hours) for day, hours in connection.execute(QUERIES["list_dirty_days"], values)]


def mark_clean(connection: Connection[TupleRow], hours: Sequence[datetime]) -> None:
    """Delete the entries of some hours, those aside that others insert after the snapshot of this transaction."""
    connection.execute(QUERIES["mark_clean"], {"hours": list(hours)})


def deduplicate(connection: Connection[TupleRow]) -> None:
    """Keep only the oldest entry of each hour, as analytics read the whole table. No other session may refresh."""
    connection.execute(QUERIES["deduplicate_dirty_hours"])


def count_dirty_hours(connection: Connection[TupleRow], before: datetime) -> int:
    """Return how many hours before a time are dirty, and have events to be computed from."""
    row = connection.execute(QUERIES["count_dirty_hours"], {"before": before}).fetchone()
    return 0 if row is None else int(row[0])


def has_dirty_hours(connection: Connection[TupleRow], before: datetime) -> bool:
    """Tell whether any hour before a time is dirty, and has events to be computed from."""
    row = connection.execute(QUERIES["has_dirty_hours"], {"before": before}).fetchone()
    return row is not None and bool(row[0])
