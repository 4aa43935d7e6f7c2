"""``traces/{trace_id}/``: every request of a trace."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest

from kernel.testing import Client
from tests.plugins.observability.analytics.factories import ingest
from tests.plugins.observability.engines import every_engine, one_engine, run_statement
from tests.plugins.observability.events import NOON, make_event, make_events

pytestmark = every_engine

ROOT = "/api/requests/traces/"


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with a trace of five requests to three services over three days, and another of one."""
    services = ["gateway", "billing", "store", "billing", "gateway"]
    ingest(
        shared,
        [
            make_event(time=(NOON + hours * timedelta(hours=12)).isoformat(), service=service, trace_id="a trace+1")
            for hours, service in reversed(list(enumerate(services)))
        ]
        + [make_event(trace_id="other"), make_event(trace_id=None)],
    )
    return shared


def test_all_events_of_a_trace_come_in_order_of_time(client: Client) -> None:
    trace = client.get(f"{ROOT}{quote('a trace+1')}/").json()

    assert [event["service"] for event in trace["events"]] == ["gateway", "billing", "store", "billing", "gateway"]
    assert [event["time"] for event in trace["events"]] == sorted(event["time"] for event in trace["events"])
    assert {event["trace_id"] for event in trace["events"]} == {"a trace+1"}
    assert {name: trace[name] for name in trace if name != "events"} == {
        "trace_id": "a trace+1",
        "count": 5,
        "truncated": False,
        "start": "2025-12-14T12:00:00Z",
        "end": "2025-12-16T12:00:00Z",
        "services": ["gateway", "billing", "store"],
    }


@pytest.mark.parametrize(("limit", "count", "truncated"), [(4, 4, True), (5, 5, False), (6, 5, False)])
def test_a_truncated_trace_says_so(client: Client, limit: int, count: int, truncated: bool) -> None:
    trace = client.get(f"{ROOT}{quote('a trace+1')}/?limit={limit}").json()

    assert (trace["count"], len(trace["events"]), trace["truncated"]) == (count, count, truncated)


@one_engine
@pytest.mark.parametrize("limit", ["0", "10001", "many"])
def test_a_wrong_limit_is_rejected(client: Client, limit: str) -> None:
    answer = client.get(f"{ROOT}other/?limit={limit}")

    assert (answer.status, list(answer.json()["errors"])) == (400, ["limit"])


@pytest.mark.parametrize("trace_id", ["none", "OTHER", "a%00b", "x" * 500])
def test_an_unknown_trace_is_404(client: Client, trace_id: str) -> None:
    assert client.get(f"{ROOT}{trace_id}/").status == 404


def test_a_trace_is_also_under_v1(client: Client) -> None:
    assert client.get("/api/v1/requests/traces/other/").json()["count"] == 1


def test_a_trace_has_a_thousand_events_by_default(client: Client) -> None:
    ingest(client, make_events(1001, trace_id="long"))

    trace = client.get(f"{ROOT}long/").json()

    assert (trace["count"], trace["truncated"]) == (1000, True)


def test_events_of_one_time_are_in_order_of_id(client: Client) -> None:
    ingest(client, [make_event(trace_id="at once") for _ in range(50)])

    events = client.get(f"{ROOT}{quote('at once')}/").json()["events"]

    ids = [event["id"] for event in events]
    assert ids == sorted(ids)


def test_a_trace_has_no_events_of_another_account(client: Client) -> None:
    ingest(client, [make_event(trace_id="shared")])
    run_statement(
        client,
        """WITH theirs AS (
               INSERT INTO observability.series (account, service, endpoint, method)
               VALUES (7, 'theirs', '/', 'GET') RETURNING id
           )
           INSERT INTO observability.event
           SELECT gen_random_uuid(), time, theirs.id, status_code, latency_ms, trace_id, user_ref, tags
           FROM observability.event, theirs WHERE trace_id = 'shared'""",
    )

    assert client.get(f"{ROOT}shared/").json()["services"] == ["billing"]
