"""Plan a read: cut a window into parts, each read from the coarsest resolution that is exact for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from plugins.observability.resolution import DAY, HOUR, Resolution, Span, ceil, floor
from plugins.observability.retention.watermark import Watermarks


class ReadPlan(msgspec.Struct, frozen=True):
    """What to read for a window: spans that are disjoint and in order.

    Args:
        days: From daily rollups.
        hours: From hourly rollups.
        raw: From the events.
    """

    days: tuple[Span, ...] = ()
    hours: tuple[Span, ...] = ()
    raw: tuple[Span, ...] = ()

    @property
    def parts(self) -> Sequence[tuple[Resolution, Sequence[Span]]]:
        """The resolutions that are read and their spans, the coarsest first."""
        parts = ((Resolution.DAY, self.days), (Resolution.HOUR, self.hours), (Resolution.RAW, self.raw))
        return [(resolution, spans) for resolution, spans in parts if spans]

    @property
    def source(self) -> Resolution:
        """The coarsest resolution that is read."""
        return Resolution.DAY if self.days else Resolution.HOUR if self.hours else Resolution.RAW

    @property
    def covered(self) -> Span | None:
        """What is read, from start to end; None if nothing is.

        More than the window where it cuts a bucket of which the events were removed; less where the rollups were
        removed as well.
        """
        spans = [*self.days, *self.hours, *self.raw]
        return Span(min(span.start for span in spans), max(span.end for span in spans)) if spans else None


def make_plan(
    window: Span, dirty_hours: Collection[datetime], watermarks: Watermarks, coarsest: Resolution
) -> ReadPlan:
    """Cut a window into whole days, whole hours and the rest.

    The cost grows with the number of dirty hours, not with the length of the window.

    Args:
        window: The window of the request.
        dirty_hours: Hours whose rollups do not include all events: they are read from the events.
        watermarks: What retention has left. Where events were removed, rollups are read in whole buckets; what was
            removed at every resolution is left out.
        coarsest: No coarser resolution is read where this one is left.
    """
    start = max(window.start, watermarks.day)
    if start >= window.end:
        return ReadPlan()
    only_days = _whole_buckets_around(Span(start, min(window.end, watermarks.hour)), DAY)
    rest = Span(max(start, only_days[-1].end) if only_days else start, window.end)
    without_events = Span(rest.start, min(rest.end, watermarks.raw))
    with_events = Span(max(rest.start, watermarks.raw), rest.end)
    # Without events, rollups are the finest that there is, also for a request that asks for events.
    by_day = {
        Resolution.DAY: rest,
        Resolution.HOUR: Span(rest.end, rest.end),
        Resolution.RAW: without_events,
    }[coarsest]
    days = _clean_buckets_within(by_day, {floor(hour, DAY) for hour in dirty_hours}, DAY)
    hours = _subtract(_whole_buckets_around(without_events, HOUR), days)
    if coarsest is not Resolution.RAW:
        hours = [*hours, *_subtract(_clean_buckets_within(with_events, dirty_hours, HOUR), days)]
    raw = _subtract([with_events], sorted((*days, *hours)))
    return ReadPlan(_join((*only_days, *days)), _join(hours), _join(raw))


def _whole_buckets_around(span: Span, step: timedelta) -> Sequence[Span]:
    """Widen a span to whole buckets."""
    return [Span(floor(span.start, step), ceil(span.end, step))] if span.start < span.end else []


def _clean_buckets_within(span: Span, dirty: Collection[datetime], step: timedelta) -> Sequence[Span]:
    """Narrow a span to whole buckets, and leave out the dirty ones."""
    if span.start >= span.end:
        return []
    whole = Span(ceil(span.start, step), floor(span.end, step))
    return _subtract([whole], [Span(bucket, bucket + step) for bucket in sorted(dirty)])


def _subtract(spans: Iterable[Span], others: Sequence[Span]) -> Sequence[Span]:
    """Return what is left of spans without others, which are sorted and disjoint."""
    ends = [other.end for other in others]
    rest: list[Span] = []
    for span in spans:
        start = span.start
        for index in range(bisect_right(ends, span.start), len(others)):
            other = others[index]
            if other.start >= span.end:
                break
            if start < other.start:
                rest.append(Span(start, other.start))
            start = max(start, other.end)
        if start < span.end:
            rest.append(Span(start, span.end))
    return rest


def _join(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Sort spans, and join those that touch each other."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined)
