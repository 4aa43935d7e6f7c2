"""Charts of pages: time series as lines or stacked bars, and heat maps of latency.

The macros of ``kernel/charts.html`` draw them as SVG.

A chart is complete without a script: it has a title for screen readers and a table of its values. With
``kernel/charts.js`` it also shows the values below the pointer, and zooms to the span of time that is dragged over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec

# ``rate`` is a number per minute.
Unit = Literal["count", "rate", "ms", "percent"]
# The names of the classes that give a series its colour.
Tone = Literal["first", "second", "third", "fourth", "good", "info", "warn", "bad", "muted", "before"]

# In units of the SVG, which is as wide as the place that it gets.
WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 58, 470, 12, 170
_TICKS_MAX = 5
# Of the rows of a heat map; more would not be legible.
_LABELS_MAX = 8
# Shades of a heat map.
LEVELS = 6
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_TICK_STEPS = tuple(
    timedelta(minutes=each)
    for each in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080, 20_160, 43_200)
)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Series(msgspec.Struct, frozen=True):
    """One line of a chart, or one layer of its bars.

    Args:
        name: Its label.
        tone: Its colour.
        values: One for each step, in the unit of the chart; None where there is no data.
    """

    name: str
    tone: Tone
    values: Sequence[float | None]


class Tick(NamedTuple):
    """A mark of an axis: its position along it, and its label."""

    at: float
    label: str


class Bar(NamedTuple):
    """A rectangle of a stacked bar."""

    tone: Tone
    x: float
    y: float
    width: float
    height: float


class Point(NamedTuple):
    """A value whose neighbours have no data: no line would show it."""

    tone: Tone
    x: float
    y: float


class Mark(msgspec.Struct, frozen=True):
    """A time at which something happened that charts may show the effects of, such as a deployment.

    Args:
        time: When.
        title: What happened.
        kind: The name of the class that gives it its colour.
    """

    time: datetime
    title: str
    kind: Literal["deploy", "job"] = "deploy"


class Line(NamedTuple):
    """A mark as a vertical line: its position, and what it says."""

    kind: str
    x: float
    label: str


class _OverTime(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What charts and heat maps have in common.

    Args:
        title: What is shown.
        starts: The start of each step, UTC, in order.
        step: The length of a step.
        marks: Vertical lines; those outside of the steps are left out.
    """

    title: str
    starts: Sequence[datetime]
    step: timedelta
    marks: Sequence[Mark] = ()

    @property
    def x_ticks(self) -> Sequence[Tick]:
        """Times below the chart; days where it is longer than two of them."""
        if not self.starts:
            return []
        end = self.starts[-1] + self.step
        length = end - self.starts[0]
        size = next((each for each in _TICK_STEPS if length / each <= _TICKS_MAX), length / _TICKS_MAX)
        time = self.starts[0] + (_EPOCH - self.starts[0]) % size
        ticks = []
        while time < end:
            x = self._x_of(time)
            label = f"{time:%H:%M}" if length <= timedelta(days=2) else f"{time.day} {time:%b}"
            # Nothing sticks out at either end.
            if LEFT + 4 <= x <= RIGHT - 14:
                ticks.append(Tick(x, label))
            time += size
        return ticks

    @property
    def lines(self) -> Sequence[Line]:
        """The marks."""
        if not self.starts:
            return []
        end = self.starts[-1] + self.step
        return [
            Line(each.kind, self._x_of(each.time), f"{each.time:%Y-%m-%d %H:%M} {each.title}")
            for each in self.marks
            if self.starts[0] <= each.time < end
        ]

    def _x_of(self, time: datetime) -> float:
        return round(LEFT + (RIGHT - LEFT) * ((time - self.starts[0]) / (self.step * len(self.starts))), 1)


