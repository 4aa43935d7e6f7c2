"""Retention: what is older than the limits is removed, and no answer is wrong because of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from kernel.cli import output
from kernel.identity import SYSTEM_ACCOUNT
from plugins.observability.analytics.scope import Scope
from plugins.observability.analytics.session import QuerySession
from plugins.observability.resolution import Resolution, Span
from plugins.observability.retention.watermark import RetentionLimits
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_engine, every_server
from tests.plugins.observability.events import ROOT, create, listed, make_event, post_ingest, stored_count
from tests.plugins.observability.rollups.factories import (
    DAY,
    HOUR,
    apply,
    keeping,
    kpis,
    one_value,
    run_command,
    serve_six_days,
    store_at,
    store_six_days,
    today,
)
from tests.processes import eventually

pytestmark = [every_server, pytest.mark.slow]

EXACT = ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms")


def exact(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in EXACT}


@every_engine
def test_answers_about_whole_hours_and_days_stay_the_same(serve: Serve) -> None:
    client = serve(observability=keeping(raw_days=2, hourly_days=4))
    # As if the events had been ingested in time.
    container_of(client).ingest._watermark._limits = RetentionLimits()
    store_six_days(client)
    start = today() - 6 * DAY
    windows = [f"start={start.isoformat()}", f"start={(start + DAY).date()}&end={(start + 3 * DAY).date()}"]
    before = [kpis(client, f"{window}&approx=true") for window in windows]

    apply(client)

    after = [kpis(client, f"{window}&approx=true") for window in windows]
    assert [exact(answer) for answer in after] == [exact(answer) for answer in before]
    assert stored_count(client) == 12
    store_at(client, today() - 2 * DAY, today() - DAY)
    container_of(client).rollups.refresh()
    assert kpis(client, f"{windows[0]}&approx=true")["hits"] == before[0]["hits"] + 2
    assert kpis(client, f"{windows[1]}&approx=true")["hits"] == before[1]["hits"]
    assert listed(client, "ordering=time")[0]["time"] == (today() - 2 * DAY).isoformat().replace("+00:00", "Z")


def test_without_events_an_exact_request_reports_that_its_percentiles_come_from_rollups(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    before = kpis(client, "start=2020-01-01&percentiles=50")

    apply(client)

    after = kpis(client, "start=2020-01-01&percentiles=50")
    (median,), (exact_median,) = after["percentiles"], before["percentiles"]
    assert (exact_median["basis"], median["basis"]) == ("raw", "rollup")
    assert abs(median["value_ms"] / exact_median["value_ms"] - 1) <= median["max_relative_error"] == 0.01
    assert after["hits"] == before["hits"]


def test_a_window_that_begins_where_only_hours_are_left_says_what_it_covers(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    apply(client)
    day = today() - 4 * DAY

    answer = kpis(client, f"start={(day + HOUR / 8).isoformat()}&end={(day + 2 * HOUR).isoformat()}")

    assert answer["hits"] == 2
    assert answer["covered"]["start"] == day.isoformat().replace("+00:00", "Z")


def test_events_written_during_a_removal_are_all_counted(serve: Serve) -> None:
    unaware = serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    edge = today() - 2 * DAY
    batch = [make_event(time=(edge + at * HOUR).isoformat()) for at in range(-30, 30)]

    def write(_number: int) -> int:
        answer = post_ingest(unaware, batch)
        return int(answer.json()["inserted"])

    with ThreadPoolExecutor(4) as pool:
        writing = pool.map(write, range(40))
        removed = apply(client)
        inserted = sum(writing)

    assert removed.partitions == 3
    assert kpis(client)["hits"] == 24 + inserted
    container_of(client).rollups.refresh()
    assert kpis(client, "start=1970-01-01&approx=true")["hits"] == 24 + inserted


def test_a_write_in_progress_is_in_the_rollups_before_its_events_are_dropped(serve: Serve, database: str) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as writer:
        writer.execute("UPDATE observability.event SET latency_ms = 5000 WHERE latency_ms = 7 * 20")
        writer.execute(
            "INSERT INTO observability.rollup_touched (hour)"
            " SELECT DISTINCT date_trunc('hour', time, 'UTC') FROM observability.event WHERE latency_ms = 5000"
        )
        removing = pool.submit(apply, client)
        assert eventually(lambda: waits_for_lock(database))
        writer.commit()

        removing.result()

    assert kpis(client)["max_latency_ms"] == 5000


def test_retention_waits_for_open_query_sessions(serve: Serve, database: str) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    scope = Scope(Span(today() - 10 * DAY, today() + DAY), SYSTEM_ACCOUNT)
    with ThreadPoolExecutor(1) as pool:
        with QuerySession.open(client.service.shared.db, scope, approx=False) as session:
            plan = session.plan(Resolution.RAW)
            removing = pool.submit(apply, client)
            assert eventually(lambda: waits_for_lock(database))

            assert session.totals(plan, 500).hits == 24
        removing.result()

    assert stored_count(client) == 12


def test_writers_and_readers_never_wait_long_for_retention(serve: Serve, database: str) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2), db={"statement_timeout_s": 5})
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as reader:
        reader.execute("SELECT FROM observability.event LIMIT 1")
        removing = pool.submit(apply, client)
        assert eventually(lambda: waits_for_lock(database))

        assert create(client, time=today().isoformat())
        assert stored_count(client) == 25
        reader.commit()
        removing.result()

    assert stored_count(client) == 13


def test_old_events_that_share_a_partition_with_newer_ones_are_deleted(serve: Serve, database: str) -> None:
    # A month that was over when its first event came.
    month = (today() - 100 * DAY).replace(day=1)
    store_at(serve(observability=keeping()), month, month + 14 * DAY, month + 15 * DAY)
    client = serve(observability=keeping(raw_days=(today() - month).days - 15))

    removed = apply(client)

    # A chunk of TimescaleDB has a day, and is dropped.
    assert removed.partitions + removed.events == 2
    assert [event["time"][:10] for event in listed(client)] == [(month + 15 * DAY).date().isoformat()]
    assert kpis(client)["hits"] == 3


@pytest.mark.parametrize("step", range(12))
def test_the_next_run_does_what_a_killed_run_left_undone(serve: Serve, database: str, step: int) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=1, hourly_days=2, daily_days=4))
    steps = iter(range(100))

    def stop(_step: str) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        container_of(client).retention.apply(stop)
    # There are at least so many.
    assert next(steps) >= step
    assert kpis(client, f"start={(today() - 4 * DAY).isoformat()}")["hits"] == 20
    apply(client)

    assert stored_count(client) == 8
    # Nobody refreshed what is not due yet. TimescaleDB keeps what shares a chunk with newer buckets.
    for resolution, hits in (("hour", 4), ("day", 12)):
        kept = f"SELECT from_time FROM observability.retention WHERE level = '{resolution}'"
        counted = f"SELECT sum(hits) FROM observability.cells_{resolution} WHERE bucket >= ({kept})"
        assert one_value(database, counted) == hits
    assert kpis(client)["hits"] == 20


def test_entries_of_moved_events_are_removed_with_them(serve: Serve, database: str) -> None:
    client = serve_six_days(serve)
    oldest, second, *_ = listed(client, "ordering=time")
    newest = listed(client)[0]
    for event, time in ((oldest, today() - 4 * DAY), (second, today()), (newest, today() - 5 * DAY)):
        answer = client.request("PATCH", f"{ROOT}{event['id']}/", json={"time": time.isoformat()})
        assert answer.status == 200, answer.content

    apply(serve(observability=keeping(raw_days=2)))

    with psycopg.connect(database) as connection:
        kept = {str(row[0]) for row in connection.execute("SELECT id FROM observability.event_moved")}
    # The second is found by its note; the newest must not come back at its old time.
    assert kept == {second["id"], newest["id"]}


def test_old_entries_of_the_ledger_are_merged_by_minute(serve: Serve, database: str) -> None:
    client = serve(observability=keeping(ledger_days=2))
    for _ in range(3):
        post_ingest(client, [make_event(), make_event(status_code=999), make_event(status_code=998)])
        post_ingest(client, [make_event(time="yesterday")])
    old = "UPDATE observability.ingest_ledger SET at = date_trunc('minute', at) - interval '5 days'"
    with psycopg.connect(database) as connection:
        connection.execute(old.encode())
    post_ingest(client, [make_event()])
    query = f"/api/v1/ingest/ledger/?start={(today() - 9 * DAY).date()}"
    before = client.get(query).json()["data"]

    removed = apply(client)

    assert client.get(query).json()["data"] == before
    assert one_value(database, "SELECT count(*) FROM observability.ingest_ledger") < 7
    assert removed.ledger >= 4
    assert apply(client).ledger == 0


def test_a_plan_lists_what_would_be_removed_and_removes_nothing(serve: Serve, database: str) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2, hourly_days=4))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE")

    ran = run_command(client, "retention", "--plan")
    raw, _ = container_of(client).retention.plan()

    assert ran.exit_code == 0
    assert (raw.setting, raw.before, raw.oldest) == ("raw_days = 2", today() - 2 * DAY, today() - 5 * DAY)
    assert (raw.items, raw.partitions, raw.touched_hours) == (12, 3, 9)
    assert f"raw, before {(today() - 2 * DAY).isoformat()}: percentiles come from histograms" in ran.stdout
    assert f"hour, before {(today() - 4 * DAY).isoformat()}: hourly rows end there" in ran.stdout
    assert stored_count(client) == 24


def test_a_plan_lists_the_consequences_for_each_level(serve: Serve) -> None:
    client = serve(observability=keeping(raw_days=2, hourly_days=4, daily_days=6))
    levels = {"raw": 2, "hour": 4, "day": 6}
    raw, hour, day = (f"{level}, before {(today() - days * DAY).isoformat()}" for level, days in levels.items())

    ran = run_command(client, "retention", "--plan")

    assert ran.stdout.splitlines()[4:] == [
        f"{raw}: lists, traces, exports and single events end there",
        f"{raw}: percentiles come from histograms, at most 1 % off",
        f"{raw}: a window that begins within an hour is answered by the whole hour; `covered` says so",
        f"{hour}: hourly rows end there",
        f"{hour}: a window that begins within a day is answered by the whole day; `covered` says so",
        f"{day}: nothing is known",
    ]


def test_without_limits_everything_is_kept(serve: Serve) -> None:
    client = serve_six_days(serve)

    apply(client)
    ran = run_command(client, "retention", "--plan")

    assert ran.stdout == "Everything is kept forever: raw_days, hourly_days and daily_days are 0.\n"
    assert stored_count(client) == 24


def test_the_command_prints_what_was_removed(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))

    ran = run_command(client, "retention")

    assert ran.exit_code == 0
    assert ran.stdout.splitlines()[1].split() == ["3", "0", "0", "0", "0", "0"]
    assert f"raw: kept from {(today() - 2 * DAY).isoformat()}" in ran.stdout


def test_the_command_shows_its_progress(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(observability=keeping(raw_days=2, hourly_days=4))
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0)

    ran = run_command(client, "retention")

    steps = [f"retention: 0, {step}" for step in ("refresh", "events", "rollups", "series", "ledger")]
    assert list(dict.fromkeys(ran.stderr.splitlines())) == steps


def test_the_job_applies_the_limits(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))

    record = client.service.shared.jobs.run_inline("observability.retention")

    assert (record.state, stored_count(client)) == ("succeeded", 12)
