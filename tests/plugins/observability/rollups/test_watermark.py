"""Events before the watermark are rejected, however they are sent."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from plugins.observability.retention.watermark import RetentionLimits
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_server
from tests.plugins.observability.events import ROOT, create, listed, make_event, post_ingest, stored_count
from tests.plugins.observability.rollups.factories import (
    DAY,
    HOUR,
    apply,
    keeping,
    kpis,
    run_command,
    serve_six_days,
    today,
)

pytestmark = [every_server, pytest.mark.slow]


@pytest.mark.parametrize(
    ("raw", "hour", "day"), [(0, 0, 0), (1, 0, 0), (1, 2, 0), (1, 1, 1), (1, 2, 3), (3, 3, 0)], ids=str
)
def test_coarser_resolutions_may_be_kept_for_longer(raw: int, hour: int, day: int) -> None:
    limits = RetentionLimits(raw, hour, day)

    assert {level: (today() - cutoff).days for level, cutoff in limits.cutoffs(today() + HOUR).items()} == {
        level: days for level, days in (("raw", raw), ("hour", hour), ("day", day)) if days
    }


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ((2, 1, 0), "hourly_days = 1 is shorter than raw_days, which keeps 2 days"),
        ((0, 1, 0), "hourly_days = 1 is shorter than raw_days, which keeps forever"),
        ((1, 3, 2), "daily_days = 2 is shorter than hourly_days, which keeps 3 days"),
        ((1, 0, 400), "daily_days = 400 is shorter than hourly_days, which keeps forever"),
    ],
    ids=str,
)
def test_coarser_resolutions_may_not_be_removed_first(days: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetentionLimits(*days)


@pytest.mark.parametrize("way", ["batch", "one", "edit"])
def test_an_event_before_the_watermark_is_rejected(serve: Serve, way: str) -> None:
    client = serve(observability=keeping(raw_days=2))
    since = today() - 2 * DAY
    at_the_edge = create(client, time=since.isoformat())
    old = make_event(time=(since - datetime.resolution).isoformat())
    message = f"Ensure this time is not before {since.isoformat()}: older events are not kept (raw_days)."

    if way == "batch":
        answer = post_ingest(client, [old, make_event(time=since.isoformat()), old])
        assert (answer.json()["inserted"], answer.json()["rejected"]) == (1, 2)
        assert answer.json()["errors"][1] == {"index": 2, "errors": {"time": [message]}}
        return
    given = {"time": old["time"]} if way == "edit" else old
    answer = client.request("PATCH" if way == "edit" else "POST", at_the_edge if way == "edit" else ROOT, json=given)

    assert (answer.status, answer.json()["errors"]) == (400, {"time": [message]})
    assert stored_count(client) == 1


def test_strict_ingest_stores_nothing_of_a_batch_with_an_old_event(serve: Serve) -> None:
    client = serve(observability=keeping(raw_days=2))

    answer = post_ingest(client, [make_event(time=today().isoformat()), make_event()], "?strict=true")

    assert answer.status == 400
    assert [(error["index"], list(error["errors"])) for error in answer.json()["errors"]] == [(1, ["time"])]
    assert stored_count(client) == 0


@pytest.mark.parametrize("way", ["batch", "one", "edit"])
def test_a_process_that_does_not_know_the_watermark_learns_it_from_the_database(serve: Serve, way: str) -> None:
    client = serve_six_days(serve)
    apply(serve(observability=keeping(raw_days=2)))
    count, hits = stored_count(client), kpis(client)["hits"]
    old = make_event(time=(today() - 4 * DAY).isoformat())

    if way == "batch":
        answer = post_ingest(client, [old, make_event(time=today().isoformat()), old])
        assert (answer.json()["inserted"], answer.json()["rejected"]) == (1, 2)
        count, hits = count + 1, hits + 1
    elif way == "one":
        answer = client.post(ROOT, old)
        assert list(answer.json()["errors"]) == ["time"]
    else:
        url = f"{ROOT}{listed(client)[0]['id']}/"
        answer = client.request("PATCH", url, json={"time": old["time"]})
        assert list(answer.json()["errors"]) == ["time"]

    container_of(client).rollups.refresh()
    assert (stored_count(client), kpis(client)["hits"]) == (count, hits)
    ledger = client.get("/api/v1/ingest/ledger/").json()["data"]["totals"]
    assert ledger["received"] == ledger["stored"] + ledger["rejected"]


def test_imports_reject_old_lines(serve: Serve, tmp_path: Path) -> None:
    client = serve(observability=keeping(raw_days=2))
    file = tmp_path / "events.ndjson"
    times = (today() - 9 * DAY, today(), today() - 3 * DAY)
    file.write_bytes(b"\n".join(msgspec.json.encode(make_event(time=time.isoformat())) for time in times))

    ran = run_command(client, "import", str(file), "--json")

    report = msgspec.json.decode(ran.stdout)
    assert (report["inserted"], report["refused"]) == (1, 2)
    (reason,) = report["files"][0]["reasons"]
    assert "older events are not kept (raw_days)" in reason


def test_longer_retention_brings_nothing_back(serve: Serve) -> None:
    serve_six_days(serve)
    apply(serve(observability=keeping(raw_days=1)))
    client = serve(observability=keeping(raw_days=4))

    apply(client)

    assert kpis(client)["hits"] == 24
    assert post_ingest(client, [make_event(time=(today() - 3 * DAY).isoformat())]).json()["rejected"] == 1
