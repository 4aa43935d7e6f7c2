"""Groups of requests: the dimensions that divide them, which are shown in what order, and names of percentiles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

from kernel import InvalidError

# The words that are accepted: ``status`` is short for ``status_code``.
DimensionName = Literal["service", "endpoint", "method", "status_code", "status", "application"]
Dimension = Literal["service", "endpoint", "method", "status_code", "application"]
Direction = Literal["asc", "desc"]
# The values of the dimensions of a group, in their order.
GroupKey = tuple[str | int | None, ...]

ENDPOINTS: tuple[Dimension, ...] = ("service", "endpoint")
P95 = 95.0
FIGURES = ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms")
# p95, p99.9, p99_9, with or without the unit.
_PERCENTILE = re.compile(r"p([0-9]{1,3}(?:[._][0-9]{1,15})?)(?:_latency_ms)?", re.ASCII)


class Ranking(msgspec.Struct, frozen=True):
    """Which groups are shown.

    Args:
        by: The figure that they are ordered by; a number is a percentile of latency.
        direction: ``desc`` has the largest first.
        limit: How many groups are shown.
    """

    by: str | float = "hits"
    direction: Direction = "desc"
    limit: int = 20

    @property
    def percentile(self) -> float | None:
        """The percentile that groups are ordered by; None if it is another figure."""
        return self.by if isinstance(self.by, float) else None

    def rank(self, figures: Mapping[GroupKey, float | None]) -> Sequence[GroupKey]:
        """Return the groups to show, in order.

        Those with equal figures are in order of their names, those without a figure are last, in either direction.
        """
        by_name = sorted(figures, key=_names)
        known = [key for key in by_name if figures[key] is not None]
        known.sort(key=lambda key: figures[key] or 0, reverse=self.direction == "desc")
        return [*known, *(key for key in by_name if figures[key] is None)][: self.limit]


def parse_dimensions(names: Iterable[DimensionName]) -> tuple[Dimension, ...]:
    """Return the dimensions that a request names, each of them once."""
    return tuple(dict.fromkeys("status_code" if name == "status" else name for name in names))


def parse_sort_key(text: str) -> str | float:
    """Parse what rows are sorted by: a figure, or a percentile such as ``p99``, ``p99.9`` or ``p99_9_latency_ms``.

    Raises:
        InvalidError: It is neither.
    """
    if text in FIGURES:
        return text
    if f"{text}_latency_ms" in FIGURES:
        return f"{text}_latency_ms"
    match = _PERCENTILE.fullmatch(text)
    percentile = float(match[1].replace("_", ".")) if match is not None else None
    if percentile is None or percentile > 100:
        message = f"Expected {' or '.join(FIGURES)}, or a percentile such as p95 or p99.9, got {text!r:.80}."
        raise InvalidError(errors={"sort_by": [message]})
    return percentile


def percentile_name(percentile: float) -> str:
    """Return a percentile as text without an exponent or trailing zeros: ``99.9``."""
    text = format(Decimal(repr(percentile)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def percentile_field(percentile: float) -> str:
    """Return the name of a percentile in rows: ``p99_9_latency_ms``."""
    return f"p{percentile_name(percentile).replace('.', '_')}_latency_ms"


def label(dimensions: Sequence[Dimension], key: GroupKey) -> dict[str, Any]:
    """Return the values of a group by dimension."""
    return dict(zip(dimensions, key, strict=True))


def _names(key: GroupKey) -> list[tuple[bool, Any]]:
    """Return a sort key by name. What has no value, as the application of a service that nobody owns, is last."""
    return [(part is None, part) for part in key]
