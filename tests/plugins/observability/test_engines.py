"""Ingest, lists and replays behave the same on every database engine."""

from __future__ import annotations

from kernel.testing import Client
from tests.plugins.observability.engines import every_engine
from tests.plugins.observability.events import ROOT, create, listed, make_event, make_events, post_ingest, stored_count

pytestmark = every_engine


def test_a_replay_stores_nothing_twice(client: Client) -> None:
    sent = [{"headers": {"Idempotency-Key": key}} for key in ("one", "one", "two")]

    answers = [client.post(f"{ROOT}ingest/", make_events(3), **each).json() for each in sent]

    assert [(answer["inserted"], answer["duplicates"]) for answer in answers] == [(3, 0), (0, 3), (3, 0)]
    assert stored_count(client) == 6


def test_events_of_fifty_years_are_stored_and_listed(client: Client) -> None:
    times = [f"{year}-03-01T12:00:00Z" for year in (1980, 1999, 2024, 2025)]

    assert post_ingest(client, [make_event(time=time) for time in times]).json()["inserted"] == len(times)
    assert [event["time"] for event in listed(client, "ordering=time")] == times


def test_unstorable_events_are_rejected_and_the_others_stored(client: Client) -> None:
    answer = post_ingest(client, [make_event(), make_event(latency_ms=-1)]).json()

    assert (answer["inserted"], [error["index"] for error in answer["errors"]]) == (1, [1])


def test_lists_filter_sort_and_paginate(client: Client) -> None:
    for number in range(5):
        create(client, service="Walk", latency_ms=number, time=f"2025-0{number + 1}-01T00:00:00Z")
    create(client, service="other")

    first = client.get(f"{ROOT}?service=walk&ordering=latency_ms&page_size=3&cursor=").json()
    second = client.get(first["next"].removeprefix("http://127.0.0.1")).json()

    assert [event["latency_ms"] for event in first["results"] + second["results"]] == [0, 1, 2, 3, 4]
    assert first["count"] == 5
