"""Any events, any ordering, any page size: a list agrees with Python, and has each event once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

from kernel.testing import Client
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import ROOT, post_ingest
from tests.plugins.observability.strategies import good_events

pytestmark = every_engine

SORTABLE = ["time", "latency_ms", "status_code", "service", "endpoint", "method"]
Event = dict[str, Any]

few_times = st.sampled_from(["2025-01-01T00:00:00Z", "2025-01-01T00:00:00.000001Z", "2024-06-01T00:00:00Z"])
events = st.builds(lambda event, time: {**event, "time": time}, good_events, few_times)
orderings = st.lists(st.sampled_from(SORTABLE), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names))
)


def refill(client: Client, sent: list[Event]) -> list[Event]:
    """Store these events and no others; return them as they are stored."""
    with psycopg.connect(client.service.shared.db.conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE observability.event")
    post_ingest(client, sent)
    found: list[Event] = client.get(f"{ROOT}?page_size=1000").json()["results"]
    assert len(found) == len(sent)
    return found


def in_order(found: list[Event], ordering: tuple[str, ...]) -> list[str]:
    """Sort as the list should: by the keys, then newest first, then by id against the direction of time."""
    keys = [(name.removeprefix("-"), name.startswith("-")) for name in ordering or ("-time",)]
    if "time" not in dict(keys):
        keys.append(("time", True))
    keys.append(("id", not dict(keys)["time"]))
    for name, descending in reversed(keys):
        # What has no value comes last, in either direction.
        absent = [event for event in found if event[name] is None]
        present = [event for event in found if event[name] is not None]
        found = [*sorted(present, key=sort_key(name), reverse=descending), *absent]
    return [event["id"] for event in found]


def sort_key(name: str) -> Callable[[Event], Any]:
    kinds: dict[str, Callable[[str], Any]] = {"time": datetime.fromisoformat, "id": UUID}
    kind = kinds.get(name)
    return lambda event: kind(event[name]) if kind else event[name]


def follow_links(client: Client, url: str | None, direction: str) -> list[dict[str, Any]]:
    """Follow the links of pages in one direction to the end."""
    pages = []
    while url:
        answer = client.get(url.removeprefix("http://127.0.0.1"))
        assert answer.status == 200, answer.content
        pages.append(answer.json())
        url = pages[-1][direction]
    return pages


def ids(pages: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for page in pages for event in page["results"]]


@pytest.mark.slow
def test_pages_and_cursors_visit_each_event_once_in_order(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(40))
    @hypothesis.given(sent=st.lists(events, max_size=15), ordering=orderings, size=st.integers(1, 6))
    def check(sent: list[Event], ordering: tuple[str, ...], size: int) -> None:
        expected = in_order(refill(shared, sent), ordering)
        query = urlencode({"ordering": ",".join(ordering), "page_size": size})

        by_number = follow_links(shared, f"{ROOT}?{query}", "next")
        forward = follow_links(shared, f"{ROOT}?{query}&cursor=", "next")
        backward = follow_links(shared, forward[-1]["previous"], "previous")

        assert ids(by_number) == expected
        assert ids(forward) == expected
        assert ids([*reversed(backward), forward[-1]]) == expected

    check()


texts = st.sampled_from(
    ["billing", "BILLING", "a_b", "ä%", "/a", "/A/B", "/%", "/_", "get", "Post", "t1", "u_1", "%", "_"]
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "service": texts,
        "endpoint": texts,
        "method": texts,
        "trace_id": texts,
        "user_ref": texts,
        "status_code": st.sampled_from([200, 404, 500]),
        "status_code__in": st.lists(st.sampled_from([200, 201, 404, 500, 503]), min_size=1, max_size=3),
        "time_after": few_times,
        "time_before": few_times,
        "latency_min": st.integers(0, 6),
        "latency_max": st.integers(0, 6),
        "search": st.lists(texts | st.text("ab%_/ \\", max_size=3), max_size=2).map(" ".join),
    },
)


def matches(event: Event, wanted: dict[str, Any]) -> bool:
    """Filter as the documentation says."""
    searched = [event[name] or "" for name in ("service", "endpoint", "trace_id", "user_ref")]
    time = datetime.fromisoformat(event["time"])
    checks: dict[str, Callable[[Any], bool]] = {
        "service": lambda value: event["service"].lower() == value.lower(),
        "endpoint": lambda value: event["endpoint"].lower() == value.lower(),
        "method": lambda value: event["method"].lower() == value.lower(),
        "trace_id": lambda value: event["trace_id"] == value,
        "user_ref": lambda value: event["user_ref"] == value,
        "status_code": lambda value: event["status_code"] == value,
        "status_code__in": lambda value: event["status_code"] in value,
        "time_after": lambda value: time >= datetime.fromisoformat(value),
        "time_before": lambda value: time <= datetime.fromisoformat(value),
        "latency_min": lambda value: event["latency_ms"] is not None and event["latency_ms"] >= value,
        "latency_max": lambda value: event["latency_ms"] is not None and event["latency_ms"] <= value,
        "search": lambda value: all(any(term in text.lower() for text in searched) for term in value.lower().split()),
    }
    return all(checks[name](value) for name, value in wanted.items())


def as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.slow
def test_filters_agree_with_python(engine: TestedEngine, shared: Client) -> None:
    @hypothesis.settings(max_examples=engine.examples(60))
    @hypothesis.given(sent=st.lists(events, max_size=20), wanted=filters)
    def check(sent: list[Event], wanted: dict[str, Any]) -> None:
        stored = refill(shared, sent)
        query = urlencode({name: as_text(value) for name, value in wanted.items()})

        page = shared.get(f"{ROOT}?page_size=1000&{query}").json()

        expected = {event["id"] for event in stored if matches(event, wanted)}
        assert {event["id"] for event in page["results"]} == expected
        assert page["count"] == len(expected)

    check()
