"""Worker processes that are killed, frozen and stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from kernel.jobs.models import JobRecord
from kernel.jobs.service import Jobs
from tests.conftest import Serve
from tests.processes import eventually, make_environment
from tests.workers import Workers

PLUGIN = "tests.kernel.jobs.sample"
pytestmark = pytest.mark.process


@pytest.fixture
def workers(tmp_path: Path, database: str) -> Iterator[Workers]:
    environment = make_environment(
        tmp_path,
        TIERCEL_PLUGINS=PLUGIN,
        TIERCEL_REQUIRED="",
        TIERCEL_DATABASE_URL=database,
        TIERCEL_JOBS__DEAD_AFTER_S="2",
        TIERCEL_JOBS__GRACEFUL_TIMEOUT_S="1",
    )
    made = Workers(tmp_path, environment)
    yield made
    made.end()


@pytest.fixture
def jobs(serve: Serve, database: str) -> Jobs:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.sample_row (number integer NOT NULL)")
    return serve(plugins=[PLUGIN], required=[], jobs={"dead_after_s": 2.0}).service.shared.jobs


def rows(database: str) -> list[int]:
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM sample_row ORDER BY number")]


def begin(jobs: Jobs, name: str, tmp_path: Path) -> JobRecord:
    """Start a job and wait until a worker runs it."""
    begun = tmp_path / "begun"
    started = jobs.start(name, {"begun": str(begun), "until": str(tmp_path / "until")})
    assert eventually(begun.exists, 30)
    return started


def is_running(jobs: Jobs, job_id: int, attempt: int) -> bool:
    record = jobs.get(job_id)
    return (record.state, record.attempt) == ("running", attempt)


def test_every_job_is_done_exactly_once_when_workers_are_killed(jobs: Jobs, workers: Workers, database: str) -> None:
    chance = random.Random(4)
    supervisor = workers.start(processes=2)
    for number in range(320):
        jobs.start("sample.insert", {"number": number, "before_ms": 10, "after_ms": 10})

    kills = 0
    while kills < 20:
        time.sleep(chance.uniform(0.02, 0.15))
        victims = supervisor.children()
        if victims:
            chance.choice(victims).kill()
            kills += 1

    assert eventually(lambda: not jobs.list(state="waiting") and not jobs.list(state="running"), 60), workers.log
    assert rows(database) == list(range(320))
    assert {job.state for job in jobs.list(limit=1000)} == {"succeeded"}


def test_the_job_of_a_killed_worker_is_taken_over_by_its_replacement(
    jobs: Jobs, workers: Workers, tmp_path: Path
) -> None:
    supervisor = workers.start()
    started = begin(jobs, "sample.unstoppable", tmp_path)

    supervisor.children()[0].kill()

    done = jobs.wait(started.id, 20)
    assert (done.state, done.result, done.attempt) == ("succeeded", "again", 2)


def test_jobs_of_a_lost_machine_are_taken_over_by_other_workers(jobs: Jobs, workers: Workers, tmp_path: Path) -> None:
    supervisor = workers.start()
    started = begin(jobs, "sample.unstoppable", tmp_path)
    for process in (supervisor, *supervisor.children()):
        process.kill()

    workers.start()

    done = jobs.wait(started.id, 20)
    assert (done.state, done.attempt) == ("succeeded", 2)


def test_a_frozen_worker_that_wakes_up_cannot_commit(
    jobs: Jobs, workers: Workers, database: str, tmp_path: Path
) -> None:
    frozen = workers.start().children()[0]
    started = begin(jobs, "sample.unstoppable", tmp_path)
    frozen.send_signal(signal.SIGSTOP)
    workers.start()
    assert jobs.wait(started.id, 20).result == "again"

    (tmp_path / "until").touch()
    frozen.send_signal(signal.SIGCONT)

    # It logs the outcome of the job that was taken over, so that run has ended.
    assert eventually(lambda: "taken over" in workers.log, 20), workers.log
    assert rows(database) == []
    assert jobs.get(started.id).result == "again"


def test_the_open_transaction_of_a_killed_worker_leaves_nothing_behind(
    jobs: Jobs, workers: Workers, database: str, tmp_path: Path
) -> None:
    supervisor = workers.start()
    started = begin(jobs, "sample.uncommitted", tmp_path)

    supervisor.children()[0].kill()

    assert jobs.wait(started.id, 20).result == "again"
    assert rows(database) == []


def test_a_worker_frozen_inside_its_transaction_does_not_keep_the_job(
    jobs: Jobs, workers: Workers, database: str, tmp_path: Path
) -> None:
    frozen = workers.start().children()[0]
    started = begin(jobs, "sample.uncommitted", tmp_path)
    frozen.send_signal(signal.SIGSTOP)

    workers.start()

    assert jobs.wait(started.id, 20).result == "again"
    assert rows(database) == []


def test_a_run_that_committed_is_not_run_again(jobs: Jobs, workers: Workers, database: str, tmp_path: Path) -> None:
    supervisor = workers.start()
    started = begin(jobs, "sample.committed", tmp_path)

    supervisor.children()[0].kill()

    done = jobs.wait(started.id, 20)
    assert (done.state, done.result, done.attempt) == ("succeeded", "committed", 1)
    assert rows(database) == [-3]


def test_a_job_that_kills_its_workers_fails_after_the_third_death(jobs: Jobs, workers: Workers, database: str) -> None:
    supervisor = workers.start()
    started = jobs.start("sample.insert", {"number": 1, "before_ms": 60_000})
    for attempt in (1, 2, 3):
        assert eventually(partial(is_running, jobs, started.id, attempt))
        supervisor.children()[0].kill()

    done = jobs.wait(started.id, 20)
    assert (done.state, done.error) == ("failed", "its worker died 3 times")
    assert rows(database) == []


@pytest.mark.parametrize("name", ["sample.overrun", "sample.overrun_uncommitted"])
def test_the_hard_time_limit_fails_the_job_and_frees_the_worker(
    jobs: Jobs, workers: Workers, database: str, tmp_path: Path, name: str
) -> None:
    workers.start()
    started = begin(jobs, name, tmp_path)

    done = jobs.wait(started.id, 20)

    assert (done.state, done.attempt) == ("failed", 1)
    assert "hard time limit" in str(done.error)
    assert jobs.wait(jobs.start("sample.insert", {"number": 7}).id, 20).state == "succeeded"
    assert rows(database) == [7]


def test_sigterm_ends_a_worker_in_time_whatever_its_job_does(jobs: Jobs, workers: Workers, tmp_path: Path) -> None:
    workers.start()
    started = begin(jobs, "sample.unstoppable", tmp_path)

    workers.started[0].send_signal(signal.SIGTERM)

    assert workers.started[0].wait(10) == 0, workers.log
    record = jobs.get(started.id)
    assert (record.state, record.attempt) == ("waiting", 1), workers.log


def test_workers_end_with_their_supervisor(jobs: Jobs, workers: Workers) -> None:
    supervisor = workers.start(processes=2)
    children = supervisor.children()

    os.kill(supervisor.pid, signal.SIGKILL)

    assert eventually(lambda: not any(child.is_running() for child in children))
