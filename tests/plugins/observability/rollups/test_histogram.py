"""Histograms: no latency is more than 1 % off, nor any percentile."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.observability.rollups.histogram import GAMMA, MAX_RELATIVE_ERROR, ZERO_BIN, Histogram, bin_value_ms
from tests.plugins.observability.analytics.oracle import percentile_cont
from tests.plugins.observability.engines import every_engine

pytestmark = every_engine

INT32_MAX = 2**31 - 1
_latencies = st.integers(0, 20) | st.integers(0, INT32_MAX)


def bin_of(latency_ms: int) -> int:
    return math.ceil(math.log(latency_ms) / math.log(GAMMA)) if latency_ms else ZERO_BIN


def packed(hits: Mapping[int, int]) -> str:
    return "".join(f"{hits.get(at, 0):012}" for at in range(max(hits), ZERO_BIN - 1, -1)).lstrip("0")


def histogram(hits: Mapping[int, int]) -> Histogram:
    return Histogram(packed(hits))


def test_the_database_puts_every_latency_into_a_bin_within_the_bound(database: str) -> None:
    query = """
        SELECT latency_ms, observability.latency_bin(latency_ms)
        FROM (SELECT generate_series(0, 100000) UNION ALL SELECT round(power(1.0001, n))::integer
              FROM generate_series(115200, 214800) AS n UNION ALL SELECT 2147483647) AS each (latency_ms)
    """
    with psycopg.connect(database) as connection:
        rows = connection.execute(query).fetchall()

    assert len(rows) > 150_000
    assert [row for row in rows if abs(bin_value_ms(row[1]) - row[0]) > MAX_RELATIVE_ERROR * row[0]] == []


def test_latency_zero_has_a_bin_of_its_own(database: str) -> None:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT observability.latency_bin(n) FROM generate_series(0, 2) AS n").fetchall()

    zero, one, two = (number for (number,) in rows)
    assert zero < one < two
    assert bin_value_ms(zero) == 0


@given(st.lists(_latencies, min_size=1, max_size=60), st.floats(0, 100))
def test_a_percentile_is_within_the_bound_of_the_exact_one(latencies: Sequence[int], percentile: float) -> None:
    exact = percentile_cont(latencies, percentile)

    found = histogram(Counter(map(bin_of, latencies))).percentile_ms(percentile)

    assert found is not None
    assert abs(found - exact) <= MAX_RELATIVE_ERROR * exact


@given(st.lists(_latencies, min_size=1, max_size=60), st.floats(0, 100))
def test_a_percentile_lies_within_the_lowest_and_highest_latency(latencies: Sequence[int], percentile: float) -> None:
    exact = percentile_cont(latencies, percentile)
    lowest, highest = min(latencies), max(latencies)

    found = histogram(Counter(map(bin_of, latencies))).percentile_ms(percentile, lowest, highest)

    assert found is not None
    assert lowest <= found <= highest
    assert abs(found - exact) <= MAX_RELATIVE_ERROR * exact


@given(st.lists(_latencies, min_size=1, max_size=60))
def test_the_ends_are_exact_where_they_are_known(latencies: Sequence[int]) -> None:
    lowest, highest = min(latencies), max(latencies)
    found = histogram(Counter(map(bin_of, latencies)))

    assert [found.percentile_ms(each, lowest, highest) for each in (0, 100)] == [lowest, highest]


def test_no_hits_have_no_percentile() -> None:
    assert Histogram("").percentile_ms(50) is None


@pytest.mark.parametrize(("percentile", "expected"), [(0, 0.0), (100, bin_value_ms(10)), (50, bin_value_ms(10) / 2)])
def test_percentiles_lie_between_neighbours(percentile: float, expected: float) -> None:
    assert histogram({ZERO_BIN: 2, 10: 2}).percentile_ms(percentile) == pytest.approx(expected)


def test_a_sum_of_histograms_in_the_database_is_unpacked(database: str) -> None:
    most = 10**12 - 1
    hits = {ZERO_BIN: most, 0: 1, 5: most, 6: most, bin_of(INT32_MAX): 3}
    query = """
        SELECT sum(observability.histogram_of(hits, bin))::text
        FROM unnest(%s::smallint[], %s::bigint[]) AS each (bin, hits)
    """
    with psycopg.connect(database) as connection:
        ((found,),) = connection.execute(query, [list(hits), list(hits.values())])

    assert found == packed(hits)
