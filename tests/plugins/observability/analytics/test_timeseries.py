"""``timeseries/``: every step of a window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import FIRST_DAY, container_of, ingest, random_events
from tests.plugins.observability.analytics.oracle import percentile_cont, time_of
from tests.plugins.observability.engines import every_engine, every_server, one_engine
from tests.plugins.observability.events import make_event

pytestmark = every_engine

URL = "/api/requests/timeseries/"
EVENTS = random_events(500)
LATE = random_events(60, seed=2)
WINDOW = "start=2025-12-12T06:10&end=2025-12-14T20:20"
START, END = FIRST_DAY + timedelta(hours=6, minutes=10), FIRST_DAY + timedelta(days=2, hours=20, minutes=20)
MINUTES = {"7m": 7, "30m": 30, "1h": 60, "6h": 360, "1d": 1440}


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service whose rollups include most events, but not those that came late."""
    ingest(shared, EVENTS)
    container_of(shared).rollups.refresh()
    ingest(shared, LATE)
    return shared


def ask(client: Client, query: str) -> dict[str, Any]:
    answer = client.get(f"{URL}?{query}")
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def expected_steps(
    events: Sequence[dict[str, Any]], step: timedelta, error_from: int = 500
) -> list[tuple[str, int, int, float | None, int | None]]:
    """Return start, hits, errors, average and maximum of each step of the window."""
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    start = START - (START - origin) % step
    found = []
    while start <= END:
        inside = [
            event for event in events if max(start, START) <= time_of(event) <= END and time_of(event) < start + step
        ]
        latencies = [event["latency_ms"] for event in inside]
        errors = sum(event["status_code"] >= error_from for event in inside)
        average = sum(latencies) / len(latencies) if latencies else None
        found.append(
            (start.isoformat().replace("+00:00", "Z"), len(inside), errors, average, max(latencies, default=None))
        )
        start += step
    return found


def steps_answered(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("start", "hits", "errors", "avg_latency_ms", "max_latency_ms")
    return [tuple(step[name] for name in names) for step in answer["steps"]]


@pytest.mark.parametrize("step", MINUTES)
def test_every_step_of_the_window_is_there_and_right(client: Client, step: str) -> None:
    answer = ask(client, f"{WINDOW}&step={step}")

    assert steps_answered(answer) == expected_steps(EVENTS + LATE, timedelta(minutes=MINUTES[step]))
    assert answer["step_s"] == MINUTES[step] * 60


@pytest.mark.parametrize("step", ["30m", "6h", "1d"])
@pytest.mark.parametrize("approx", ["true", "false"])
def test_every_filter_narrows(client: Client, step: str, approx: str) -> None:
    kept = [
        event
        for event in EVENTS + LATE
        if (event["service"], event["endpoint"], event["method"]) == ("billing", "/a", "POST")
    ]

    query = f"service=BILLING&endpoint=/a&method=post&error_from=400&approx={approx}"
    answer = ask(client, f"{WINDOW}&step={step}&{query}")

    assert steps_answered(answer) == expected_steps(kept, timedelta(minutes=MINUTES[step]), error_from=400)


def test_a_step_without_hits_is_zero(client: Client) -> None:
    answer = ask(client, "start=2025-11-01&end=2025-11-01&step=12h&percentiles=50")

    empty = {
        "hits": 0,
        "errors": 0,
        "error_rate": 0.0,
        "avg_latency_ms": None,
        "max_latency_ms": None,
        "percentiles_ms": {"50": None},
    }
    assert answer["steps"] == [{"start": f"2025-11-01T{hour}:00:00Z", **empty} for hour in ("00", "12")]


@every_server
def test_the_error_rate_has_four_places(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, [make_event(status_code=status) for status in (200, 200, 500)])

    answer = ask(client, "start=2025-12-14T12:00&end=2025-12-14T12:30")

    assert [step["error_rate"] for step in answer["steps"]] == [0.3333]


@pytest.mark.parametrize(("approx", "basis", "error"), [("false", "raw", 0.0), ("true", "rollup", 0.01)])
@pytest.mark.parametrize("narrow", ["", "&endpoint=/a"])
def test_percentiles_of_each_step_are_within_their_bound(
    client: Client, approx: str, basis: str, error: float, narrow: str
) -> None:
    answer = ask(client, f"{WINDOW}&step=6h&percentiles=50,99.9&approx={approx}{narrow}")

    assert (answer["basis"], answer["max_relative_error"]) == (basis, error)
    events = [event for event in EVENTS + LATE if START <= time_of(event) <= END]
    for step in answer["steps"]:
        start = datetime.fromisoformat(step["start"])
        latencies = [
            event["latency_ms"]
            for event in events
            if start <= time_of(event) < start + timedelta(hours=6)
            and event["endpoint"] in ("/a", (narrow and "/a") or "/b")
        ]
        assert list(step["percentiles_ms"]) == ["50", "99.9"]
        for name, value in step["percentiles_ms"].items():
            assert value == pytest.approx(percentile_cont(latencies, float(name)), rel=error + 1e-9)


def test_without_percentiles_their_fields_are_left_out(client: Client) -> None:
    answer = ask(client, f"{WINDOW}&step=6h")

    assert "basis" not in answer
    assert all(step["percentiles_ms"] == {} for step in answer["steps"])


@every_server
@pytest.mark.parametrize(("step", "source"), [("30m", "raw"), ("1h", "hourly"), ("1d", "daily")])
def test_the_source_is_what_was_read(serve: Serve, step: str, source: str) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, EVENTS)
    before = ask(client, f"start=2025-12-12&end=2025-12-14&step={step}&approx=true")
    container_of(client).rollups.refresh()

    after = ask(client, f"start=2025-12-12&end=2025-12-14&step={step}&approx=true")

    assert after["source"] == source
    assert after["steps"] == before["steps"]


