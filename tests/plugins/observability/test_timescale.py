"""Events in a hypertable, on TimescaleDB compiled for Node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.doctor.database import DatabaseReader
from kernel.doctor.report import gather
from kernel.testing import Client
from tests.plugins.observability.engines import TestedEngine, run_statement, serving_on
from tests.plugins.observability.events import UNSTORABLE_TAGS, create, listed, make_event, post_ingest, stored_count

pytestmark = pytest.mark.xdist_group("timescale")


@pytest.fixture(scope="module")
def client(timescale_engine: TestedEngine) -> Iterator[Client]:
    """A service on TimescaleDB."""
    with serving_on(timescale_engine) as started:
        yield started


def test_the_engine_is_recognised(client: Client) -> None:
    engine = client.get("/stats/").json()["engine"]

    assert (engine["name"], engine["vendor"]) == ("timescaledb", "postgresql")
    assert engine["timescaledb_version"].startswith("2.")
    assert client.get("/health/").json()["engine"].startswith("timescaledb ")


def test_chunks_of_recent_days_are_a_day_long(client: Client) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for time in (today - timedelta(days=1), today - timedelta(microseconds=1), today):
        create(client, time=time.isoformat(), service="chunks")

    assert chunk_days(client, today - timedelta(days=1), today + timedelta(days=1)) == [1, 1]


def test_ten_years_of_sparse_events_are_a_few_chunks_of_a_year(client: Client) -> None:
    events = [make_event(time=f"{2006 + month // 12}-{1 + month % 12:02}-15T12:00:00Z") for month in range(120)]

    answer = post_ingest(client, events)

    assert answer.json()["inserted"] == len(events)
    lengths = chunk_days(client, datetime(2006, 1, 1, tzinfo=UTC), datetime(2016, 1, 1, tzinfo=UTC))
    assert len(lengths) <= 12
    assert stored_count(client) >= len(events)


def test_a_trace_is_found_in_its_window_with_a_plan_that_is_kept(client: Client) -> None:
    for day in (1, 2):
        create(client, time=f"2025-04-0{day}T00:00:00Z", trace_id="planned", service="planned")

    trace = client.get("/api/requests/traces/planned/").json()
    windows = [
        [event["time"] for event in listed(client, f"trace_id=planned&ordering=time{window}")]
        for window in ("", "&start=2025-04-02", "&end=2025-04-01T12:00:00Z", "&start=2025-04-02&end=2025-04-03")
    ]

    first, second = "2025-04-01T00:00:00Z", "2025-04-02T00:00:00Z"
    assert [event["time"] for event in trace["events"]] == [first, second]
    assert windows == [[first, second], [second], [first], [second]]
    assert run_statement(client, "SELECT proconfig FROM pg_proc WHERE proname = 'events_of_trace'") == [
        (["plan_cache_mode=force_generic_plan"],)
    ]


def chunk_days(client: Client, start: datetime, end: datetime) -> list[int]:
    """Return how many days each chunk has of those that end after a time and begin before another."""
    with client.service.shared.db.connection() as connection:
        rows = connection.execute(
            "SELECT range_end - range_start FROM timescaledb_information.chunks"
            " WHERE hypertable_name = 'event' AND range_end > %s AND range_start < %s",
            [start, end],
        ).fetchall()
    return [length.days for (length,) in rows]


def test_a_report_has_chunks_and_policies(client: Client) -> None:
    create(client, time="2025-03-01T00:00:00Z", service="reported")
    conninfo = client.service.shared.db.conninfo

    parts = dict(gather(DatabaseReader(conninfo, timeout_s=30, dead_after_s=30).parts(), timeout_s=30))

    assert {name: part.reason for name, part in parts.items() if part.reason is not None} == {}
    chunks = {row["hypertable"]: row["chunks"] for row in parts["timescaledb"].content["hypertables"]}
    assert chunks["observability.event"] >= 1
    policies = {row["policy"] for row in parts["timescaledb"].content["policies"]}
    assert "refresh_policy" in policies
    # All chunks are one row of their hypertable.
    tables = {row["table"]: row["partitions"] for row in parts["tables"].content}
    assert tables["observability.event"] == chunks["observability.event"]


def test_a_hypertable_has_the_indexes_of_a_table(client: Client) -> None:
    names = run_statement(client, "SELECT indexname FROM pg_indexes WHERE tablename = 'event' ORDER BY 1")

    assert names == [("event_series_time",), ("event_time_id",), ("event_trace_id",)]


@pytest.mark.parametrize(
    "changes",
    [
        {"status_code": 500},
        {"service": "other"},
        {"time": "2025-12-14T12:00:00.001000Z"},
        {"time": "2003-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_an_event_is_edited_and_found(client: Client, changes: dict[str, Any]) -> None:
    url = create(client)
    before = client.get(url).json()

    answer = client.request("PATCH", url, json=changes)

    assert (answer.status, answer.json()) == (200, {**before, **changes})
    assert client.get(url).json() == answer.json()


def test_a_moved_event_is_deleted(client: Client) -> None:
    url = create(client, service="doomed")
    client.request("PATCH", url, json={"time": "2003-01-01T00:00:00Z"})

    assert client.request("DELETE", url).status == 204
    assert listed(client, "service=doomed") == []


def test_tags_that_cannot_be_stored_are_refused(client: Client) -> None:
    before = stored_count(client)
    url = create(client)

    answer = client.request("PATCH", url, content=f'{{"tags": {UNSTORABLE_TAGS}}}'.encode())

    assert (answer.status, list(answer.json()["errors"])) == (400, ["tags"])
    assert stored_count(client) == before + 1
