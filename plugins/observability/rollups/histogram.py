"""Latency histograms with bins of equal relative width, and percentiles from them (DDSketch).

Source: https://www.vldb.org/pvldb/vol12/p2195-masson.pdf. The database computes bins with
``observability.latency_bin``, and packs a histogram into one number with ``observability.histogram_of``; see
migrations/0002_rollups.sql.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

# The bin i holds latencies in (GAMMA ** (i - 1), GAMMA ** i] ms.
GAMMA = 1.02
# (GAMMA - 1) / (GAMMA + 1) is 0.0099; the rest is room for rounding.
MAX_RELATIVE_ERROR = 0.01
# How much longer, relatively, the highest latency of a bin is than the lowest.
BIN_WIDTH = 0.02
# Latency 0 has a separate bin, below all others.
ZERO_BIN = -1
_DIGITS_PER_BIN = 12
# In ms; six for each power of ten, as they fit on a logarithmic scale. Latencies are whole ms.
BOUNDS_MS: tuple[int, ...] = (
    *(1, 2, 3, 5, 7),
    *(factor * 10**power for power in range(9) for factor in (10, 15, 20, 30, 50, 70) if factor * 10**power < 2**31),
    2**31 - 1,
)


def bin_value_ms(number: int) -> float:
    """Return the latency that represents a bin, in ms: the one with the least relative error to both of its ends."""
    if number <= ZERO_BIN:
        return 0.0
    return 2 * GAMMA**number / (GAMMA + 1)


class Histogram:
    """Hits by bin.

    Args:
        packed: A decimal number with twelve digits for each bin, those of the lowest bin last; empty without hits.
    """

    def __init__(self, packed: str) -> None:
        padded = packed.zfill(-(-len(packed) // _DIGITS_PER_BIN) * _DIGITS_PER_BIN)
        hits = [
            int(padded[start : start + _DIGITS_PER_BIN])
            for start in range(len(padded) - _DIGITS_PER_BIN, -1, -_DIGITS_PER_BIN)
        ]
        # The hits of each bin and of all lower ones.
        self._running_totals = list(accumulate(hits))

    @property
    def hits(self) -> int:
        """How many there are."""
        return self._running_totals[-1] if self._running_totals else 0

    def hits_up_to(self, latency_ms: float) -> int:
        """Return how many hits took at most so long, and all that share its bin: ``BIN_WIDTH`` longer at most."""
        if not self._running_totals or latency_ms < 0:
            return 0
        # Its bin: see observability.latency_bin. It counts as a whole, so that round latencies are on the right side.
        last = ZERO_BIN if latency_ms < 1 else math.ceil(math.log(latency_ms) / math.log(GAMMA))
        return self._running_totals[min(last - ZERO_BIN, len(self._running_totals) - 1)]

    def percentile_ms(
        self, percentile: float, lowest_ms: float | None = None, highest_ms: float | None = None
    ) -> float | None:
        """Return a percentile in ms, interpolated between neighbours as PostgreSQL's ``percentile_cont`` does.

        Args:
            percentile: From 0 to 100.
            lowest_ms: The lowest latency, if it is known: percentile 0, and the least that others can be.
            highest_ms: The highest latency, if it is known: percentile 100, and the most that others can be.

        Returns:
            At most ``MAX_RELATIVE_ERROR`` off; None if there are no hits.
        """
        if not self._running_totals:
            return None
        last = self._running_totals[-1] - 1
        # What the histogram knows of the ends, where nobody knows more.
        lowest = self._value_ms(0) if lowest_ms is None else float(lowest_ms)
        highest = self._value_ms(last) if highest_ms is None else float(highest_ms)

        ends = {0: lowest, last: highest}
        rank = percentile / 100 * last
        below = int(rank)
        above = min(below + 1, last)
        low, high = (ends[at] if at in ends else self._value_ms(at) for at in (below, above))
        return min(max(low + (high - low) * (rank - below), lowest), highest)

    def _value_ms(self, position: int) -> float:
        """Return the latency at a position, from 0, of all hits in order."""
        return bin_value_ms(bisect_right(self._running_totals, position) + ZERO_BIN)
