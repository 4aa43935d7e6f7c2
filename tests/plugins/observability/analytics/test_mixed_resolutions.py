"""Answers from days, hours and events at once: each bucket and each event at an edge is counted once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import FIRST_DAY, container_of, ingest, random_events
from tests.plugins.observability.analytics.oracle import percentile_cont, time_of
from tests.plugins.observability.engines import every_engine
from tests.plugins.observability.events import ROOT, make_event

pytestmark = every_engine

HOURS = 72
LATE = (30, 33, 36, 39, 42, 45, 48, 51, 54)


@pytest.mark.parametrize("filters", ["", "&service=billing", "&service=billing&endpoint=/a"])
@pytest.mark.parametrize("late", [(), LATE], ids=["in_time", "late"])
def test_each_event_of_a_window_that_cuts_hours_is_counted_once(
    serve: Serve, filters: str, late: tuple[int, ...]
) -> None:
    # Latencies grow with time: the extremes tell what is missing at the edges.
    client = serve(observability={"log_own_requests": False})
    start = FIRST_DAY + timedelta(minutes=30)
    latencies = {hour: 100 + hour * 10 for hour in range(1, HOURS)}

    def send(given: dict[int, int]) -> None:
        times = {hour: (start + timedelta(hours=hour)).isoformat() for hour in given}
        events = [
            make_event(time=times[hour], latency_ms=ms, service="billing", endpoint="/a") for hour, ms in given.items()
        ]
        ingest(client, events)

    send(latencies)
    # In one bin with the greatest.
    send({HOURS - 1: 809})
    container_of(client).rollups.refresh()
    if late:
        send(dict.fromkeys(late, 500))
    expected = [*latencies.values(), 809, *[500] * len(late)]

    ends = {"start": start + timedelta(minutes=30), "end": start + timedelta(hours=HOURS - 1)}
    window = "&".join(f"{name}={time.isoformat()[:-6]}Z" for name, time in ends.items())
    found = client.get(f"{ROOT}kpis/?{window}&approx=true&percentiles=0,100{filters}").json()

    assert found["hits"] == len(expected)
    assert found["avg_latency_ms"] == pytest.approx(sum(expected) / len(expected))
    assert found["max_latency_ms"] == max(expected)
    extremes = [each["value_ms"] for each in found["percentiles"]]
    assert extremes == pytest.approx([min(expected), max(expected)], rel=0.01)


def test_percentiles_are_within_their_bound_whatever_they_are_read_from(serve: Serve) -> None:
    # A series has several latencies in an hour.
    client = serve(observability={"log_own_requests": False})
    sent = random_events(1500)
    ingest(client, sent)
    container_of(client).rollups.refresh()
    start, end = FIRST_DAY + timedelta(hours=6, minutes=10), FIRST_DAY + timedelta(days=2, hours=20, minutes=20)
    window = f"start={start.isoformat()[:-6]}Z&end={end.isoformat()[:-6]}Z"

    for filters in ({}, {"service": "billing"}, {"endpoint": "/a"}, {"service": "billing", "endpoint": "/a"}):
        given = "".join(f"&{name}={value}" for name, value in filters.items())
        latencies = [
            event["latency_ms"]
            for event in sent
            if start <= time_of(event) <= end and all(event[name] == value for name, value in filters.items())
        ]
        for granularity in ("hourly", "daily"):
            asked = f"{window}{given}&granularity={granularity}&approx=true&percentiles=25,50,75,90,99.9"
            found = client.get(f"{ROOT}kpis/?{asked}").json()
            assert (found["source"], found["hits"]) == (granularity, len(latencies))
            for each in found["percentiles"]:
                exact = percentile_cont(latencies, each["percentile"])
                assert each["value_ms"] == pytest.approx(exact, rel=0.01), (filters, granularity)
