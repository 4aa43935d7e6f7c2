"""What a run gets, and what becomes of it: retries, time limits, progress, lines, transactions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from kernel.contracts import Job
from kernel.errors import UnavailableError
from kernel.jobs.models import JobError, JobRecord, RunStopped
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.runner import Run, execute, record_outcome
from kernel.jobs.stalled import recover_stalled_jobs
from kernel.jobs.store import Claim
from tests.kernel.jobs.conftest import ServeJobs, Working
from tests.processes import eventually

NAME = "alpha.job"


def job(run: Callable[[Run], Any], **given: Any) -> Job:
    return Job(name=NAME, run=run, **given)


def failing(times: int) -> Callable[[Run], int]:
    """Make a job that fails in its first attempts."""

    def run(run: Run) -> int:
        if run.attempt <= times:
            raise ValueError(f"attempt {run.attempt}")
        return run.attempt

    return run


def outcome(serve_jobs: ServeJobs, working: Working, one: Job) -> JobRecord:
    service = serve_jobs(one)
    with working(service):
        return service.shared.jobs.wait(service.shared.jobs.start(NAME).id, 20)


@pytest.mark.parametrize(
    ("fails", "state", "attempt", "error"),
    [(0, "succeeded", 1, None), (2, "succeeded", 3, None), (3, "failed", 3, "ValueError: attempt 3")],
)
def test_a_run_that_fails_is_retried(
    serve_jobs: ServeJobs, working: Working, fails: int, state: str, attempt: int, error: str | None
) -> None:
    done = outcome(serve_jobs, working, job(failing(fails), retries=2, retry_wait_s=0.01))

    assert (done.state, done.attempt, done.error) == (state, attempt, error)


@pytest.mark.parametrize(("retry", "attempts"), [(False, 1), (True, 2)])
def test_an_error_of_a_job_says_in_its_own_words_whether_it_is_retried(
    serve_jobs: ServeJobs, working: Working, *, retry: bool, attempts: int
) -> None:
    def run(run: Run) -> None:
        raise JobError("nobody is there", retry=retry)

    done = outcome(serve_jobs, working, job(run, retries=1, retry_wait_s=0.01))

    assert (done.state, done.attempt, done.error) == ("failed", attempts, "nobody is there")


def test_the_wait_before_a_retry_doubles(serve_jobs: ServeJobs, working: Working) -> None:
    began: list[float] = []

    def run(run: Run) -> None:
        began.append(time.monotonic())
        raise ValueError("again")

    outcome(serve_jobs, working, job(run, retries=2, retry_wait_s=0.7))

    assert began[1] - began[0] >= 0.7
    assert began[2] - began[1] >= 1.4


def test_a_start_brings_a_retry_forward(serve_jobs: ServeJobs, working: Working) -> None:
    service = serve_jobs(job(failing(1), retries=1, retry_wait_s=600))
    jobs = service.shared.jobs
    with working(service):
        first = jobs.start(NAME)
        assert eventually(lambda: jobs.get(first.id).error is not None)
        assert jobs.get(first.id).state == "waiting"

        again = jobs.start(NAME)

        assert again.id == first.id
        assert jobs.wait(first.id, 10).state == "succeeded"


def test_the_soft_limit_stops_a_run_that_asks(serve_jobs: ServeJobs, working: Working) -> None:
    def run(run: Run) -> None:
        while True:
            run.progress(1)
            time.sleep(0.01)

    done = outcome(serve_jobs, working, job(run, soft_timeout_s=0.1))

    assert (done.state, done.error) == ("failed", "stopped: soft timeout")


def test_a_stop_that_the_job_turns_into_an_error_is_still_a_stop(serve_jobs: ServeJobs, working: Working) -> None:
    def run(run: Run) -> None:
        run.stop("cancelled")
        try:
            run.check()
        except RunStopped as ex:
            raise ValueError("oops") from ex

    assert outcome(serve_jobs, working, job(run, retries=5)).state == "cancelled"


def test_a_worker_that_is_stopped_gives_its_job_back_for_nothing(serve_jobs: ServeJobs, working: Working) -> None:
    def run(run: Run) -> str:
        while run.attempt == 1:
            run.check()
            time.sleep(0.01)
        return "done"

    service = serve_jobs(job(run))
    jobs = service.shared.jobs
    started = jobs.start(NAME)
    with working(service):
        assert eventually(lambda: jobs.get(started.id).state == "running")
    assert jobs.get(started.id).state == "waiting"

    with working(service):
        done = jobs.wait(started.id, 10)

    assert (done.state, done.attempt, done.result) == ("succeeded", 2, "done")


def test_what_is_no_json_is_a_failure(serve_jobs: ServeJobs) -> None:
    done = serve_jobs(job(lambda run: object())).shared.jobs.run_inline(NAME)

    assert done.state == "failed"


def test_progress_is_written_now_and_then_and_at_the_end(serve_jobs: ServeJobs) -> None:
    seen: list[JobRecord] = []

    def run(run: Run) -> None:
        for number in range(1000):
            run.progress(number, 1000, f"item {number}")

    done = serve_jobs(job(run)).shared.jobs.run_inline(NAME, on_progress=seen.append)

    assert len(seen) < 100
    assert done.progress is not None
    assert (done.progress.done, done.progress.total, done.progress.message) == (999, 1000, "item 999")


def test_lines_are_kept_with_attempt_and_fields(serve_jobs: ServeJobs) -> None:
    def run(run: Run) -> None:
        run.log.info("read", items=3)
        run.log.debug("too much")
        raise ValueError("oops")

    jobs = serve_jobs(job(run)).shared.jobs
    done = jobs.run_inline(NAME)

    lines = jobs.log_lines(done.id)
    assert [(line.level, line.event, line.attempt) for line in lines] == [
        ("info", "read", 1),
        ("error", "job_failed", 1),
    ]
    assert lines[0].fields == {"items": 3}
    assert "ValueError: oops" in lines[1].fields["exception"]
    assert jobs.log_lines(done.id, after=lines[0].id) == lines[1:]


def test_lines_in_the_log_of_the_service_carry_the_request(
    serve_jobs: ServeJobs, capfd: pytest.CaptureFixture[str]
) -> None:
    service = serve_jobs(job(lambda run: run.log.info("read")), log={"format": "json", "level": "info"})

    service.shared.jobs.run_inline(NAME, request_id="r-77")

    line = next(line for line in capfd.readouterr().err.splitlines() if '"read"' in line)
    assert '"request_id":"r-77"' in line


def test_a_run_has_one_transaction(serve_jobs: ServeJobs) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            pass
        with run.transaction():
            pass

    assert "one transaction" in str(serve_jobs(job(run, retries=3)).shared.jobs.run_inline(NAME).error)


def test_a_failure_after_the_commit_is_not_retried(serve_jobs: ServeJobs, working: Working) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            pass
        raise ValueError("late")

    done = outcome(serve_jobs, working, job(run, retries=3, retry_wait_s=0))

    assert (done.state, done.attempt) == ("failed", 1)


def test_progress_and_lines_inside_the_transaction_do_not_wait_for_it(serve_jobs: ServeJobs) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            run.progress(1)
            run.log.info("inside")

    started = time.monotonic()
    done = serve_jobs(job(run)).shared.jobs.run_inline(NAME)

    assert done.state == "succeeded"
    assert time.monotonic() - started < 5


class Orphan:
    """A claim whose worker never says that it lives."""

    def __init__(self, serve_jobs: ServeJobs, **given: Any) -> None:
        self.service = serve_jobs(job(lambda run: "done", **given))
        self.jobs = self.service.shared.jobs
        self.store = self.jobs.store
        self.started = self.jobs.start(NAME)
        self.store.heartbeat(1)
        claim = self.store.claim(1)
        assert claim is not None
        self.claim: Claim = claim
        self.run = Run(claim, self.store, self.service.log, self.jobs.registry.get(NAME).job)

    def take_over(self) -> int:
        return recover_stalled_jobs(self.store, self.service.log, 1000, dead_worker=1)


def test_whoever_was_taken_over_can_do_nothing_more(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs)
    assert orphan.take_over() == 1

    with pytest.raises(RunStopped, match="taken over"), orphan.run.transaction():
        pytest.fail("it got in")
    with pytest.raises(RunStopped, match="taken over"):
        orphan.run.progress(1)
    assert not orphan.store.finish(orphan.claim, "failed", "late")
    assert orphan.jobs.get(orphan.started.id).state == "waiting"


def test_a_fence_lets_in_only_who_runs(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs)
    with orphan.service.shared.db.transaction() as connection:
        orphan.run.fence(connection)
    orphan.take_over()

    with pytest.raises(RunStopped), orphan.service.shared.db.transaction() as connection:
        orphan.run.fence(connection)


def test_a_takeover_ends_the_transaction_of_whoever_is_in_it(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs)

    with pytest.raises((UnavailableError, psycopg.Error)), orphan.run.transaction():
        assert eventually(lambda: orphan.take_over() == 1)

    assert orphan.jobs.get(orphan.started.id).state == "waiting"


def test_a_worker_that_lives_keeps_its_job(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs)

    assert recover_stalled_jobs(orphan.store, orphan.service.log, 1000) == 0
    assert orphan.jobs.get(orphan.started.id).state == "running"


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs)
    orphan.jobs.cancel(orphan.started.id)

    orphan.take_over()

    assert orphan.jobs.get(orphan.started.id).state == "cancelled"


def test_a_job_cancelled_while_it_failed_is_not_retried(serve_jobs: ServeJobs) -> None:
    orphan = Orphan(serve_jobs, retries=3)
    orphan.jobs.cancel(orphan.started.id)
    broken = job(failing(9), retries=3)

    ended = execute(RegisteredJob("alpha", broken), orphan.claim, orphan.run)
    record_outcome(orphan.store, broken, orphan.claim, orphan.run, ended)

    assert orphan.jobs.get(orphan.started.id).state == "cancelled"
