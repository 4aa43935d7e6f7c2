"""Read ``start`` and ``end``."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from kernel import InvalidError, parse_time
from plugins.observability.rollups.plan import DAY, Span

# The database keeps microseconds, and an end is inclusive.
TICK = timedelta(microseconds=1)
# Room to both sides for a default length, and for whole buckets. Nothing lies out there.
_MARGIN = timedelta(days=10)
_FIRST = datetime.min.replace(tzinfo=UTC) + _MARGIN
_LAST = datetime.max.replace(tzinfo=UTC) - _MARGIN


def read_window(start: str | None, end: str | None, now: datetime, length: timedelta) -> Span:
    """Return the window a question is about.

    Args:
        start: ISO date or time, or None for one length before the end.
        end: The same, inclusive; a date alone is the end of that day, UTC. None is now.
        now: The time.
        length: See ``start``.

    Raises:
        InvalidError: One of them is no time, or the start is after the end.
    """
    last = now if end is None else _read("end", end)
    if end is not None and _is_date(end):
        last += DAY - TICK
    first = last - length if start is None else _read("start", start)
    if first > last:
        message = f"Expected a time not after the end, {last.isoformat()}, got {first.isoformat()}."
        raise InvalidError(errors={"start": [message]})
    return Span(first, last + TICK)


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return bool(date.fromisoformat(text.strip()))
    return False


def _read(name: str, text: str) -> datetime:
    try:
        return min(max(parse_time(text), _FIRST), _LAST)
    except ValueError:
        raise InvalidError(errors={name: [f"Expected an ISO 8601 date or time, got {text!r:.80}."]}) from None