@one_engine
@pytest.mark.parametrize("step", ["0m", "30s", "2d", "25h", "1441m", "hour", "-1h", "1.5h", "\u0661h"])
def test_a_wrong_step_is_rejected_with_what_is_allowed(client: Client, step: str) -> None:
    answer = client.get(f"{URL}?step={step}")

    assert answer.status == 400
    assert list(answer.json()["errors"]) == ["step"]
    assert f"from 1m to 1d, such as 5m or 6h, got {step!r}." in answer.json()["errors"]["step"][0]


def test_too_many_steps_are_rejected_and_the_limit_is_named(client: Client) -> None:
    fits = client.get(f"{URL}?step=1m&start=2025-12-01T00:00&end=2025-12-04T11:19:59")
    answer = client.get(f"{URL}?step=1m&start=2025-12-01T00:00&end=2025-12-04T11:20")

    assert (fits.status, len(fits.json()["steps"])) == (200, 5000)
    assert answer.status == 400
    assert answer.json()["errors"]["step"] == [
        "Expected at most 5000 steps in a window, got 5001: take a longer step or a shorter window."
    ]


def test_the_window_is_the_last_day_by_default_and_a_step_an_hour(client: Client) -> None:
    answer = ask(client, "")

    assert answer["step_s"] == 3600
    first, last = (datetime.fromisoformat(answer["steps"][place]["start"]) for place in (0, -1))
    assert last - first == timedelta(hours=24)
    assert last <= datetime.now(UTC) < last + timedelta(hours=2)


def remove(database: str, level: str, until: datetime) -> None:
    """Delete what is older than a time, and advance the watermark, as retention does."""
    with psycopg.connect(database) as connection:
        if level == "raw":
            connection.execute("DELETE FROM observability.event WHERE time < %s", [until])
        else:
            for table in ("rollup", "coarse"):
                connection.execute(f"DELETE FROM observability.{table}_{level} WHERE bucket < %s", [until])
        connection.execute("UPDATE observability.retention SET from_time = %s WHERE level = %s", [until, level])


@every_server
def test_where_events_were_removed_hours_are_answered_and_finer_steps_rejected(serve: Serve, database: str) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, EVENTS)
    whole = ask(client, "start=2025-12-12&end=2025-12-14&step=1h")
    container_of(client).rollups.refresh()
    remove(database, "raw", FIRST_DAY + timedelta(days=1))

    answer = ask(client, "start=2025-12-12&end=2025-12-14&step=1h&percentiles=95")
    cut = ask(client, "start=2025-12-12T00:30&end=2025-12-14&step=1h")
    refused = [client.get(f"{URL}?start=2025-12-12&end=2025-12-14&step={step}") for step in ("30m", "90m")]

    assert steps_answered(answer) == steps_answered(whole)
    assert (answer["basis"], "covered" in answer) == ("rollup", False)
    assert steps_answered(cut) == steps_answered(whole)
    assert cut["covered"] == {"start": "2025-12-12T00:00:00Z", "end": "2025-12-15T00:00:00Z"}
    for each in refused:
        assert each.status == 400
        assert each.json()["errors"]["step"] == [
            "Expected a multiple of 1h: nothing finer is left of a part of the window."
        ]


@every_server
def test_where_hours_were_removed_days_are_answered_and_hours_rejected(serve: Serve, database: str) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, EVENTS)
    whole = ask(client, "start=2025-12-12&end=2025-12-14&step=1d")
    container_of(client).rollups.refresh()
    for level in ("raw", "hour"):
        remove(database, level, FIRST_DAY + timedelta(days=1))

    answer = ask(client, "start=2025-12-12&end=2025-12-14&step=1d")
    refused = client.get(f"{URL}?start=2025-12-12&end=2025-12-14&step=1h")

    assert steps_answered(answer) == steps_answered(whole)
    assert refused.status == 400
    assert "Expected a multiple of 1d" in refused.json()["errors"]["step"][0]
