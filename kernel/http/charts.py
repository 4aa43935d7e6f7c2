"""Charts of pages: time series as lines or stacked bars. The macros of ``kernel/charts.html`` draw them as SVG.

A chart is complete without a script: it has a title for screen readers and a table of its values. With
``kernel/charts.js`` it also shows the values below the pointer, and zooms to the span of time that is dragged over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

Unit = Literal["count", "ms", "percent"]
# The names of the classes that give a series its colour.
Tone = Literal["first", "second", "third", "good", "info", "warn", "bad", "muted"]

# In units of the SVG, which is as wide as the place that it gets.
WIDTH, HEIGHT = 480, 200
LEFT, RIGHT, TOP, BOTTOM = 58, 470, 12, 170
_TICKS_MAX = 5
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


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Values over time.

    Args:
        title: What is shown.
        unit: Of the values: a number, milliseconds, or a fraction that is shown as a percentage.
        starts: The start of each step, UTC, in order.
        step: The length of a step.
        series: What is drawn.
        stacked: Whether they are layers of bars; lines otherwise.
    """

    title: str
    unit: Unit
    starts: Sequence[datetime]
    step: timedelta
    series: Sequence[Series]
    stacked: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no step has data."""
        return not any(value for each in self.series for value in each.values)

    @property
    def y_ticks(self) -> Sequence[Tick]:
        """The horizontal lines, from zero to at least the largest value."""
        size = self._tick_size
        marks = [number * size for number in range(self._ticks + 1)]
        # Zero needs no unit, and would have another than the rest.
        return [Tick(self._y(mark), format_value(mark, self.unit) if mark else "0") for mark in marks]

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
            x = LEFT + (RIGHT - LEFT) * ((time - self.starts[0]) / length)
            label = f"{time:%H:%M}" if length <= timedelta(days=2) else f"{time.day} {time:%b}"
            # Nothing sticks out at either end.
            if LEFT + 4 <= x <= RIGHT - 14:
                ticks.append(Tick(round(x, 1), label))
            time += size
        return ticks

    @property
    def paths(self) -> Sequence[tuple[Tone, str]]:
        """The lines, as path data of SVG; they are interrupted where there is no data."""
        return [(each.tone, path) for each in self.series if (path := self._path(each.values))]

    @property
    def points(self) -> Sequence[Point]:
        """The values without neighbours."""
        return [
            Point(each.tone, self._x(number), self._y(value))
            for each in self.series
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
            (start, [format_value(each.values[number], self.unit) for each in self.series])
            for number, start in enumerate(self.starts)
        ]

    @property
    def summary(self) -> str:
        """A sentence for those who do not see the chart."""
        if self.is_empty:
            return f"{self.title}: no data."
        names = ", ".join(each.name for each in self.series)
        first, end = self.starts[0], self.starts[-1] + self.step
        return f"{self.title}: {names}, {first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC. A table follows."

    @property
    def _peak(self) -> float:
        if self.stacked:
            return max((sum(each.values[n] or 0 for each in self.series) for n in range(len(self.starts))), default=0)
        return max((value for each in self.series for value in each.values if value is not None), default=0)

    @property
    def _tick_size(self) -> float:
        peak = self._peak or (0.01 if self.unit == "percent" else 1)
        power: float = 10.0 ** math.floor(math.log10(peak / 4))
        size = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 4 >= peak)
        return size if self.unit == "percent" else max(1, size)

    @property
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


def format_value(value: float | None, unit: Unit) -> str:
    """Return a value as people read it: ``1.2k``, ``250 ms``, ``2.5 s``, ``0.4 %``; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if unit == "percent":
        return f"{_short(value * 100)} %"
    if unit == "ms":
        return f"{_short(value / 1000)} s" if value >= 1000 else f"{_short(value)} ms"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= factor:
            return f"{_short(value / (1e3 if suffix == 'k' else factor))}{suffix}"
    return f"{_short(value)}"


def _short(value: float) -> str:
    """Return a number with two decimals at most below ten, one below a hundred, none beyond."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_alone(values: Sequence[float | None], number: int) -> bool:
    before = values[number - 1] if number else None
    after = values[number + 1] if number + 1 < len(values) else None
    return before is None and after is None
