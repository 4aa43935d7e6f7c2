"""All clients with the same token share one request budget."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import pytest

from kernel import Database
from plugins.trace.notion.errors import NotionError
from tests.conftest import Serve
from tests.notion.faults import RequestLimit, once, rate_limited
from tests.notion.server import FakeNotion
from tests.plugins.trace.factories import Specifications, make_limiter, notion_client, serve_trace
from tests.plugins.trace.fakes import FakeSleep, StoppedError
from tests.processes import ROOT, eventually, python_environment


@pytest.fixture
def token() -> str:
    """A token whose budget no other test uses."""
    return f"ntn_{uuid.uuid4().hex}"


@pytest.mark.process
def test_processes_with_the_same_token_stay_within_its_limit_together(
    module_database: str, notion: FakeNotion, specifications: Specifications
) -> None:
    limit = RequestLimit(22, 1.0)
    notion.faults.append(limit)
    arguments = [module_database, notion.url, notion.token, specifications.tags.id, "20"]
    command = [sys.executable, "-m", "tests.plugins.trace.client_process", *arguments]

    processes = [
        subprocess.Popen(command, cwd=ROOT, env=python_environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    assert [process.communicate(timeout=60)[0] for process in processes] == ["0\n", "0\n"]
    assert (len(notion.calls), limit.refused) == (40, 0)


def test_exceeding_the_limit_of_notion_pauses_requests(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(RequestLimit(22, 60.0))

    with notion_client(db, notion, FakeSleep(max_s=10)) as client:
        for _ in range(22):
            client.retrieve_data_source(specifications.tags.id)
        with pytest.raises(StoppedError):
            client.retrieve_data_source(specifications.tags.id)


def test_a_burst_has_to_be_saved_up_for(db: Database, token: str) -> None:
    sleep = FakeSleep(max_s=0.0)
    limiter = make_limiter(db, token, sleep, per_minute=30, burst=10)

    for _ in range(10):
        limiter.acquire()
    with pytest.raises(StoppedError):
        limiter.acquire()

    # Ten at once, then twenty in the rest of the minute: the eleventh waits for the first of these.
    assert sleep.waits_s == [pytest.approx(60 / 21, abs=0.5)]


def test_a_burst_is_capped_at_half_of_the_requests_per_minute(db: Database, token: str) -> None:
    limiter = make_limiter(db, token, FakeSleep(max_s=0.0), per_minute=6, burst=100)

    for _ in range(3):
        limiter.acquire()

    with pytest.raises(StoppedError):
        limiter.acquire()


def test_each_token_has_its_own_budget(db: Database, token: str) -> None:
    rate = {"per_minute": 1, "burst": 1}
    make_limiter(db, token, FakeSleep(), **rate).acquire()

    sleep = FakeSleep(max_s=0.0)
    make_limiter(db, f"{token}_2", sleep, **rate).acquire()

    assert sleep.waits_s == []


def test_a_stopped_wait_does_not_use_up_the_budget(db: Database, token: str) -> None:
    rate = {"per_minute": 60, "burst": 1}
    make_limiter(db, token, FakeSleep(), **rate).acquire()
    for _ in range(5):
        with pytest.raises(StoppedError):
            make_limiter(db, token, FakeSleep(max_s=0.0), **rate).acquire()

    sleep = FakeSleep(max_s=0.0)
    with pytest.raises(StoppedError):
        make_limiter(db, token, sleep, **rate).acquire()

    assert sleep.waits_s[0] <= 1.0


@pytest.mark.parametrize("retry_after_s", [20, 60])
def test_retry_after_pauses_all_clients_with_the_token(
    db: Database, notion: FakeNotion, specifications: Specifications, retry_after_s: int
) -> None:
    notion.faults.append(once(rate_limited(retry_after_s)))
    with notion_client(db, notion, FakeSleep()) as first, pytest.raises(StoppedError):
        first.retrieve_data_source(specifications.tags.id)

    sleep = FakeSleep()
    with notion_client(db, notion, sleep) as second, pytest.raises(StoppedError):
        second.retrieve_data_source(specifications.tags.id)

    assert sleep.waits_s == [pytest.approx(retry_after_s, abs=5)]
    assert len(notion.calls) == 1


def test_a_pause_holds_for_clients_that_are_already_waiting(db: Database, token: str) -> None:
    entered, paused = threading.Event(), threading.Event()
    asked_s: list[float] = []

    def wait(seconds: float) -> None:
        asked_s.append(seconds)
        if len(asked_s) > 2:
            raise StoppedError
        if seconds:
            entered.set()
            paused.wait(10)

    rate = {"per_minute": 60, "burst": 1}
    make_limiter(db, token, FakeSleep(), **rate).acquire()

    def take() -> None:
        with suppress(StoppedError):
            make_limiter(db, token, wait, **rate).acquire()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert entered.wait(10)
    make_limiter(db, token, FakeSleep(), **rate).pause(100)
    paused.set()
    waiting.join()

    assert asked_s[-1] > 90


def test_a_pause_longer_than_the_longest_wait_is_an_error_without_a_request(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(once(rate_limited(7200, "workspace_rate_limit")))
    for _ in range(2):
        with (
            notion_client(db, notion, retry_wait_max_s=300.0) as client,
            pytest.raises(NotionError, match=r"rate limited by Notion for another 7,\d\d\d s") as caught,
        ):
            client.retrieve_data_source(specifications.tags.id)

    assert (len(notion.calls), caught.value.kind, caught.value.retry) == (1, "rate_limited", True)


def test_a_pause_is_capped_at_a_day(db: Database, notion: FakeNotion, specifications: Specifications) -> None:
    notion.faults.append(once(rate_limited(10**20)))

    with (
        notion_client(db, notion) as client,
        pytest.raises(NotionError, match=r"rate limited by Notion for another 86,\d\d\d s"),
    ):
        client.retrieve_data_source(specifications.tags.id)


def test_cancelling_an_export_ends_its_wait(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    jobs = client.service.shared.jobs
    notion.faults.append(rate_limited(200))
    running = threading.Thread(target=lambda: jobs.run_inline("trace.refresh"))
    running.start()
    assert eventually(lambda: bool(notion.calls))

    (record,) = jobs.list(name="trace.refresh")
    jobs.cancel(record.id)
    began_s = time.monotonic()
    running.join(30)

    assert jobs.get(record.id).state == "cancelled"
    assert time.monotonic() - began_s < 10
    assert len(notion.calls) == 1


def test_the_time_limit_of_an_export_ends_its_wait(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), total_timeout_s=0.5)
    notion.faults.append(rate_limited(200))

    record = client.service.shared.jobs.run_inline("trace.refresh")

    assert (record.state, record.error) == ("failed", "stopped: soft timeout")
    assert record.finished_at is not None
    assert record.started_at is not None
    assert (record.finished_at - record.started_at).total_seconds() < 10
