"""Latency histograms: bins of equal relative width, and percentiles out of them (DDSketch).

Source: https://www.vldb.org/pvldb/vol12/p2195-masson.pdf. The database makes the bins, with
``observability.latency_bin``, and packs histograms into numbers, with ``observability.histogram_of``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

GAMMA = 1.02
# (gamma - 1) / (gamma + 1) is 0.0099; the rest is room for rounding.
MAX_RELATIVE_ERROR = 0.01
ZERO_BIN = -1
_DIGITS = 12


def bin_value_ms(number: int) -> float:
    """Return the latency a bin stands for, in ms: its middle, where the relative error is least to both sides."""
    if number <= ZERO_BIN:
        return 0.0
    return 2 * GAMMA**number / (GAMMA + 1)


class Histogram:
    """Hits by bin.

    Args:
        packed: A number with twelve digits for each bin, the lowest bin last; empty without hits.
    """

    def __init__(self, packed: str) -> None:
        padded = packed.zfill(-(-len(packed) // _DIGITS) * _DIGITS)
        hits = [int(padded[at : at + _DIGITS]) for at in range(len(padded) - _DIGITS, -1, -_DIGITS)]
        self._ends: Sequence[int] = list(accumulate(hits))

    def percentile_ms(self, percentile: float) -> float | None:
        """Return a percentile in ms, interpolated between neighbours as PostgreSQL's ``percentile_cont`` does.

        Args:
            percentile: From 0 to 100.

        Returns:
            At most ``MAX_RELATIVE_ERROR`` off; None if there are no hits.
        """
        if not self._ends:
            return None
        last = self._ends[-1] - 1
        rank = percentile / 100 * last
        below = int(rank)
        low_ms, high_ms = (self._value_ms(place) for place in (below, min(below + 1, last)))
        return low_ms + (high_ms - low_ms) * (rank - below)

    def _value_ms(self, place: int) -> float:
        return bin_value_ms(bisect_right(self._ends, place) + ZERO_BIN)
