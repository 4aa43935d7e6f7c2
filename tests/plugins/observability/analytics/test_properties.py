"""Properties: after any history of events, every answer equals that of the oracle."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import hypothesis
import pytest
from hypothesis import strategies as st

from kernel.testing import Client
from tests.plugins.observability.analytics import oracle
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.analytics.oracle import percentile_cont
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import ROOT, listed, make_event, post_ingest

pytestmark = every_engine

TICK = datetime.resolution
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SORTABLE = ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms", "p95_latency_ms", "p99_9_latency_ms")
COUNTED = ("hits", "errors", "error_rate")
PERCENTILES = (0, 50, 90, 99.9, 100)
_PERCENTILES = ",".join(map(str, PERCENTILES))

# Few times, so that many events share them: edges of days and hours, and just beside.
_offsets = st.builds(
    lambda day, hour, rest: day * DAY + hour * HOUR + rest,
    st.integers(0, 2),
    st.sampled_from([0, 1, 2, 22, 23]),
    st.sampled_from([timedelta(0), TICK, HOUR / 2, HOUR - TICK]),
)
_changes: dict[str, st.SearchStrategy[Any]] = {
    "time": _offsets,
    "service": st.sampled_from(["billing", "Billing", "Auth"]),
    "endpoint": st.sampled_from(["/a", "/b"]),
    "method": st.sampled_from(["GET", "POST"]),
    "status_code": st.sampled_from([200, 404, 499, 500, 503]),
    "latency_ms": st.none() | st.integers(0, 3) | st.integers(0, 5000) | st.just(2**31 - 1),
}
_operations = st.one_of(
    st.tuples(st.just("ingest"), st.lists(st.fixed_dictionaries(_changes), min_size=1, max_size=3)),
    st.tuples(st.just("batch"), st.lists(st.fixed_dictionaries(_changes), min_size=1, max_size=3)),
    st.tuples(st.just("edit"), st.tuples(st.integers(0), st.fixed_dictionaries({}, optional=_changes))),
    st.tuples(st.just("delete"), st.integers(0)),
    st.tuples(st.just("refresh"), st.sampled_from(["whole", "killed"]) | st.tuples(_offsets, _offsets)),
    st.tuples(st.just("ask"), st.none()),
)
_batches = st.lists(st.fixed_dictionaries(_changes), min_size=2, max_size=8)
# Edits and deletes matter most where rollups include the events already.
_beginnings = st.sampled_from([[("refresh", "whole")], []])
_histories = st.builds(
    lambda batch, beginning, history: [("batch", batch), *beginning, *history, ("ask", None)],
    _batches,
    _beginnings,
    st.lists(_operations, max_size=10),
)
_requests = st.fixed_dictionaries(
    {
        "window": st.just((timedelta(0), 3 * DAY)) | st.tuples(_offsets, _offsets).map(sorted),
        "filters": st.fixed_dictionaries(
            {},
            optional={
                "service": st.sampled_from(["BILLING", "auth"]),
                "endpoint": st.sampled_from(["/a", "/B"]),
                "method": st.sampled_from(["get", "POST"]),
            },
        ),
        "error_from": st.sampled_from([500, 400]) | st.integers(100, 599),
        "granularity": st.sampled_from(["auto", "hourly", "daily"]),
        "approx": st.booleans(),
        "group_by": st.sampled_from(
            [
                ("service", "endpoint"),
                ("service",),
                ("method", "service"),
                ("status_code",),
                ("endpoint", "status_code"),
            ]
        ),
        "sort_by": st.sampled_from(SORTABLE),
        "direction": st.sampled_from(["asc", "desc"]),
        "step": st.sampled_from([("30m", HOUR / 2), ("1h", HOUR), ("5h", 5 * HOUR), ("1d", DAY)]),
    }
)


class KilledError(Exception):
    """The refreshing process was killed."""


class History:
    """A separate span of time in a service, and the events that should be in it.

    Args:
        client: The service.
        start: Of the span.
    """

    def __init__(self, client: Client, start: datetime) -> None:
        self._client = client
        self._start = start
        self._events: dict[str, dict[str, Any]] = {}
        self._names = (f"{start.date()}-{number}" for number in itertools.count())

    def ingest(self, given: list[dict[str, Any]]) -> None:
        for fields in given:
            created = self._client.post(ROOT, self._event(fields))
            assert created.status == 201, created.content
            self._events[created.json()["id"]] = self._event(fields)

    def batch(self, given: list[dict[str, Any]]) -> None:
        events = {
            name: {**self._event(fields), "trace_id": name} for fields, name in zip(given, self._names, strict=False)
        }
        post_ingest(self._client, list(events.values()))
        for name, event in events.items():
            (stored,) = listed(self._client, f"trace_id={name}")
            self._events[stored["id"]] = event

    def edit(self, given: tuple[int, dict[str, Any]]) -> None:
        number, fields = given
        for event_id in self._chosen(number):
            changes = {name: self._event(fields)[name] for name in fields}
            assert self._client.request("PATCH", f"{ROOT}{event_id}/", json=changes).status == 200
            self._events[event_id] |= changes

    def delete(self, number: int) -> None:
        for event_id in self._chosen(number):
            assert self._client.request("DELETE", f"{ROOT}{event_id}/").status == 204
            del self._events[event_id]

    def refresh(self, how: str | tuple[timedelta, timedelta]) -> None:
        rollups = container_of(self._client).rollups
        if isinstance(how, tuple):
            start, end = sorted(how)
            rollups.refresh(self._start + start, self._start + end)
        elif how == "whole":
            rollups.refresh()
        else:

            def die(done: int, total: int) -> None:
                if done > 0 and done * 2 >= total:
                    raise KilledError

            with contextlib.suppress(KilledError):
                rollups.refresh(progress=die)

    def ask(self, request: Mapping[str, Any]) -> None:
        start, end = (self._start + offset for offset in request["window"])
        given = {"start": start.isoformat(), "end": end.isoformat(), "approx": str(request["approx"]).lower()}
        events = list(self._events.values())
        bound = 0.01 if request["approx"] else 0.0
        filters: dict[str, str] = request["filters"]
        identity = {name: value for name, value in filters.items() if name != "method"}
        shown = oracle.matching(events, start, end, identity)

        daily = self._get("daily", {**given, **identity})
        assert oracle.agrees(daily, oracle.days(shown), relative_error=bound)
        assert oracle.agrees(self._get("hourly", {**given, **identity}), oracle.hours(shown))
        more = {**filters, "error_from": request["error_from"], "granularity": request["granularity"]}
        chosen = oracle.matching(events, start, end, filters)
        self._check_kpis({**given, **more}, chosen, request, bound)
        self._check_groups({**given, **more}, chosen, request, bound)
        self._check_activity(given, oracle.matching(events, start, end, {}), request)
        self._check_steps({**given, **filters, "error_from": request["error_from"]}, chosen, request, bound)

    def _check_kpis(
        self, given: Mapping[str, Any], events: list[oracle.Event], request: Mapping[str, Any], bound: float
    ) -> None:
        found = self._get("kpis", {**given, "percentiles": _PERCENTILES})

        assert oracle.agrees(found, oracle.summary(events, request["error_from"]), relative_error=bound)
        latencies = oracle.measured(events)
        for percentile, each in zip(PERCENTILES, found["percentiles"], strict=True):
            assert each["percentile"] == percentile
            assert each["max_relative_error"] <= bound
            assert (each["max_relative_error"] == 0) == (each["basis"] == "raw")
            if not latencies:
                assert each["value_ms"] is None
                continue
            exact = percentile_cont(latencies, percentile)
            assert abs(each["value_ms"] - exact) <= each["max_relative_error"] * exact
        if not request["approx"] and ("method" in given or request["error_from"] != 500):
            assert found["source"] == "raw"

    def _check_groups(
        self, given: Mapping[str, Any], events: list[oracle.Event], request: Mapping[str, Any], bound: float
    ) -> None:
        dimensions, sort_by, direction = request["group_by"], request["sort_by"], request["direction"]
        if "status_code" in dimensions and request["approx"] and sort_by not in COUNTED:
            sort_by = "hits"
        asked = {
            "group_by": ",".join(dimensions),
            "sort_by": sort_by,
            "direction": direction,
            "percentiles": _PERCENTILES,
        }

        top = self._get("top-endpoints", {**given, **asked, "with_p95": "true"})
        kpis = self._get("kpis", {**given, **asked})

        assert kpis["groups"] == top
        expected = oracle.groups(events, dimensions, request["error_from"], PERCENTILES)
        if "status_code" in dimensions and kpis["source"] != "raw":
            # Rollups have no latencies by status.
            expected = [{**row, **{name: None for name in row if name.endswith("_latency_ms")}} for row in expected]
        if bound and sort_by not in COUNTED:
            # Ranked by what is shown.
            assert top == oracle.ranked(sorted(top, key=_names(dimensions)), sort_by, direction)
            top = sorted(top, key=_names(dimensions))
        else:
            expected = oracle.ranked(expected, sort_by, direction)
        assert oracle.agrees(top, expected, relative_error=bound)

    def _check_activity(self, given: Mapping[str, Any], events: list[oracle.Event], request: Mapping[str, Any]) -> None:
        window = {name: given[name] for name in ("start", "end")}
        sign = "-" if request["direction"] == "desc" else ""
        for name, dimensions in (("services", ("service",)), ("endpoints", ("service", "endpoint"))):
            for sort_by in ("last_seen", "first_seen", "error_rate"):
                found = self._get(name, {**window, "ordering": f"{sign}{sort_by}", "page_size": 1000})
                expected = oracle.ranked(oracle.active(events, dimensions), sort_by, request["direction"])
                assert found["count"] == len(expected)
                assert oracle.agrees(found["results"], expected)

    def _check_steps(
        self, given: Mapping[str, Any], events: list[oracle.Event], request: Mapping[str, Any], bound: float
    ) -> None:
        name, step = request["step"]

        found = self._get("timeseries", {**given, "step": name, "percentiles": "95", "group_by": "service,method"})

        assert oracle.agrees(_with_hits(found), oracle.steps(events, step, request["error_from"]), relative_error=bound)
        groups = {(group["service"], group["method"]): group for group in found["groups"]}
        assert len(groups) == len({(event["service"], event["method"]) for event in events})
        for key, group in groups.items():
            inside = [event for event in events if (event["service"], event["method"]) == key]
            steps = oracle.steps(inside, step, request["error_from"])
            assert oracle.agrees(_with_hits(group), steps, relative_error=bound)

    def _event(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = {**fields, "time": (self._start + fields.get("time", timedelta(0))).isoformat()}
        return make_event(**given)

    def _chosen(self, number: int) -> list[str]:
        ids = list(self._events)
        return [ids[number % len(ids)]] if ids else []

    def _get(self, name: str, parameters: Mapping[str, Any]) -> Any:
        answer = self._client.get(f"{ROOT}{name}/?{urlencode(parameters)}")
        assert answer.status == 200, answer.content
        return answer.json()


def _names(dimensions: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return lambda row: tuple(row[name] for name in dimensions)


def _with_hits(series: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that have hits, with their 95th percentile as other rows have it."""
    return [{**step, "p95_latency_ms": step["percentiles_ms"]["95"]} for step in series["steps"] if step["hits"]]


