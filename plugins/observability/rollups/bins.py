"""Latency histograms: bins of equal relative width, and percentiles out of them (DDSketch).

Source: https://www.vldb.org/pvldb/vol12/p2195-masson.pdf. The database makes the bins, with
``observability.latency_bin``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

GAMMA = 1.02
# (gamma - 1) / (gamma + 1) is 0.0099; the rest is room for rounding.
MAX_RELATIVE_ERROR = 0.01
ZERO_BIN = -1


def bin_value_ms(number: int) -> float:
    """Return the latency a bin stands for, in ms: its middle, where the relative error is least to both sides."""
    if number <= ZERO_BIN:
        return 0.0
    return 2 * GAMMA**number / (GAMMA + 1)


def between_ms(low: int, high: int, share: float) -> float:
    """Return the latency, in ms, that lies a share of the way from one bin to another."""
    low_ms, high_ms = bin_value_ms(low), bin_value_ms(high)
    return low_ms + (high_ms - low_ms) * share


def percentile_ms(histogram: Mapping[int, int], percentile: float) -> float | None:
    """Return a percentile in ms, interpolated between neighbours as PostgreSQL's ``percentile_cont`` does.

    Args:
        histogram: Hits by bin.
        percentile: From 0 to 100.

    Returns:
        At most ``MAX_RELATIVE_ERROR`` off; None if there are no hits.
    """
    bins = sorted(number for number, hits in histogram.items() if hits > 0)
    if not bins:
        return None
    ends = list(accumulate(histogram[number] for number in bins))
    rank = percentile / 100 * (ends[-1] - 1)
    below = int(rank)
    low, high = (bins[bisect_right(ends, place)] for place in (below, min(below + 1, ends[-1] - 1)))
    return between_ms(low, high, rank - below)
