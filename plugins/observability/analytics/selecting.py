"""An exact percentile of events of which only those around it are told apart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

# Stands for all events that are quicker than those that are told apart; None for all that are slower.
QUICKER = -1


def percentile_among(hits: Mapping[int | None, int], fraction: float) -> float | None:
    """Compute a percentile as PostgreSQL's ``percentile_cont`` does.

    Args:
        hits: By latency in ms; ``QUICKER`` and None for those that are not told apart.
        fraction: From 0 to 1.

    Returns:
        In ms; None if it does not lie among those that are told apart.
    """
    known = sorted(latency_ms for latency_ms in hits if latency_ms is not None and latency_ms != QUICKER)
    ends = list(accumulate((hits[latency_ms] for latency_ms in known), initial=hits.get(QUICKER, 0)))
    last = sum(hits.values()) - 1
    rank = fraction * last
    below = int(rank)
    places = [bisect_right(ends, place) - 1 for place in (below, min(below + 1, last))]
    if not all(0 <= place < len(known) for place in places):
        return None
    low_ms, high_ms = (known[place] for place in places)
    return low_ms + (rank - below) * (high_ms - low_ms)
