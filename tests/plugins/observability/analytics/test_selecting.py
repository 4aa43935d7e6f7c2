"""An exact percentile without sorting all events: the same as by sorting them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.observability.analytics.selecting import QUICKER, percentile_among
from tests.plugins.observability.analytics.computing import percentile_cont
from tests.plugins.observability.rollups.test_bins import bin_of, histogram

_latencies = st.lists(st.integers(0, 20) | st.integers(0, 2**31 - 1), min_size=1, max_size=60)


def told_apart(latencies: Sequence[int], low_ms: int, high_ms: int) -> Counter[int | None]:
    return Counter(QUICKER if each < low_ms else each if each <= high_ms else None for each in latencies)


@given(_latencies, st.floats(0, 100))
def test_what_lies_around_a_percentile_is_enough_to_tell_it(latencies: Sequence[int], percentile: float) -> None:
    around = histogram(Counter(map(bin_of, latencies))).around_ms(percentile)

    assert around is not None
    found = percentile_among(told_apart(latencies, *around), percentile / 100)
    assert found == pytest.approx(percentile_cont(latencies, percentile), rel=1e-12)


@given(_latencies, st.integers(0, 30), st.integers(0, 30), st.floats(0, 100))
def test_a_percentile_that_lies_elsewhere_is_not_made_up(
    latencies: Sequence[int], low_ms: int, more_ms: int, percentile: float
) -> None:
    found = percentile_among(told_apart(latencies, low_ms, low_ms + more_ms), percentile / 100)

    assert found is None or found == pytest.approx(percentile_cont(latencies, percentile), rel=1e-12)


def test_without_events_there_is_none() -> None:
    assert percentile_among({}, 0.95) is None
