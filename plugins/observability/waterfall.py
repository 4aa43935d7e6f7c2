"""The waterfall of a trace: its requests as bars on a common scale of time, callers before what they call.

Spans of OpenTelemetry have their ids, and those of their callers, in the tags ``span_id`` and ``parent_span_id``.
Requests without them are shown in order of time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from kernel.http import format_value
from plugins.observability.models import Event

# The width of the whole, in units of the SVG; the narrowest bar is still seen.
_WIDTH, _NARROWEST = 1000, 4
_DEPTH_MAX = 12
# Classes of charts, which give services their colours; further services share the last.
_TONES = ("first", "second", "third", "info", "muted")


class Bar(NamedTuple):
    """A request in the waterfall.

    Args:
        event: The request.
        depth: How many callers of it are known.
        children: How many requests it made, as far as is known.
        start_ms: When it began, after the first request.
        length_ms: How long it took; 0 if that was not measured.
        self_ms: How long none of its own requests was running; None if it made none that are known.
        x: Where it begins, in thousandths of what is shown.
        width: How long it is, in the same unit.
        tone: The class of its service.
    """

    event: Event
    depth: int
    children: int
    start_ms: float
    length_ms: float
    self_ms: float | None
    x: float
    width: float
    tone: str

    @property
    def offset(self) -> str:
        """When it began, as text."""
        return format_value(self.start_ms, "ms")


class Waterfall(NamedTuple):
    """The bars of a trace.

    Args:
        bars: Those that are shown, callers before what they call.
        length_ms: How long the trace took: from its first request to the last answer.
        from_ms: What is shown begins here, after the first request.
        to_ms: And ends here.
        tones: The class of each service, in order of their first requests.
        errors: How many requests failed, of the whole trace.
        ticks: Times along the scale.
    """

    bars: Sequence[Bar]
    length_ms: float
    from_ms: float
    to_ms: float
    tones: Mapping[str, str]
    errors: int
    ticks: Sequence[str]


class _Ids(msgspec.Struct, frozen=True):
    span_id: str | None = None
    parent_span_id: str | None = None


_IDS = msgspec.json.Decoder(_Ids)


def make_waterfall(events: Sequence[Event], from_ms: float | None = None, to_ms: float | None = None) -> Waterfall:
    """Make the waterfall of a trace.

    Args:
        events: Its requests, in order of time; at least one.
        from_ms: Show only what is running after this time, counted from the first request.
        to_ms: Likewise, before this time.
    """
    first = events[0].time
    starts = [(event.time - first) / timedelta(milliseconds=1) for event in events]
    lengths = [float(event.latency_ms or 0) for event in events]
    length_ms = max(start + length for start, length in zip(starts, lengths, strict=True))
    low, high = min(from_ms or 0.0, length_ms), length_ms if to_ms is None else min(to_ms, length_ms)
    if high <= low:
        low, high = 0.0, length_ms
    scale = _WIDTH / (high - low) if high > low else 0.0
    services = dict.fromkeys(event.service for event in events)
    tones = {service: _TONES[min(at, len(_TONES) - 1)] for at, service in enumerate(services)}
    children = _children(events)
    bars = []
    for at, depth in _in_order(children, len(events)):
        start, end = starts[at], starts[at] + lengths[at]
        if end < low or start > high:
            continue
        begin, until = max(start, low), min(end, high)
        x = min(_WIDTH - _NARROWEST, (begin - low) * scale)
        called = children.get(at, [])
        bars.append(
            Bar(
                events[at],
                min(depth, _DEPTH_MAX),
                len(called),
                start,
                lengths[at],
                _self_ms(start, end, [(starts[each], starts[each] + lengths[each]) for each in called]),
                round(x, 1),
                round(max(_NARROWEST, (until - begin) * scale), 1),
                tones[events[at].service],
            )
        )
    ticks = [format_value(low + (high - low) * part / 4, "ms") for part in range(5)]
    errors = sum(event.status_code >= 500 for event in events)
    return Waterfall(bars, length_ms, low, high, tones, errors, ticks)


def _children(events: Sequence[Event]) -> Mapping[int | None, list[int]]:
    """Return positions of requests by that of their caller, in order of time; None for those without a known one."""
    ids = [_read_ids(event) for event in events]
    positions = {each.span_id: at for at, each in enumerate(ids) if each.span_id is not None}
    found: dict[int | None, list[int]] = defaultdict(list)
    for at, each in enumerate(ids):
        found[None if each.parent_span_id is None else positions.get(each.parent_span_id)].append(at)
    return found


def _read_ids(event: Event) -> _Ids:
    try:
        return _IDS.decode(event.tags)
    except (msgspec.DecodeError, RecursionError):
        return _Ids()


def _in_order(children: Mapping[int | None, Sequence[int]], count: int) -> Sequence[tuple[int, int]]:
    """Return positions with their depths, callers before what they call."""
    order: list[tuple[int, int]] = []
    seen: set[int] = set()
    # Ids that were made up may say that requests called each other in a circle: those are reached by none of the first.
    for first in (*children.get(None, ()), *range(count)):
        waiting = [(first, 0)]
        while waiting:
            at, depth = waiting.pop()
            if at not in seen:
                seen.add(at)
                order.append((at, depth))
                waiting += [(each, depth + 1) for each in reversed(children.get(at, ()))]
    return order


def _self_ms(start: float, end: float, called: Sequence[tuple[float, float]]) -> float | None:
    """Return how much of a span of time others do not cover; None without others."""
    if not called:
        return None
    covered, reached = 0.0, start
    for first, last in sorted(called):
        first, last = max(first, reached), min(last, end)
        if last > first:
            covered, reached = covered + last - first, last
    return max(0.0, end - start - covered)
