"""Limits of bytes, time and concurrent requests; stopping."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import tracemalloc
from typing import Any

import pytest

from plugins.club.fetch.results import Fetched, FetchResult, SourceFailure, SourceProgress
from plugins.club.fetch.sources import fetch_all
from plugins.club.settings import ClubSettings
from tests.plugins.club import fakes
from tests.plugins.club.fakes import Behaviour, Exchange, FakeApi, failing, fixed, metric
from tests.plugins.club.fetching import failed, fetch, fetch_one, fetched, source

pytestmark = pytest.mark.slow


class OnPurposeError(Exception):
    """Raised by a test."""


def sized(size_bytes: int) -> Behaviour:
    """Answer an empty list of so many bytes."""
    return lambda exchange: exchange.send(b"[" + b" " * (size_bytes - 2) + b"]")


@pytest.mark.parametrize("behaviour", [fakes.endless, fakes.bomb, sized(100_001)])
def test_a_response_that_is_too_large_is_not_read_to_its_end(api: FakeApi, behaviour: Behaviour) -> None:
    api.routes["/metrics"] = behaviour

    failure = failed(source(api), {"max_bytes": 100_000})

    assert (failure.kind, failure.reason) == ("too-large", "the response is larger than 100,000 bytes")
    assert len(api.received) == 1


def test_a_response_of_exactly_the_maximum_size_is_read(api: FakeApi) -> None:
    api.routes["/metrics"] = sized(100_000)

    assert fetched(source(api), {"max_bytes": 100_000}).bytes == 100_000


def test_a_decompression_bomb_does_not_fill_the_memory(api: FakeApi) -> None:
    packed = gzip.compress(b" " * 50_000_000)
    api.routes["/metrics"] = lambda exchange: exchange.gzip(packed)
    tracemalloc.start()
    try:
        failed(source(api), {"max_bytes": 1_000_000})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 20_000_000


@pytest.mark.parametrize("behaviour", [fakes.hanging, fakes.slow_body])
def test_a_request_times_out_whether_it_hangs_or_trickles(api: FakeApi, behaviour: Behaviour) -> None:
    api.routes["/metrics"] = behaviour

    failure = failed(source(api), {"timeout_s": 0.4, "retries": 1})

    assert (failure.kind, failure.reason) == ("timeout", "no complete response within 0.4 s; tried 2 times")
    assert len(api.received) == 2


def test_a_source_times_out_as_a_whole(api: FakeApi) -> None:
    api.routes["/metrics"] = fakes.hanging

    failure = failed(source(api), {"timeout_s": 0.2, "total_timeout_s": 0.5, "retries": 20})

    assert failure.kind == "timeout"
    assert 400 <= failure.ms < 3000
    assert len(api.received) <= 4


def test_waiting_for_a_slot_of_a_host_does_not_count_as_time_of_the_source(api: FakeApi) -> None:
    api.routes |= {"/slow": fakes.hanging, "/metrics": fixed([metric("m")])}
    limits = {"per_host": 1, "timeout_s": 0.6, "total_timeout_s": 0.5, "retries": 0}
    slow = {f"slow {number}": source(api, "/slow") for number in range(3)}

    outcomes = fetch({**slow, "good": source(api)}, limits)

    # Three times half a second went by before its turn.
    assert isinstance(outcomes["good"], Fetched)
    assert outcomes["good"].ms >= 1400


@pytest.mark.parametrize("per_host", [1, 3])
def test_concurrent_requests_to_a_host_are_limited(api: FakeApi, per_host: int) -> None:
    together = threading.Barrier(per_host)

    def meet(exchange: Exchange) -> None:
        together.wait(10)
        exchange.json([])

    api.routes["/metrics"] = meet
    sources = {str(number): source(api) for number in range(6)}

    outcomes = fetch(sources, {"per_host": per_host})

    assert all(isinstance(outcome, Fetched) for outcome in outcomes.values())
    assert api.concurrent_max == per_host


def test_a_source_that_waits_for_a_retry_holds_no_slot(api: FakeApi) -> None:
    api.routes |= {"/busy": failing(1, 503, fixed([])), "/metrics": fixed([])}
    ended: list[str] = []

    def note(step: SourceProgress) -> None:
        if step.state == "fetched":
            ended.append(step.source)

    fetch(
        {"busy": source(api, "/busy"), "quick": source(api)},
        {"per_host": 1, "retry_wait_s": 1.0},
        on_progress=note,
    )

    assert ended == ["quick", "busy"]


@pytest.mark.parametrize(
    ("behaviour", "limits"), [(fakes.hanging, {}), (failing(9, 500, fixed([])), {"retry_wait_s": 10})]
)
def test_a_stop_waits_for_no_request_and_no_retry(api: FakeApi, behaviour: Behaviour, limits: dict[str, Any]) -> None:
    api.routes |= {"/metrics": behaviour, "/good": fixed([metric("m")])}
    steps: list[SourceProgress] = []

    def should_stop() -> bool:
        return bool(api.paths().count("/metrics")) and any(step.state == "fetched" for step in steps)

    started = time.monotonic()
    outcomes = fetch(
        {"slow": source(api), "good": source(api, "/good")},
        {**limits, "timeout_s": 30, "total_timeout_s": 60},
        should_stop=should_stop,
        on_progress=steps.append,
    )

    assert time.monotonic() - started < 5
    assert isinstance(outcomes["good"], Fetched)
    assert isinstance(outcomes["slow"], SourceFailure)
    assert outcomes["slow"].kind == "stopped"
    assert (steps[-1].source, steps[-1].state) == ("slow", "failed")


def test_a_stop_before_the_start_sends_no_request(api: FakeApi) -> None:
    outcome = fetch_one(source(api), should_stop=lambda: True)

    assert isinstance(outcome, SourceFailure)
    assert (outcome.kind, api.received) == ("stopped", [])


@pytest.mark.parametrize("name", ["on_progress", "should_stop"])
def test_an_exception_of_a_callback_cancels_all_sources(api: FakeApi, name: str) -> None:
    api.routes["/metrics"] = fakes.hanging

    def fail(*_: object) -> bool:
        raise OnPurposeError

    async def run() -> int:
        more: dict[str, Any] = {name: fail}
        with pytest.raises(OnPurposeError):
            await fetch_all({"one": source(api)}, ClubSettings(), **more)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_cancelled_fetching_leaves_no_task(api: FakeApi) -> None:
    api.routes["/metrics"] = fakes.hanging

    async def run() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await fetch_all({"one": source(api)}, ClubSettings())
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_results_are_in_the_order_of_the_sources(api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([])

    outcomes: dict[str, FetchResult] = fetch({name: source(api) for name in "cab"})

    assert list(outcomes) == ["c", "a", "b"]