class Chart(_OverTime, frozen=True, kw_only=True, dict=True):
    """Values over time.

    Args:
        unit: Of the values: a number, a number per minute, milliseconds, or a fraction that is shown as a percentage.
        series: What is drawn.
        stacked: Whether they are layers of bars; lines otherwise.
        overlay: Lines in addition, such as of the period before, over bars as well.
        levels: Values with a horizontal line, by their label.
    """

    unit: Unit
    series: Sequence[Series]
    stacked: bool = False
    overlay: Sequence[Series] = ()
    levels: Sequence[tuple[str, float]] = ()

    @property
    def all_series(self) -> Sequence[Series]:
        """Everything that has values."""
        return [*self.series, *self.overlay]

    @property
    def is_empty(self) -> bool:
        """Whether no step has data."""
        return not any(value for each in self.all_series for value in each.values)

    @property
    def y_ticks(self) -> Sequence[Tick]:
        """The horizontal lines, from zero to at least the largest value."""
        size = self._tick_size
        marks = [number * size for number in range(self._ticks + 1)]
        # Zero needs no unit, and would have another than the rest.
        return [Tick(self._y(mark), format_value(mark, self.unit) if mark else "0") for mark in marks]

    @property
    def level_ticks(self) -> Sequence[Tick]:
        """The horizontal lines of levels."""
        return [Tick(self._y(value), label) for label, value in self.levels]

    @property
    def paths(self) -> Sequence[tuple[Tone, str]]:
        """The lines, as path data of SVG; they are interrupted where there is no data."""
        return [(each.tone, path) for each in self._drawn_as_lines if (path := self._path(each.values))]

    @property
    def points(self) -> Sequence[Point]:
        """The values without neighbours."""
        return [
            Point(each.tone, self._x(number), self._y(value))
            for each in self._drawn_as_lines
            for number, value in enumerate(each.values)
            if value is not None and _is_alone(each.values, number)
        ]

    @property
    def bars(self) -> Sequence[Bar]:
        """The layers of the bars, from the lowest."""
        width = (RIGHT - LEFT) / max(1, len(self.starts))
        bars = []
        for number in range(len(self.starts)):
            below = 0.0
            for each in self.series:
                value = each.values[number] or 0
                if value:
                    top, bottom = self._y(below + value), self._y(below)
                    x = round(LEFT + width * (number + 0.1), 2)
                    bars.append(Bar(each.tone, x, top, round(width * 0.8, 2), round(bottom - top, 2)))
                below += value
        return bars

    @property
    def rows(self) -> Sequence[tuple[datetime, Sequence[str]]]:
        """The table: each step with its values, as text."""
        return [
            (start, [format_value(each.values[number], self.unit) for each in self.all_series])
            for number, start in enumerate(self.starts)
        ]

    @property
    def summary(self) -> str:
        """A sentence for those who do not see the chart."""
        if self.is_empty:
            return f"{self.title}: no data."
        names = ", ".join(each.name for each in self.all_series)
        first, end = self.starts[0], self.starts[-1] + self.step
        return f"{self.title}: {names}, {first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC. A table follows."

    @property
    def _drawn_as_lines(self) -> Sequence[Series]:
        return self.overlay if self.stacked else [*self.overlay, *self.series]

    @cached_property
    def _peak(self) -> float:
        values = [value for each in self._drawn_as_lines for value in each.values if value is not None]
        if self.stacked:
            values += [sum(each.values[number] or 0 for each in self.series) for number in range(len(self.starts))]
        return max([*values, *(value for _, value in self.levels)], default=0)

    @cached_property
    def _tick_size(self) -> float:
        peak = self._peak or (0.01 if self.unit == "percent" else 1)
        power: float = 10.0 ** math.floor(math.log10(peak / 4))
        # With room for rounding.
        size = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 4 >= peak * (1 - 1e-9))
        return size if self.unit in {"percent", "rate"} else max(1, size)

    @cached_property
    def _ticks(self) -> int:
        return max(1, math.ceil(self._peak / self._tick_size))

    def _x(self, number: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * (number + 0.5) / len(self.starts), 1)

    def _y(self, value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * value / (self._ticks * self._tick_size), 1)

    def _path(self, values: Sequence[float | None]) -> str:
        parts = []
        for number, value in enumerate(values):
            if value is not None and not _is_alone(values, number):
                command = "L" if number and values[number - 1] is not None else "M"
                parts.append(f"{command}{self._x(number)} {self._y(value)}")
        return "".join(parts)


