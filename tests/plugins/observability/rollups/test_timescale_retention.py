"""Retention on TimescaleDB: chunks are dropped, which are a day long for events, and ten days or more for rollups."""

from __future__ import annotations

import pytest

from kernel.testing import Client
from plugins.observability.retention.watermark import RetentionLimits
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import run_statement
from tests.plugins.observability.events import stored_count
from tests.plugins.observability.rollups.factories import DAY, apply, keeping, kpis, store_at, today

pytestmark = [pytest.mark.xdist_group("timescale"), pytest.mark.engines("timescale_engine")]
KINDS = ("rollup", "histogram", "coarse", "coarse_totals")


def with_events(serve: Serve, *days_ago: int) -> Client:
    """Start a service with events of some days and clean rollups, which has not applied its limits yet."""
    client = serve(observability=keeping(raw_days=10, hourly_days=30, daily_days=100))
    # As if the events had been ingested in time.
    container_of(client).ingest._watermark._limits = RetentionLimits()
    store_at(client, *(today() - days * DAY for days in days_ago))
    container_of(client).rollups.refresh()
    return client


def days_of(client: Client, aggregate: str) -> set[int]:
    """Return of how many days ago an aggregate has something."""
    rows = run_statement(client, f"SELECT bucket FROM observability.{aggregate}")
    return {(today() - bucket).days for (bucket,) in rows}


def test_a_plan_counts_the_chunks_of_every_level_that_would_be_dropped(serve: Serve) -> None:
    client = with_events(serve, 5, 20, 50, 250)

    plan = container_of(client).retention.plan()
    removed = apply(client)

    assert {removal.level: removal.partitions for removal in plan} == {
        "raw": 3,
        "hour": 2 * len(KINDS),
        "day": len(KINDS),
    }
    assert (removed.partitions, removed.events, stored_count(client)) == (3 + 3 * len(KINDS), 0, 1)


def test_rollups_are_dropped_by_chunk_but_left_out_of_answers_by_day(serve: Serve) -> None:
    client = with_events(serve, 5, 20, 50, 100, 101, 250)

    apply(client)

    for kind in KINDS:
        assert days_of(client, f"{kind}_hour") == {5, 20}
        # Whether these two share a chunk depends on the date.
        assert days_of(client, f"{kind}_day") - {101} == {5, 20, 50, 100}
    # Kept as long as events.
    assert days_of(client, "seen_day") == {5}
    found = kpis(client)
    assert (found["hits"], found["covered"]["start"]) == (4, f"{(today() - 100 * DAY).date()}T00:00:00Z")


def test_the_refresh_policy_never_computes_hours_whose_events_were_removed(serve: Serve) -> None:
    client = with_events(serve, 5, 20)
    apply(client)
    run_statement(
        client, "INSERT INTO observability.rollup_touched (hour) SELECT bucket FROM observability.rollup_hour"
    )

    run_statement(client, "CALL observability.refresh_policy(0, NULL)")

    assert days_of(client, "rollup_hour") == {5, 20}
    assert kpis(client)["hits"] == 2