@pytest.mark.slow
def test_every_answer_equals_that_of_the_oracle(engine: TestedEngine, client: Client) -> None:
    starts = (datetime(2019, 1, 1, tzinfo=UTC) + number * 4 * DAY for number in itertools.count())

    @hypothesis.settings(max_examples=engine.examples(50))
    @hypothesis.given(_histories, st.lists(_requests, min_size=3, max_size=3))
    def check(history: list[tuple[str, Any]], requests: list[Mapping[str, Any]]) -> None:
        timeline = History(client, next(starts))
        for operation, given in history:
            if operation == "ask":
                for request in requests:
                    timeline.ask(request)
            else:
                getattr(timeline, operation)(given)

    check()


@pytest.mark.parametrize("query", ["", "&approx=true"])
def test_a_batch_that_crosses_days_is_counted_once_before_and_after_a_refresh(client: Client, query: str) -> None:
    midnight = datetime(2025, 12, 14, tzinfo=UTC)
    events = [make_event(time=(midnight + number * TICK).isoformat(), latency_ms=0) for number in range(-3, 3)]
    window = f"start={events[1]['time'][:-6]}Z&end={events[4]['time'][:-6]}Z{query}"
    post_ingest(client, events)

    before = client.get(f"{ROOT}kpis/?{window}").json()
    container_of(client).rollups.refresh()
    after = client.get(f"{ROOT}kpis/?{window}").json()

    assert before["hits"] == after["hits"] == 4
    assert before["p95_latency_ms"] == after["p95_latency_ms"] == 0.0
