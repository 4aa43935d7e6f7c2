"""Events in a hypertable, on TimescaleDB compiled for Node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel.doctor.database import DatabaseReader
from kernel.doctor.report import gather
from kernel.testing import Client
from tests.plugins.observability.engines import TestedEngine, run_statement, serving_on
from tests.plugins.observability.events import UNSTORABLE_TAGS, create, listed, stored_count

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


def test_events_live_in_a_hypertable_with_chunks_of_a_day(client: Client) -> None:
    for time in ("2025-01-01T00:00:00Z", "2025-01-01T23:59:59Z", "2025-01-02T00:00:00Z"):
        create(client, time=time, service="chunks")

    chunks = run_statement(
        client,
        "SELECT range_end - range_start FROM timescaledb_information.chunks"
        " WHERE hypertable_name = 'event' AND range_start BETWEEN '2025-01-01' AND '2025-01-02'",
    )

    assert [span.days for (span,) in chunks] == [1, 1]


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