class Sparkline(msgspec.Struct, frozen=True):
    """The course of one figure, without axes, as small as a line of text.

    Args:
        points: Times and values, in order of time.
    """

    points: Sequence[tuple[datetime, float]]

    @property
    def path(self) -> str:
        """The line, as path data of SVG."""
        start, end = self.points[0][0], self.points[-1][0]
        span_s = (end - start).total_seconds() or 1.0
        low, high = self._bounds
        return "".join(
            f"{'L' if number else 'M'}{_SPARK_WIDTH * (time - start).total_seconds() / span_s:.1f}"
            f" {_SPARK_HEIGHT * ((high - value) / (high - low) if high > low else 0.5):.1f}"
            for number, (time, value) in enumerate(self.points)
        )

    @property
    def summary(self) -> str:
        """A sentence for those who do not see it."""
        low, high = self._bounds
        since = f"{self.points[0][0]:%Y-%m-%d %H:%M} UTC"
        return f"{len(self.points)} values since {since}, from {_short(low)} to {_short(high)}"

    @property
    def _bounds(self) -> tuple[float, float]:
        values = [value for _, value in self.points]
        return min(values), max(values)


class Cell(NamedTuple):
    """A cell of a heat map: where it is, its shade from 1, and what it says and leads to."""

    x: float
    y: float
    width: float
    height: float
    level: int
    label: str
    href: str


class BinRow(NamedTuple):
    """The requests of a bin of latencies, over all steps.

    Args:
        label: The bin, such as ``50 \N{EN DASH} 70 ms``.
        hits: How many.
        share: Of all that took at most as long as the end of the bin; None without any.
        share_href: Leads to the same, of exactly that latency.
        href: Leads to the requests.
    """

    label: str
    hits: int
    share: float | None
    share_href: str
    href: str


