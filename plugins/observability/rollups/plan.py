"""Cut a window of time into parts, each read from the coarsest level that knows it exactly."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

Level = Literal["raw", "hour", "day"]
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ALWAYS = datetime.min.replace(tzinfo=UTC)


class Span(msgspec.Struct, frozen=True, order=True):
    """A stretch of time: from its start up to but without its end."""

    start: datetime
    end: datetime


class Kept(msgspec.Struct, frozen=True):
    """From when on each level still has everything."""

    raw: datetime = ALWAYS
    hour: datetime = ALWAYS
    day: datetime = ALWAYS


class Plan(msgspec.Struct, frozen=True):
    """What to read for a window.

    Args:
        days: From rollups by day.
        hours: From rollups by hour.
        raw: From the events.
    """

    days: tuple[Span, ...] = ()
    hours: tuple[Span, ...] = ()
    raw: tuple[Span, ...] = ()

    @property
    def source(self) -> Literal["daily", "hourly", "raw"]:
        """The coarsest level that is read."""
        return "daily" if self.days else "hourly" if self.hours else "raw"

    @property
    def covered(self) -> Span | None:
        """What is read, from its first to its last moment: more than the window where whole buckets had to do."""
        spans = sorted((*self.days, *self.hours, *self.raw))
        return Span(spans[0].start, max(span.end for span in spans)) if spans else None


def make_plan(window: Span, touched: Collection[datetime], kept: Kept, coarsest: Level) -> Plan:
    """Cut a window into whole days, whole hours and the rest.

    Args:
        window: What is asked for.
        touched: Hours whose rollups do not know every event.
        kept: What retention left. Where events are gone, whole buckets have to do.
        coarsest: The level above which nothing is read.
    """
    if coarsest == "raw":
        # Where there are no events any more there is nothing better than rollups.
        gone = Span(window.start, min(window.end, kept.raw))
        rest = Span(max(window.start, kept.raw), window.end)
        older = make_plan(gone, touched, kept, "day") if gone.start < gone.end else Plan()
        return _merged(older.days, older.hours, (*older.raw, *_nonempty(rest)))
    days: list[Span] = []
    hours: list[Span] = []
    raw: list[Span] = []
    dirty_days = {floor(hour, DAY) for hour in touched}
    dirty = frozenset(touched)
    for day in _buckets(window, DAY):
        is_clean = day.start not in dirty_days and _holds(window, day)
        if (coarsest == "day" and is_clean) or day.start < kept.hour:
            days.append(day)  # before that, the only level that still knows
            continue
        for hour in _buckets(_cut(day, window), HOUR):
            if hour.start < kept.raw or (hour.start not in dirty and _holds(window, hour)):
                hours.append(hour)
            else:
                raw.append(_cut(hour, window))
    return _merged(days, hours, raw)


def floor(moment: datetime, step: timedelta) -> datetime:
    """Return the start of the hour or day, UTC, that a moment lies in."""
    zero = datetime(2000, 1, 1, tzinfo=UTC)
    return zero + (moment - zero) // step * step


def _buckets(window: Span, step: timedelta) -> Iterable[Span]:
    start = floor(window.start, step)
    while start < window.end:
        yield Span(start, start + step)
        start += step


def _holds(window: Span, bucket: Span) -> bool:
    return window.start <= bucket.start and bucket.end <= window.end


def _cut(bucket: Span, window: Span) -> Span:
    return Span(max(window.start, bucket.start), min(window.end, bucket.end))


def _merged(days: Iterable[Span], hours: Iterable[Span], raw: Iterable[Span]) -> Plan:
    return Plan(_join(days), _join(hours), _join(raw))


def _join(spans: Iterable[Span]) -> tuple[Span, ...]:
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined)


def _nonempty(span: Span) -> tuple[Span, ...]:
    return (span,) if span.start < span.end else ()
