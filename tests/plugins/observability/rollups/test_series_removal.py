"""Unused series are removed, and no process writes under the number of a removed series that it has cached."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_engine, every_server, run_statement
from tests.plugins.observability.events import create, listed, make_event, post_ingest, stored_count
from tests.plugins.observability.rollups.factories import DAY, apply, keeping, kpis, store_at, today
from tests.processes import eventually

pytestmark = [every_server, pytest.mark.slow]


def endpoints(client: Client) -> list[str]:
    """Return the endpoints in the dictionary."""
    return [name for (name,) in run_statement(client, "SELECT endpoint FROM observability.series ORDER BY 1")]


def remove_all(client: Client) -> None:
    """Delete every event, and every series with them."""
    for event in listed(client, "page_size=500"):
        assert client.request("DELETE", f"/api/requests/{event['id']}/").status == 204
    apply(client)
    assert endpoints(client) == []


def dangling(client: Client) -> int:
    """Count the events whose series does not exist."""
    query = "SELECT count(*) FROM observability.event WHERE series NOT IN (SELECT id FROM observability.series)"
    return int(run_statement(client, query)[0][0])


@every_engine
def test_a_series_is_removed_once_it_has_neither_events_nor_rollups(serve: Serve) -> None:
    client = serve(observability=keeping())
    create(client, endpoint="/kept")
    deleted, edited = create(client, endpoint="/deleted"), create(client, endpoint="/edited")
    container_of(client).rollups.refresh()
    client.request("DELETE", deleted)
    client.request("PATCH", edited, json={"endpoint": "/kept"})

    with_rollups = apply(client)
    container_of(client).rollups.refresh()
    without = apply(client)

    assert (with_rollups.series, without.series) == (0, 2)
    assert endpoints(client) == ["/kept"]
    assert (kpis(client)["hits"], kpis(client, "start=1970-01-01&endpoint=/deleted")["hits"]) == (2, 0)


def test_a_series_with_rollups_only_stays(serve: Serve) -> None:
    client = serve(observability=keeping())
    store_at(client, today() - 5 * DAY, endpoint="/old")
    later = serve(observability=keeping(raw_days=2, hourly_days=3))

    apply(later)

    assert (stored_count(later), endpoints(later)) == (0, ["/old"])
    assert kpis(later, "start=1970-01-01&endpoint=/old")["hits"] == 1


@pytest.mark.parametrize("way", ["batch", "keyed", "one", "edit"])
def test_a_process_that_has_cached_a_removed_series_creates_it_anew(serve: Serve, way: str) -> None:
    client, other = serve(observability=keeping()), serve(observability=keeping())
    create(client, endpoint="/a")
    remove_all(other)
    other_event = create(other, endpoint="/b")

    if way == "batch":
        post_ingest(client, [make_event(endpoint="/a")])
    elif way == "keyed":
        client.post("/api/requests/ingest/", [make_event(endpoint="/a")], headers={"Idempotency-Key": "once"})
    elif way == "one":
        create(client, endpoint="/a")
    else:
        assert client.request("PATCH", other_event, json={"endpoint": "/a"}).status == 200

    assert dangling(client) == 0
    assert len(listed(client, "endpoint=/a")) == kpis(client, "start=1970-01-01&endpoint=/a")["hits"] == 1
    run = client.get("/api/v1/ingest/ledger/").json()["data"]["totals"]
    assert run["stored"] == (2 if way == "edit" else 3)


def test_removed_series_make_room_for_others_in_every_process(serve: Serve) -> None:
    settings: dict[str, Any] = {"series_max": 1, "log_own_requests": False}
    client, other = serve(observability=settings), serve(observability=settings)
    create(client, endpoint="/a")
    assert post_ingest(client, [make_event(endpoint="/b")]).json()["capped"] == 1
    remove_all(other)

    answer = post_ingest(client, [make_event(endpoint="/b")])

    assert answer.json()["capped"] == 0
    assert endpoints(client) == ["/b"]


def test_a_write_in_progress_keeps_its_series(serve: Serve, database: str) -> None:
    client = serve(observability=keeping())
    url = create(client, endpoint="/a")
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as writer:
        writer.execute(
            "INSERT INTO observability.event (id, time, series, status_code, latency_ms, tags)"
            " SELECT gen_random_uuid(), time, series, status_code, latency_ms, tags FROM observability.event"
        )
        # Not by an edit: that would wait for the row.
        assert client.request("DELETE", url).status == 204
        removing = pool.submit(apply, client)
        assert eventually(lambda: waits_for_lock(database))
        writer.commit()

        assert removing.result().series == 0

    assert (dangling(client), [event["endpoint"] for event in listed(client)]) == (0, ["/a"])


@pytest.mark.slow
def test_no_event_loses_its_series_while_others_write_and_remove(serve: Serve) -> None:
    writers, remover = [serve(observability=keeping()) for _ in range(3)], serve(observability=keeping())

    def write(client: Client) -> int:
        inserted = 0
        for at in range(40):
            # Each series has an event only for a short time.
            answer = client.post("/api/requests/", make_event(endpoint=f"/{at % 4}"))
            assert client.request("DELETE", f"/api/requests/{answer.json()['id']}/").status == 204
            answer = post_ingest(client, [make_event(endpoint=f"/{at % 5}/{at}")])
            inserted += int(answer.json()["inserted"])
        return inserted

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, client) for client in writers]
        removed = 0
        while not all(each.done() for each in writing):
            removed += apply(remover).series
        inserted = sum(each.result() for each in writing)

    assert removed > 0
    assert dangling(remover) == 0
    assert stored_count(remover) == kpis(remover)["hits"] == inserted == 120
