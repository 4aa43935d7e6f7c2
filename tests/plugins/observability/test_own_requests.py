"""The service stores the requests that it answers itself."""

from __future__ import annotations

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.observability.events import ROOT, create, listed, make_event
from tests.processes import eventually

pytestmark = pytest.mark.slow

OWN = "service=tiercel&ordering=time"
OWN_REQUESTS = {"log_own_requests": True}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def flush(client: Client) -> None:
    client.service.shared.requests.flush()


def waiting(client: Client) -> int:
    return client.service.shared.requests.stats()["observability"].waiting


def test_a_request_is_logged_with_its_route_status_and_identifiers(serve: Serve) -> None:
    client = serve(observability=OWN_REQUESTS)
    url = create(client)
    flush(client)

    client.get(url, headers={"X-Request-ID": "me-17", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    flush(client)

    (event,) = listed(client, f"service=tiercel&trace_id={TRACE}")
    assert (event["endpoint"], event["method"], event["status_code"]) == ("/api/requests/{id}", "GET", 200)
    assert event["tags"]["request_id"] == "me-17"
    assert event["tags"]["bytes"] > 0


def test_failures_are_logged_with_the_status_that_was_sent(serve: Serve) -> None:
    client = serve(observability=OWN_REQUESTS)
    expected = [
        ("POST", "/api/requests/ingest/", "/api/requests/ingest", 415),
        ("GET", "/api/v1/requests/nothing/", "/api/v1/requests/{id}", 404),
        ("PATCH", "/api/requests/", "(no route)", 405),
        ("GET", "/wp-login.php", "(no route)", 404),
        ("GET", "/api/requests/?page=x", "/api/requests", 400),
    ]

    statuses = [client.request(method, path).status for method, path, _, _ in expected]
    flush(client)

    assert statuses == [status for _, _, _, status in expected]
    logged = [(event["endpoint"], event["method"], event["status_code"]) for event in listed(client, OWN)]
    assert logged == [(endpoint, method, status) for method, _, endpoint, status in expected]


def test_requests_without_a_route_share_one_series(serve: Serve, database: str) -> None:
    client = serve(observability=OWN_REQUESTS)

    for number in range(20):
        client.get(f"/probe/{number}")
    flush(client)

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM observability.series").fetchone() == (1,)


def test_probes_are_not_logged(serve: Serve) -> None:
    client = serve(observability=OWN_REQUESTS)

    for path in ("/livez", "/readyz", "/startupz", "/health/", "/api/health/", "/api/health/?db=1"):
        client.get(path)
    flush(client)

    assert listed(client, OWN) == []


def test_it_can_be_switched_off(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})

    client.get(ROOT)
    flush(client)

    assert listed(client, OWN) == []


def test_records_are_stored_without_a_flush(serve: Serve) -> None:
    client = serve(observability=OWN_REQUESTS)

    client.get("/api/")

    assert eventually(lambda: len(listed(client, f"{OWN}&endpoint=/api")) == 1)


def test_records_wait_while_the_database_is_away_and_requests_do_not(serve: Serve, database: str) -> None:
    client = serve(observability=OWN_REQUESTS, db={"pool_timeout_s": 0.2, "connect_timeout_s": 1})
    with outage(database):
        statuses = [client.get("/api/").status, client.post(ROOT, make_event()).status]
        flush(client)
        kept = waiting(client)

    assert (statuses, kept) == ([200, 503], 2)
    assert eventually(lambda: client.get("/api/health/?db=1").status == 200)
    assert eventually(lambda: waiting(client) == 0)
    assert [event["status_code"] for event in listed(client, OWN)][:2] == [200, 503]
