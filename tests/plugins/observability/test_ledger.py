"""The ledger agrees with what was sent and with what is stored."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_engine, every_server
from tests.plugins.observability.events import (
    ROOT,
    UNSTORABLE_TAGS,
    create,
    listed,
    make_event,
    make_events,
    post_ingest,
    stored_count,
)
from tests.processes import run_tiercel

pytestmark = every_engine

LEDGER = "/api/v1/ingest/ledger/"
BAD = make_event(status_code=999)


def ledger(client: Client, query: str = "") -> dict[str, Any]:
    answer = client.get(f"{LEDGER}?{query}")
    assert answer.status == 200, answer.content
    data: dict[str, Any] = answer.json()["data"]
    return data


def totals(received: int, stored: int, **others: int) -> dict[str, int]:
    none = {"duplicate": 0, "rejected": 0, "capped": 0, "deleted": 0}
    return {"received": received, "stored": stored, **none, **others}


def test_the_response_has_an_envelope(serve: Serve) -> None:
    answer = serve().get(LEDGER)

    assert answer.json()["success"] is True
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_every_item_sent_is_counted(serve: Serve) -> None:
    client = serve()
    headers = {"Idempotency-Key": "one"}
    client.post(f"{ROOT}ingest/", [*make_events(3), BAD], headers=headers)
    client.post(f"{ROOT}ingest/", make_events(5), headers=headers)
    create(client)

    assert ledger(client, "key=local")["totals"] == totals(10, stored=6, duplicate=3, rejected=1)
    assert len(listed(client, "service=billing")) == 6


def test_reasons_are_counted(serve: Serve) -> None:
    client = serve()
    post_ingest(client, [BAD, BAD, make_event(time="yesterday")])
    post_ingest(client, [BAD])

    (minute,) = [minute for minute in ledger(client)["minutes"] if minute["key"] == "local"]

    assert minute["rejected"] == 4
    assert minute["reasons"]["status_code: status_code must be a valid HTTP status (100..599)."] == 3
    assert sum(minute["reasons"].values()) == 4


def test_a_batch_of_invalid_items_only_is_in_the_ledger(serve: Serve) -> None:
    client = serve()

    post_ingest(client, [BAD, BAD])
    client.post(ROOT, BAD)

    assert ledger(client, "key=local")["totals"] == totals(3, stored=0, rejected=3)


def test_a_strict_batch_is_counted_as_rejected_as_a_whole(serve: Serve) -> None:
    client = serve()

    post_ingest(client, [*make_events(4), BAD], "?strict=true")

    assert ledger(client, "key=local")["totals"] == totals(5, stored=0, rejected=5)
    assert ledger(client, "key=local")["minutes"][0]["reasons"]["strict: refused with the others"] == 4


@pytest.mark.parametrize("strict", ["", "?strict=true"])
def test_unstorable_items_are_in_the_ledger(serve: Serve, strict: str) -> None:
    client = serve()
    bad = UNSTORABLE_TAGS.encode()
    body = json.dumps(make_events(2), separators=(",", ":")).encode().replace(b'{"env":"prod"}', bad, 1)

    client.post(f"{ROOT}ingest/{strict}", content=body)

    stored = 0 if strict else 1
    assert ledger(client, "key=local")["totals"] == totals(2, stored=stored, rejected=2 - stored)


def test_senders_are_counted_separately(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": True})
    post_ingest(client, make_events(2))
    client.service.shared.requests.flush()

    assert ledger(client, "key=local")["totals"] == totals(2, stored=2)
    assert ledger(client, "key=tiercel")["totals"]["stored"] > 0
    assert ledger(client, "key=nobody")["totals"] == totals(0, stored=0)


def test_deleted_events_are_counted_and_stay_counted_when_entries_are_merged(serve: Serve) -> None:
    client = serve(observability={"ledger_days": 1})
    post_ingest(client, make_events(3))
    for event in client.get(f"{ROOT}?page_size=2").json()["results"]:
        client.request("DELETE", f"{ROOT}{event['id']}/")

    assert ledger(client, "key=removal")["totals"] == totals(0, stored=0, deleted=2)
    assert ledger(client)["totals"] == totals(3, stored=3, deleted=2)
    with client.service.shared.db.transaction() as connection:
        connection.execute("UPDATE observability.ingest_ledger SET at = at - interval '3 days'")
    container_of(client).retention.apply()
    assert ledger(client, "start=2020-01-01")["totals"] == totals(3, stored=3, deleted=2)


def test_a_span_of_time_can_be_selected(serve: Serve) -> None:
    client = serve()
    post_ingest(client, make_events(2))

    assert ledger(client, "end=2020-01-01T00:00:00Z")["minutes"] == []
    assert ledger(client, "start=2020-01-01&end=2999-01-01&key=local")["totals"] == totals(2, stored=2)


def test_odd_parameters_are_no_failure(serve: Serve) -> None:
    client = serve()

    for query in ("limit=0", "limit=9999", "start=now", "key=%00", "end=0001-01-01"):
        assert client.get(f"{LEDGER}?{query}").status in {200, 400}, query


@every_server
def test_events_and_ledger_are_one_transaction(serve: Serve, database: str) -> None:
    client = serve(db={"statement_timeout_s": 0.5})
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE observability.ingest_ledger")
        assert post_ingest(client, make_events(2)).status == 503
        assert not waits_for_lock(database)

    assert stored_count(client) == 0
    assert ledger(client, "key=local")["totals"] == totals(0, stored=0)


@pytest.mark.process
def test_the_command_prints_table_and_json(serve: Serve, database: str, tmp_path: Any) -> None:
    post_ingest(serve(), [*make_events(2), BAD])

    # Of this key only: the service logs its own requests meanwhile.
    asked = ("observability", "ledger", "--key", "local")
    table = run_tiercel(tmp_path, *asked, TIERCEL_DATABASE_URL=database)
    printed = run_tiercel(tmp_path, *asked, "--json", TIERCEL_DATABASE_URL=database)

    assert "1 rejected: status_code" in table.stdout
    assert json.loads(printed.stdout)["totals"] == totals(3, stored=2, rejected=1)
