"""Say what retention would remove, and what can then not be answered any more as it can now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from kernel import Database
from plugins.observability.retention.limits import Limits
from plugins.observability.retention.sweeping import aggregates_of, one
from plugins.observability.rollups.plan import Level
from plugins.observability.rollups.touched import Connected

_SETTINGS: Mapping[Level, str] = {"raw": "raw_days", "hour": "hourly_days", "day": "daily_days"}
_QUERIES: Mapping[Level, tuple[str, str]] = {
    "raw": ("first_event", "estimate_events"),
    "hour": ("first_bucket_hour", "estimate_hours"),
    "day": ("first_bucket_day", "estimate_days"),
}
_CONSEQUENCES: Mapping[Level, Sequence[str]] = {
    "raw": (
        "lists, traces, exports and single events end there",
        "percentiles come from histograms, at most 1 % off",
        "a window that begins within an hour is answered by the whole hour; `covered` says so",
    ),
    "hour": (
        "hourly rows end there",
        "a window that begins within a day is answered by the whole day; `covered` says so",
    ),
    "day": ("nothing is known",),
}


class Going(msgspec.Struct, frozen=True):
    """What would go of a level.

    Args:
        level: Which.
        setting: That says so.
        before: What is older goes.
        oldest: The oldest thing that would go; None if nothing would.
        items: How many events, about, or rows of rollups.
        partitions: How many partitions or chunks are dropped as a whole.
        touched_hours: How many hours must be computed before, because their rollups do not know every event.
        consequences: What changes for questions about the time before.
    """

    level: Level
    setting: str
    before: datetime
    oldest: datetime | None
    items: int
    partitions: int
    touched_hours: int
    consequences: Sequence[str]


def make_plan(db: Database, limits: Limits, now: datetime) -> list[Going]:
    """Return what would go of each level that has a limit."""
    is_hypertable = db.engine.has_hypertables
    with db.transaction() as connection:
        return [
            _going(connection, level, getattr(limits, level), cutoff, is_hypertable=is_hypertable)
            for level, cutoff in limits.cutoffs(now).items()
        ]


def _going(connection: Connected, level: Level, days: int, before: datetime, *, is_hypertable: bool) -> Going:
    first, estimate = _QUERIES[level]
    touched = one(connection, "count_touched", before=before) if level == "raw" else 0
    oldest = one(connection, first, before=before)
    return Going(
        level=level,
        setting=f"{_SETTINGS[level]} = {days}",
        before=before,
        oldest=oldest,
        # The planner guesses at what it never looked at.
        items=0 if oldest is None else one(connection, estimate, before=before)[0]["Plan"]["Plan Rows"],
        partitions=_count_partitions(connection, level, before, is_hypertable=is_hypertable),
        touched_hours=touched,
        consequences=_CONSEQUENCES[level],
    )


def _count_partitions(connection: Connected, level: Level, before: datetime, *, is_hypertable: bool) -> int:
    if level == "raw" and not is_hypertable:
        return int(one(connection, "count_partitions", before=before))
    tables = ["event"] if level == "raw" else aggregates_of(connection, level)
    return sum(one(connection, "count_chunks", table=f"observability.{table}", before=before) for table in tables)
