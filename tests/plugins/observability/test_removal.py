"""Removing a selection of events, over HTTP and with ``tiercel observability forget``."""

from __future__ import annotations

import signal
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from kernel.testing import Client
from plugins.observability.models import SelectionQuery
from plugins.observability.removal import BATCH_EVENTS, Removal
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import TestedEngine, every_engine, every_server, run_statement, serving_on
from tests.plugins.observability.events import NOON, ROOT, make_event, make_events, post_ingest, stored_count
from tests.plugins.observability.rollups.factories import (
    DAY,
    apply,
    keeping,
    kpis,
    run_command,
    serve_six_days,
    today,
)
from tests.processes import TIERCEL, eventually, make_environment

pytestmark = pytest.mark.slow


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with 40 events of one service and 25 of another, and clean rollups."""
    client = serve()
    post_ingest(client, [*make_events(40, service="shop"), *make_events(25, service="Till", user_ref="ann")])
    container_of(client).rollups.refresh()
    return client


def delete(client: Client, query: str) -> dict[str, Any]:
    answer = client.request("DELETE", f"{ROOT}?{query}")
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def hits(client: Client, query: str = "") -> int:
    found: int = kpis(client, f"start=2025-12-14&end=2025-12-15&{query}")["hits"]
    return found


# Over HTTP


@every_engine
def test_what_the_filters_match_is_deleted_and_no_longer_counted(client: Client) -> None:
    dry = delete(client, "service=till&dry_run=true")
    result = delete(client, "service=till&time_before=2025-12-14T12:00:19Z&user_ref=ann")

    assert dry == {"matched": 25, "deleted": 0}
    assert result == {"matched": 20, "deleted": 20}
    assert (stored_count(client), hits(client), hits(client, "service=till")) == (45, 45, 5)
    container_of(client).rollups.refresh()
    assert (hits(client), hits(client, "service=till")) == (45, 5)
    totals = client.get("/api/v1/ingest/ledger/").json()["data"]["totals"]
    assert (totals["stored"], totals["deleted"]) == (65, 20)


def test_without_a_filter_or_with_a_misspelt_one_nothing_is_deleted(client: Client) -> None:
    without = ["", "?search=", "?search=%20,", "?dry_run=true", "?status_code__in="]
    misspelt = ["?servce=till", "?service=till&time_bfore=2025-12-14", "?service=till&page=2"]

    for query in (*without, *misspelt):
        assert client.request("DELETE", f"{ROOT}{query}").status == 400, query

    assert stored_count(client) == 65


def test_an_event_whose_time_was_edited_is_deleted_for_good(client: Client) -> None:
    event = client.get(f"{ROOT}?service=till&page_size=1").json()["results"][0]
    client.request("PATCH", f"{ROOT}{event['id']}/", json={"time": "2025-12-10T00:00:00Z"})

    result = delete(client, "service=till")

    assert result["deleted"] == 25
    assert client.get(f"{ROOT}{event['id']}/").status == 404
    assert run_statement(client, "SELECT count(*) FROM observability.event_moved") == [(0,)]


# In batches


@every_engine
def test_analytics_are_exact_after_each_batch(client: Client) -> None:
    removal = Removal(container_of(client).db, lambda _: {}, batch_events=7)
    found: list[tuple[int, int]] = []

    def look(deleted: int) -> None:
        found.append((deleted, hits(client)))
        if len(found) % 2:
            container_of(client).rollups.refresh()
            assert hits(client) == found[-1][1]
        # Others write on.
        post_ingest(client, [make_event(service="bank", time=(NOON + timedelta(days=1)).isoformat())])

    result = removal.remove(SelectionQuery(service="shop"), on_batch=look)

    assert result.deleted == 40
    assert len(found) == 6
    assert [counted for _, counted in found] == [65 - deleted + at for at, (deleted, _) in enumerate(found)]


@every_engine
def test_events_of_one_time_are_deleted_however_many_they_are(serve: Serve) -> None:
    client = serve()
    post_ingest(client, [make_event(latency_ms=number) for number in range(20)] + make_events(3))

    removed = Removal(container_of(client).db, lambda _: {}, batch_events=5).remove(SelectionQuery(service="billing"))

    assert (removed.deleted, stored_count(client)) == (23, 0)


@every_engine
def test_series_of_removed_events_are_removed_by_retention(client: Client) -> None:
    delete(client, "service=till")
    container_of(client).rollups.refresh()

    assert apply(client).series == 1


@every_server
def test_what_retention_has_left_is_kept_and_reported(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    apply(client)
    before = kpis(client)["hits"]

    result = delete(client, "service=billing")

    since = today() - 2 * DAY
    assert (result["deleted"], stored_count(client)) == (12, 0)
    assert result["kept_before"] == since.isoformat().replace("+00:00", "Z")
    assert kpis(client)["hits"] == before - 12
    assert "kept_before" not in delete(client, f"service=billing&time_after={today().date()}")


def test_events_of_compressed_chunks_are_deleted(timescale_engine: TestedEngine) -> None:
    with serving_on(timescale_engine) as client:
        post_ingest(client, [*make_events(30, service="shop"), *make_events(20, service="till")])
        container_of(client).rollups.refresh()
        run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")
        # As if there were more events than are decompressed by default.
        run_statement(client, "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 10")

        result = delete(client, "service=shop")
        left = (stored_count(client), hits(client))
        container_of(client).rollups.refresh()

        assert (result["deleted"], left, hits(client)) == (30, (20, 20), 20)


# The command


def test_the_command_asks_with_the_number(client: Client) -> None:
    command = client.command("observability", "forget")

    refused = CliRunner().invoke(command, ["--service", "till"], input="n\n")
    accepted = CliRunner().invoke(command, ["--service", "till", "--json"], input="y\n")

    assert refused.exit_code == 1
    assert "Delete 25 request logs?" in refused.stderr
    assert msgspec.json.decode(accepted.stdout) == {"matched": 25, "deleted": 25}
    assert stored_count(client) == 40


def test_the_command_does_not_ask_if_told_so(client: Client) -> None:
    dry = run_command(client, "forget", "--service", "shop", "--dry-run")
    done = run_command(client, "forget", "--service", "shop", "--latency-min", "30", "--yes")

    assert dry.output.split() == ["matched", "deleted", "40", "0"]
    assert done.output.split() == ["matched", "deleted", "10", "10"]


def test_the_command_needs_a_filter(client: Client) -> None:
    assert run_command(client, "forget", "--yes").exit_code != 0
    assert stored_count(client) == 65


@pytest.mark.process
def test_a_removal_that_is_killed_half_way_leaves_a_consistent_state(
    serve: Serve, database: str, tmp_path: Path
) -> None:
    client = serve()
    count = 3 * BATCH_EVENTS
    for number in range(3):
        times = [(NOON + timedelta(minutes=number, milliseconds=at)).isoformat() for at in range(BATCH_EVENTS)]
        post_ingest(client, [make_event(service="shop", time=time) for time in times])
    container_of(client).rollups.refresh()
    arguments = [TIERCEL, "observability", "forget", "--service", "shop", "--yes"]
    environment = make_environment(tmp_path / "home", TIERCEL_DATABASE_URL=database)

    with psycopg.connect(database) as holder:
        # The last batch waits for this lock.
        holder.execute("SELECT FROM observability.event ORDER BY time DESC LIMIT 1 FOR UPDATE")
        with subprocess.Popen(arguments, env=environment, cwd=tmp_path) as process:
            assert eventually(lambda: waits_for_lock(database), 30.0)
            process.send_signal(signal.SIGKILL)

    assert eventually(lambda: not waits_for_lock(database), 30.0)
    left = stored_count(client)
    assert left == count - 2 * BATCH_EVENTS
    assert hits(client) == left
    assert delete(client, "service=shop")["deleted"] == left
