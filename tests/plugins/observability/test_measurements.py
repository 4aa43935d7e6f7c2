"""What ``/metrics`` shows of request logs, on every engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kernel.testing import Client
from tests.plugins.observability.engines import every_engine
from tests.plugins.observability.events import make_event, post_ingest

pytestmark = every_engine


def values(client: Client) -> dict[str, float]:
    """Return the values of a scrape by name and labels."""
    answer = client.get("/metrics")
    assert answer.status == 200, answer.content
    lines = [line for line in answer.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_what_was_sent_and_what_is_still_to_be_computed(client: Client) -> None:
    before = values(client)
    old = datetime.now(UTC) - timedelta(hours=3)
    post_ingest(
        client, [make_event(time=old.isoformat()), make_event(time=old.isoformat()), make_event(status_code=999)]
    )

    after = values(client)
    prefix = "tiercel_observability_"
    outcomes = {
        outcome: after[f'{prefix}events_total{{outcome="{outcome}"}}']
        - before[f'{prefix}events_total{{outcome="{outcome}"}}']
        for outcome in ("stored", "duplicate", "rejected")
    }
    assert outcomes == {"stored": 2, "duplicate": 0, "rejected": 1}
    assert after[f"{prefix}batch_events_count"] - before[f"{prefix}batch_events_count"] == 1
    assert 3 * 3600 <= after[f"{prefix}ingest_lag_seconds_sum"] - before[f"{prefix}ingest_lag_seconds_sum"] < 4 * 3600
    # The source was read a moment ago, and may be used again; the series only once a minute.
    assert (
        after['tiercel_source_up{source="observability"}']
        == after['tiercel_source_up{source="observability_series"}']
        == 1
    )
    assert after[f"{prefix}series_max"] == 50_000


def test_a_past_hour_waits_for_its_rollup(client: Client) -> None:
    old = datetime.now(UTC) - timedelta(hours=3)
    post_ingest(client, [make_event(time=old.isoformat())])
    found = values(client)
    assert found["tiercel_observability_rollup_waiting_hours"] == 1
    assert 0 < found["tiercel_observability_rollup_oldest_waiting_seconds"] < 60
