"""One budget of requests for all who have the same token."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from kernel import Database
from plugins.trace.notion.errors import NotionError
from tests.conftest import Serve
from tests.notion.faults import RequestLimit, limited, once
from tests.notion.server import FakeNotion
from tests.plugins.trace.asking import GaveUpError, Waits, asking, make_budget
from tests.plugins.trace.exports import Specifications, serve_trace
from tests.processes import ROOT, eventually, python_environment

TOKEN = "ntn_budget"


@pytest.fixture
def db(serve: Serve) -> Database:
    """The database of a service that has the plugin."""
    return serve(plugins=["system", "trace"]).service.registry.services["trace"].db


@pytest.mark.process
def test_processes_with_one_token_stay_within_its_limit_together(
    database: str, notion: FakeNotion, specifications: Specifications
) -> None:
    limit = RequestLimit(22, 1.0)
    notion.faults.append(limit)
    command = [sys.executable, "-m", "tests.plugins.trace.asker", database, notion.url, specifications.tags.id, "20"]

    processes = [
        subprocess.Popen(command, cwd=ROOT, env=python_environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    assert [process.communicate(timeout=60)[0] for process in processes] == ["0\n", "0\n"]
    assert (len(notion.calls), limit.refused) == (40, 0)


def test_who_goes_faster_than_the_limit_is_refused(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(RequestLimit(22, 60.0))

    with asking(db, notion, Waits(most_s=10)) as api:
        for _ in range(22):
            api.data_source(specifications.tags.id)
        with pytest.raises(GaveUpError):
            api.data_source(specifications.tags.id)


def test_a_burst_has_to_be_saved_up_for(db: Database) -> None:
    waits = Waits(most_s=0.0)
    budget = make_budget(db, TOKEN, waits, per_minute=30, burst=10)

    for _ in range(10):
        budget.take()
    with pytest.raises(GaveUpError):
        budget.take()

    # Ten at once, then twenty in the rest of the minute: the eleventh has to wait for the first of these.
    assert waits.asked_s == [pytest.approx(60 / 21, abs=0.5)]


def test_a_burst_is_half_of_a_minutes_requests_at_most(db: Database) -> None:
    budget = make_budget(db, TOKEN, Waits(most_s=0.0), per_minute=6, burst=100)

    for _ in range(3):
        budget.take()

    with pytest.raises(GaveUpError):
        budget.take()


def test_each_token_has_a_budget_of_its_own(db: Database) -> None:
    pace = {"per_minute": 1, "burst": 1}
    make_budget(db, TOKEN, Waits(), **pace).take()

    waits = Waits(most_s=0.0)
    make_budget(db, "ntn_another", waits, **pace).take()

    assert waits.asked_s == []


def test_who_gives_up_waiting_takes_nobodys_turn(db: Database) -> None:
    pace = {"per_minute": 60, "burst": 1}
    make_budget(db, TOKEN, Waits(), **pace).take()
    for _ in range(5):
        with pytest.raises(GaveUpError):
            make_budget(db, TOKEN, Waits(most_s=0.0), **pace).take()

    waits = Waits(most_s=0.0)
    with pytest.raises(GaveUpError):
        make_budget(db, TOKEN, waits, **pace).take()

    assert waits.asked_s[0] <= 1.0


@pytest.mark.parametrize("retry_after_s", [20, 60])
def test_a_pause_that_notion_asks_for_holds_for_everybody_with_the_token(
    db: Database, notion: FakeNotion, specifications: Specifications, retry_after_s: int
) -> None:
    notion.faults.append(once(limited(retry_after_s)))
    with asking(db, notion, Waits()) as first, pytest.raises(GaveUpError):
        first.data_source(specifications.tags.id)

    waits = Waits()
    with asking(db, notion, waits) as second, pytest.raises(GaveUpError):
        second.data_source(specifications.tags.id)

    assert waits.asked_s == [pytest.approx(retry_after_s, abs=5)]
    assert len(notion.calls) == 1


def test_a_pause_holds_for_those_who_wait_already(db: Database) -> None:
    entered, paused = threading.Event(), threading.Event()
    asked_s: list[float] = []

    def wait(seconds: float) -> None:
        asked_s.append(seconds)
        if len(asked_s) > 2:
            raise GaveUpError
        if seconds:
            entered.set()
            paused.wait(10)

    pace = {"per_minute": 60, "burst": 1}
    make_budget(db, TOKEN, Waits(), **pace).take()

    def take() -> None:
        with suppress(GaveUpError):
            make_budget(db, TOKEN, wait, **pace).take()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert entered.wait(10)
    make_budget(db, TOKEN, Waits(), **pace).pause(100)
    paused.set()
    waiting.join()

    assert asked_s[-1] > 90


def test_a_pause_longer_than_we_wait_is_told_and_nobody_asks_meanwhile(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(once(limited(7200, "workspace_rate_limit")))
    for _ in range(2):
        with (
            asking(db, notion, retry_wait_max_s=300.0) as api,
            pytest.raises(NotionError, match=r"no requests for another 7,\d\d\d s") as caught,
        ):
            api.data_source(specifications.tags.id)

    assert (len(notion.calls), caught.value.kind, caught.value.retry) == (1, "limited", True)


def test_no_pause_is_longer_than_a_day(db: Database, notion: FakeNotion, specifications: Specifications) -> None:
    notion.faults.append(once(limited(10**20)))

    with asking(db, notion) as api, pytest.raises(NotionError, match=r"no requests for another 86,\d\d\d s"):
        api.data_source(specifications.tags.id)


def test_a_cancelled_export_waits_no_longer(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    jobs = client.service.shared.jobs
    notion.faults.append(limited(200))
    running = threading.Thread(target=lambda: jobs.run_here("trace.refresh"))
    running.start()
    assert eventually(lambda: bool(notion.calls))

    (record,) = jobs.list(name="trace.refresh")
    jobs.cancel(record.id)
    began_s = time.monotonic()
    running.join(30)

    assert jobs.get(record.id).state == "cancelled"
    assert time.monotonic() - began_s < 10
    assert len(notion.calls) == 1


def test_an_export_that_reaches_its_time_limit_waits_no_longer(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), total_timeout_s=0.5)
    notion.faults.append(limited(200))

    record = client.service.shared.jobs.run_here("trace.refresh")

    assert (record.state, record.error) == ("failed", "stopped: soft timeout")
    assert record.finished_at is not None
    assert record.started_at is not None
    assert (record.finished_at - record.started_at).total_seconds() < 10
