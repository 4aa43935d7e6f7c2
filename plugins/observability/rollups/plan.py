"""Cut a window of time into parts, each read from the coarsest level that knows it exactly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
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
    """From when on each level still has everything: a coarser level at least as long as a finer one."""

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
        """What is read, from its first to its last moment; None if nothing is.

        More than the window where whole buckets had to do, less where nothing is left.
        """
        spans = [*self.days, *self.hours, *self.raw]
        return Span(min(span.start for span in spans), max(span.end for span in spans)) if spans else None


def make_plan(window: Span, touched: Collection[datetime], kept: Kept, coarsest: Level) -> Plan:
    """Cut a window into whole days, whole hours and the rest.

    It costs as much as there are touched hours, however long the window is.

    Args:
        window: What is asked for.
        touched: Hours whose rollups do not know every event.
        kept: What retention left. Where events are gone, whole buckets have to do; what no level knows is left out.
        coarsest: The level above which nothing is read where a finer one is left.
    """
    start = max(window.start, kept.day)
    if start >= window.end:
        return Plan()
    only_days = _widened(Span(start, min(window.end, kept.hour)), DAY)
    left = Span(max(start, only_days[-1].end) if only_days else start, window.end)
    without_events = Span(left.start, min(left.end, kept.raw))
    with_events = Span(max(left.start, kept.raw), left.end)
    # Where there are no events any more there is nothing better than rollups, also for who asks for events.
    by_day = {"day": left, "hour": Span(left.end, left.end), "raw": without_events}[coarsest]
    days = _untouched(by_day, {floor(hour, DAY) for hour in touched}, DAY)
    hours = _minus(_widened(without_events, HOUR), days)
    if coarsest != "raw":
        hours = [*hours, *_minus(_untouched(with_events, touched, HOUR), days)]
    raw = _minus(_nonempty(with_events), sorted((*days, *hours)))
    return Plan(_join((*only_days, *days)), _join(hours), _join(raw))


def floor(moment: datetime, step: timedelta) -> datetime:
    """Return the start of the hour or day, UTC, that a moment lies in."""
    zero = datetime(2000, 1, 1, tzinfo=UTC)
    return zero + (moment - zero) // step * step


def _ceil(moment: datetime, step: timedelta) -> datetime:
    return floor(moment + step - datetime.resolution, step)


def _widened(span: Span, step: timedelta) -> Sequence[Span]:
    """Return the whole buckets that a span touches."""
    return [Span(floor(span.start, step), _ceil(span.end, step))] if span.start < span.end else []


def _untouched(span: Span, touched: Collection[datetime], step: timedelta) -> Sequence[Span]:
    """Return the whole buckets inside a span, but for those that were touched."""
    if span.start >= span.end:
        return []
    whole = _nonempty(Span(_ceil(span.start, step), floor(span.end, step)))
    return _minus(whole, [Span(bucket, bucket + step) for bucket in sorted(touched)])


def _minus(spans: Iterable[Span], taken: Sequence[Span]) -> Sequence[Span]:
    """Return what is left of spans without others, which are in order and apart."""
    ends = [span.end for span in taken]
    return [rest for span in spans for rest in _rests(span, islice(taken, bisect_right(ends, span.start), None))]


def _rests(span: Span, taken: Iterable[Span]) -> Iterator[Span]:
    start = span.start
    for other in taken:
        if other.start >= span.end:
            break
        yield from _nonempty(Span(start, other.start))
        start = max(start, other.end)
    yield from _nonempty(Span(start, span.end))


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
