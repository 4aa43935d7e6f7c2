"""How rollup tables are stored."""

from __future__ import annotations

from typing import LiteralString

import pytest

from kernel.testing import Client
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import run_statement
from tests.plugins.observability.events import make_event

pytestmark = pytest.mark.engines("embedded_engine", "oldest_engine")

INT32_MAX = 2**31 - 1
STORED: tuple[LiteralString, ...] = (
    "SELECT pg_column_size(histograms), pg_column_compression(histograms) FROM observability.rollup_day",
    "SELECT pg_column_size(histograms), pg_column_compression(histograms) FROM observability.coarse_hour",
    "SELECT pg_column_size(histograms), pg_column_compression(histograms) FROM observability.coarse_day",
)


def test_the_longest_histogram_is_stored_inline_and_uncompressed(client: Client) -> None:
    # More than a thousand digits between them are zeros, which compress best.
    ingest(client, [make_event(latency_ms=latency_ms) for latency_ms in (0, INT32_MAX)])
    container_of(client).rollups.refresh()

    stored = [run_statement(client, query) for query in STORED]

    for ((size_bytes, compression),) in stored:
        assert size_bytes > 6000
        assert compression is None