class HeatMap(_OverTime, frozen=True, kw_only=True, dict=True):
    """Latencies over time: how many requests of a step took how long, by bins on a logarithmic scale.

    Args:
        bounds_ms: The highest latency of each bin, in order. What is drawn begins with the first that has requests.
        counts: For each step a number for each bin.
        href: Returns a link to the requests of a span of time and of latencies: from when, until when (None for both is
            everything that is shown), above which latency, and up to which.
        share_href: Returns a link to the share of requests that took at most some time.
    """

    bounds_ms: Sequence[int]
    counts: Sequence[Sequence[int]]
    href: Callable[[datetime | None, datetime | None, int, int], str]
    share_href: Callable[[int], str]

    @property
    def is_empty(self) -> bool:
        """Whether there is no request with a latency."""
        return not self._peak

    @property
    def summary(self) -> str:
        """A sentence for those who do not see it."""
        if self.is_empty:
            return f"{self.title}: no data."
        end = self.starts[-1] + self.step
        return (
            f"{self.title}: up to {format_value(self.bounds_ms[-1], 'ms')}, {self.starts[0]:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M} UTC. A table follows."
        )

    @property
    def cells(self) -> Sequence[Cell]:
        """What has requests."""
        if self.is_empty:
            return []
        width, height = (RIGHT - LEFT) / len(self.starts), self._row_height
        cells = []
        for number, (start, row) in enumerate(zip(self.starts, self.counts, strict=True)):
            time = f"{start:%Y-%m-%d %H:%M} UTC"
            for position, count in enumerate(row):
                if count:
                    low, high = self._bin(position)
                    cells.append(
                        Cell(
                            round(LEFT + width * number, 2),
                            round(BOTTOM - height * (position - self._first + 1), 2),
                            round(width, 2),
                            round(height, 2),
                            self._level(count),
                            f"{time}, {_bin_label(low, high)}: {format_value(count, 'count')}",
                            self.href(start, start + self.step, low, high),
                        )
                    )
        return cells

    @property
    def y_ticks(self) -> Sequence[tuple[Tick, str]]:
        """The ends of some bins, with links to the share of requests up to there."""
        every = max(1, -(-(len(self.bounds_ms) - self._first) // _LABELS_MAX))
        # From the highest down, which has a label whatever the number.
        return [
            (
                Tick(round(BOTTOM - self._row_height * (position - self._first + 1), 1), format_value(bound, "ms")),
                self.share_href(bound),
            )
            for position, bound in list(enumerate(self.bounds_ms))[self._first :][::-every]
        ]

    @property
    def legend(self) -> Sequence[tuple[int, str]]:
        """The shades, with the lowest number of requests of each."""
        lowest: dict[int, int] = {}
        for count in sorted({count for row in self.counts for count in row if count}):
            lowest.setdefault(self._level(count), count)
        return [(level, format_value(count, "count")) for level, count in sorted(lowest.items())]

    @property
    def rows(self) -> Sequence[BinRow]:
        """The table: each bin over all steps, the slowest first."""
        by_bin = [sum(row[position] for row in self.counts) for position in range(len(self.bounds_ms))]
        total, below, rows = sum(by_bin), 0, []
        for position, count in list(enumerate(by_bin))[self._first :]:
            low, high = self._bin(position)
            below += count
            share = below / total if total else None
            rows.append(
                BinRow(_bin_label(low, high), count, share, self.share_href(high), self.href(None, None, low, high))
            )
        return rows[::-1]

    @cached_property
    def _peak(self) -> int:
        return max((count for row in self.counts for count in row), default=0)

    @cached_property
    def _row_height(self) -> float:
        return (BOTTOM - TOP) / max(1, len(self.bounds_ms) - self._first)

    @cached_property
    def _first(self) -> int:
        """The first bin with requests."""
        used = (position for position in range(len(self.bounds_ms)) if any(row[position] for row in self.counts))
        return next(used, 0)

    def _bin(self, position: int) -> tuple[int, int]:
        """Return the latency that a bin begins above, -1 for the very first, and the one it ends with."""
        return self.bounds_ms[position - 1] if position else -1, self.bounds_ms[position]

    def _level(self, count: int) -> int:
        return 1 + min(LEVELS - 1, int(LEVELS * math.log(count) / math.log(self._peak))) if self._peak > 1 else LEVELS


def format_value(value: float | None, unit: Unit) -> str:
    """Return a value as people read it: ``1.2k``, ``3 /min``, ``250 ms``, ``2.5 s``, ``0.4 %``; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if unit == "rate":
        return f"{format_value(value, 'count')} /min"
    if unit == "percent":
        return f"{_short(value * 100)} %"
    if unit == "ms":
        return f"{_short(value / 1000)} s" if value >= 1000 else f"{_short(value)} ms"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= factor:
            return f"{_short(value / (1e3 if suffix == 'k' else factor))}{suffix}"
    return f"{_short(value)}"


def _bin_label(low_ms: int, high_ms: int) -> str:
    high = format_value(high_ms, "ms")
    return f"at most {high}" if low_ms < 0 else f"{format_value(low_ms, 'ms')} \N{EN DASH} {high}"


def _short(value: float) -> str:
    """Return a number as people read it: two decimals at most below ten, one below a hundred, none beyond."""
    if 0.0001 <= value < 0.1:
        return f"{value:.2g}"
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_alone(values: Sequence[float | None], number: int) -> bool:
    before = values[number - 1] if number else None
    after = values[number + 1] if number + 1 < len(values) else None
    return before is None and after is None
