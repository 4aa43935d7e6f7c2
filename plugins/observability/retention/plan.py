"""Plan a removal: what would be removed, and which analytics would no longer be exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from psycopg import Connection
from psycopg.rows import TupleRow

from kernel import Database, load_queries
from plugins.observability.resolution import Resolution
from plugins.observability.retention.watermark import RetentionLimits
from plugins.observability.rollups.dirty_buckets import count_dirty_hours
from plugins.observability.timescale import continuous_aggregates, count_chunks, is_hypertable

QUERIES = load_queries(__package__)
# By resolution: the query for the oldest event or bucket, and the one that estimates how many there are.
_OLDEST_AND_ESTIMATE: Mapping[Resolution, tuple[str, str]] = {
    Resolution.RAW: ("oldest_event", "estimate_events"),
    Resolution.HOUR: ("oldest_hour", "estimate_hours"),
    Resolution.DAY: ("oldest_day", "estimate_days"),
}
_CONSEQUENCES: Mapping[Resolution, Sequence[str]] = {
    Resolution.RAW: (
        "lists, traces, exports and single events end there",
        "percentiles come from histograms, at most 1 % off",
        "a window that begins within an hour is answered by the whole hour; `covered` says so",
    ),
    Resolution.HOUR: (
        "hourly rows end there",
        "a window that begins within a day is answered by the whole day; `covered` says so",
    ),
    Resolution.DAY: ("nothing is known",),
}


class PlannedRemoval(msgspec.Struct, frozen=True):
    """What would be removed of one resolution.

    Args:
        level: The resolution.
        setting: The setting that limits it, and its value.
        before: What is older would be removed.
        oldest: The oldest event or bucket that would be removed; None if nothing would.
        items: How many events, estimated, or rows of rollups.
        partitions: How many partitions or chunks would be dropped as a whole.
        touched_hours: How many dirty hours would be computed first.
        consequences: What changes for analytics of the time before.
    """

    level: Resolution
    setting: str
    before: datetime
    oldest: datetime | None
    items: int
    partitions: int
    touched_hours: int
    consequences: Sequence[str]


def plan_removal(db: Database, limits: RetentionLimits, now: datetime) -> list[PlannedRemoval]:
    """Return what would be removed of each resolution that has a limit."""
    with db.transaction() as connection:
        return [
            _plan(connection, resolution, getattr(limits, resolution), cutoff)
            for resolution, cutoff in limits.cutoffs(now).items()
        ]


def _plan(connection: Connection[TupleRow], resolution: Resolution, days: int, before: datetime) -> PlannedRemoval:
    oldest_query, estimate_query = _OLDEST_AND_ESTIMATE[resolution]
    dirty_hours = count_dirty_hours(connection, before) if resolution is Resolution.RAW else 0
    ((oldest,),) = connection.execute(QUERIES[oldest_query], {"before": before})
    items = 0
    # The planner estimates rows even for tables that are empty.
    if oldest is not None:
        ((plan,),) = connection.execute(QUERIES[estimate_query], {"before": before})
        items = plan[0]["Plan"]["Plan Rows"]
    return PlannedRemoval(
        level=resolution,
        setting=f"{resolution.adjective}_days = {days}",
        before=before,
        oldest=oldest,
        items=items,
        partitions=_count_partitions(connection, resolution, before),
        touched_hours=dirty_hours,
        consequences=_CONSEQUENCES[resolution],
    )


def _count_partitions(connection: Connection[TupleRow], resolution: Resolution, before: datetime) -> int:
    if resolution is not Resolution.RAW:
        tables = continuous_aggregates(connection, resolution)
        return sum(count_chunks(connection, table, before) for table in tables)
    if is_hypertable(connection):
        return count_chunks(connection, "event", before)
    ((count,),) = connection.execute(QUERIES["count_partitions"], {"before": before})
    return int(count)
