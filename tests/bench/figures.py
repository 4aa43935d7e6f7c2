"""What a bench finds, and how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from kernel.cli.output import print_table


class Figure(msgspec.Struct, frozen=True):
    """One measured figure.

    Args:
        name: What was measured.
        value: A ratio, unless ``unit`` says otherwise.
        target: The bound it should keep; None where there is none, or where this run is too small to tell.
        bound: Whether the value should be at least or at most the target.
        unit: ``ratio``, ``s``, ...
        detail: The absolute figures behind it, for the record only.
    """

    name: str
    value: float
    target: float | None
    bound: Literal["at least", "at most"] = "at least"
    unit: str = "ratio"
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target is kept, if there is one."""
        if self.target is None:
            return True
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target


Measure = Callable[[], float]


def in_turn(first: Measure, second: Measure, rounds: int) -> tuple[float, float, float]:
    """Measure two things in turn, A B B A, and return the median of the ratios and of each.

    Args:
        first: Returns a speed or a time.
        second: Returns the same of the baseline.
        rounds: Pairs.

    Returns:
        Median of first/second, median of first, median of second.
    """
    firsts: list[float] = []
    seconds: list[float] = []
    for number in range(rounds):
        # Whatever drifts while a pair is measured helps each of them every other time.
        if number % 2:
            seconds.append(second())
            firsts.append(first())
        else:
            firsts.append(first())
            seconds.append(second())
    ratios = [one / other for one, other in zip(firsts, seconds, strict=True)]
    return statistics.median(ratios), statistics.median(firsts), statistics.median(seconds)


def show(figures: Sequence[Figure], path: Path) -> None:
    """Print the figures as a table and write them to a JSON file."""
    rows = [
        (
            figure.name,
            f"{figure.value:.2f} {'' if figure.unit == 'ratio' else figure.unit}".strip(),
            "" if figure.target is None else f"{figure.bound} {figure.target:g}",
            "" if figure.target is None else "ok" if figure.ok else "SHORT",
            figure.detail,
        )
        for figure in figures
    ]
    print_table(("figure", "measured", "target", "", "detail"), rows)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
