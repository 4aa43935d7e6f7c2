"""Oracle: the answers of the analytics, computed in plain Python from the events that were sent."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from plugins.observability.resolution import DAY, HOUR, floor

Event = Mapping[str, Any]
Row = dict[str, Any]


def percentile_cont(values: Sequence[int], percentile: float) -> float:
    """Compute a percentile as the SQL standard defines it."""
    ordered = sorted(values)
    rank = percentile / 100 * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def time_of(event: Event) -> datetime:
    """Return the time of an event."""
    return datetime.fromisoformat(event["time"])


def matching(events: Sequence[Event], start: datetime, end: datetime, filters: Mapping[str, str]) -> list[Event]:
    """Return the events of a window, its end inclusive, that some filters let through."""
    return [
        event
        for event in events
        if start <= time_of(event) <= end
        and all(event[name].lower() == value.lower() for name, value in filters.items())
    ]


def measured(events: Sequence[Event]) -> list[int]:
    """Return the latencies of the events that have one."""
    return [event["latency_ms"] for event in events if event["latency_ms"] is not None]


def summary(events: Sequence[Event], error_from: int = 500, percentiles: Sequence[float] = ()) -> Row:
    """Return the figures of some events; the percentiles, the 95th and further ones, are the exact ones."""
    latencies = measured(events)
    errors = sum(event["status_code"] >= error_from for event in events)
    return {
        "hits": len(events),
        "errors": errors,
        "error_rate": round(errors / len(events), 4) if events else 0.0,
        "avg_latency_ms": sum(latencies) / len(latencies) if latencies else None,
        "p95_latency_ms": percentile_cont(latencies, 95) if latencies else None,
        "max_latency_ms": max(latencies, default=None),
        **{
            f"p{each:g}_latency_ms".replace(".", "_"): percentile_cont(latencies, each) if latencies else None
            for each in percentiles
        },
    }


def groups(
    events: Sequence[Event], dimensions: Sequence[str], error_from: int = 500, percentiles: Sequence[float] = ()
) -> list[Row]:
    """Return the figures of each group, by the values of its dimensions, in their order."""
    divided = _grouped(events, lambda event: tuple(event[name] for name in dimensions))
    return [
        {**dict(zip(dimensions, key, strict=True)), **summary(group, error_from, percentiles)}
        for key, group in sorted(divided.items())
    ]


def active(events: Sequence[Event], dimensions: Sequence[str]) -> list[Row]:
    """Return the first and the last event of each group, by the values of its dimensions, in their order."""
    divided = _grouped(events, lambda event: tuple(event[name] for name in dimensions))
    counted = ("hits", "errors", "error_rate")
    return [
        {
            **dict(zip(dimensions, key, strict=True)),
            **{name: figure for name, figure in summary(group).items() if name in counted},
            "first_seen": _iso(min(map(time_of, group))),
            "last_seen": _iso(max(map(time_of, group))),
        }
        for key, group in sorted(divided.items())
    ]


def ranked(rows: Sequence[Row], sort_by: str, direction: str) -> list[Row]:
    """Return rows that are in order of name by a figure; equal ones stay in order of name, unknown ones are last."""

    def figure(row: Row) -> Any:
        if sort_by.endswith("_seen"):
            return datetime.fromisoformat(row[sort_by])
        return row["errors"] / row["hits"] if sort_by == "error_rate" else row[sort_by]

    known = [row for row in rows if figure(row) is not None]
    unknown = [row for row in rows if figure(row) is None]
    return [*sorted(known, key=figure, reverse=direction == "desc"), *unknown]


def hours(events: Sequence[Event]) -> list[Row]:
    """Return the figures of each hour, service and endpoint; the newest hour first."""
    rows = _buckets(events, lambda time: floor(time, HOUR))
    return [{name: value for name, value in row.items() if name != "p95_latency_ms"} for row in rows]


def days(events: Sequence[Event]) -> list[Row]:
    """Return the figures of each day, service and endpoint; the newest day first."""
    return _buckets(events, lambda time: floor(time, DAY))


def steps(events: Sequence[Event], step: timedelta, error_from: int = 500) -> list[Row]:
    """Return the figures of each step of time that has hits."""
    groups = _grouped(events, lambda event: (floor(time_of(event), step),))
    return [{"start": _iso(start), **summary(group, error_from)} for (start,), group in sorted(groups.items())]


def agrees(found: Any, expected: Any, *, relative_error: float = 0.0) -> bool:
    """Tell whether rows or figures are what they should be.

    Args:
        found: As answered; members that are not expected do not count.
        expected: From this module.
        relative_error: By how much percentiles may be off.
    """
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            agrees(*pair, relative_error=relative_error) for pair in zip(found, expected, strict=True)
        )
    close = all(_is_close(name, found[name], value, relative_error) for name, value in expected.items())
    return close and _has_consistent_latencies(found)


def _has_consistent_latencies(row: Row) -> bool:
    """Tell whether no percentile is above the maximum of the same row."""
    highest = row.get("max_latency_ms")
    percentiles = [row[name] for name in row if re.fullmatch("p[0-9_]+_latency_ms", name)]
    return highest is None or all(each is None or each <= highest for each in percentiles)


def _is_close(name: str, found: Any, expected: Any, relative_error: float) -> bool:
    if expected is None or found is None:
        return found is expected
    if name == "avg_latency_ms":
        return math.isclose(found, expected, rel_tol=1e-9)
    if re.fullmatch(r"p[0-9_]+_latency_ms", name):
        return bool(abs(found - expected) <= (relative_error + 1e-9) * expected)
    return bool(found == expected)


def _buckets(events: Sequence[Event], bucket_of: Callable[[datetime], datetime]) -> list[Row]:
    groups = _grouped(events, lambda event: (bucket_of(time_of(event)), event["service"], event["endpoint"]))
    rows = [
        {
            "bucket": _iso(bucket),
            "service": service,
            "endpoint": endpoint,
            **summary(group),
        }
        for (bucket, service, endpoint), group in sorted(groups.items())
    ]
    return sorted(rows, key=lambda row: str(row["bucket"]), reverse=True)


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _grouped(events: Sequence[Event], key_of: Callable[[Event], tuple[Any, ...]]) -> Mapping[Any, Sequence[Event]]:
    groups: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for event in events:
        groups[key_of(event)].append(event)
    return groups
