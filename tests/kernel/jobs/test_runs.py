"""One attempt at a job: retries, time limits, progress, log lines, transactions; and runs that were taken over."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from kernel.contracts import Job
from kernel.errors import UnavailableError
from kernel.jobs.models import JobError, JobRecord, RunStopped
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.runner import Run, execute, record_outcome
from kernel.jobs.stalled import recover_stalled_jobs
from kernel.jobs.store import Claim
from tests.kernel.jobs.conftest import RunWorker, ServeJobs
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


def outcome(serve_jobs: ServeJobs, run_worker: RunWorker, one: Job) -> JobRecord:
    service = serve_jobs(one)
    with run_worker(service):
        return service.shared.jobs.wait(service.shared.jobs.start(NAME).id, 20)


@pytest.mark.parametrize(
    ("fails", "state", "attempt", "error"),
    [(0, "succeeded", 1, None), (2, "succeeded", 3, None), (3, "failed", 3, "ValueError: attempt 3")],
)
def test_a_failed_run_is_retried(
    serve_jobs: ServeJobs, run_worker: RunWorker, fails: int, state: str, attempt: int, error: str | None
) -> None:
    done = outcome(serve_jobs, run_worker, job(failing(fails), retries=2, retry_wait_s=0.01))

    assert (done.state, done.attempt, done.error) == (state, attempt, error)


@pytest.mark.parametrize(("retry", "attempts"), [(False, 1), (True, 2)])
def test_a_job_error_says_whether_it_is_retried(
    serve_jobs: ServeJobs, run_worker: RunWorker, *, retry: bool, attempts: int
) -> None:
    def run(run: Run) -> None:
        raise JobError("nobody is there", retry=retry)

    done = outcome(serve_jobs, run_worker, job(run, retries=1, retry_wait_s=0.01))

    assert (done.state, done.attempt, done.error) == ("failed", attempts, "nobody is there")


@pytest.mark.parametrize(("kind", "name"), [(JobError, ""), (ValueError, "ValueError: ")])
def test_the_reason_of_a_failure_shows_no_secret(
    serve_jobs: ServeJobs, run_worker: RunWorker, capfd: pytest.CaptureFixture[str], kind: type[Exception], name: str
) -> None:
    def run(run: Run) -> None:
        raise kind("https://user:hunter2@api.example/?token=hunter2 does not answer")

    done = outcome(serve_jobs, run_worker, job(run))

    assert done.error == f"{name}https://***@api.example/?token=*** does not answer"
    # The line of code of a traceback, which quotes the message, included.
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_the_wait_before_a_retry_doubles(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    began: list[float] = []

    def run(run: Run) -> None:
        began.append(time.monotonic())
        raise ValueError("again")

    outcome(serve_jobs, run_worker, job(run, retries=2, retry_wait_s=0.7))

    assert began[1] - began[0] >= 0.7
    assert began[2] - began[1] >= 1.4


def test_starting_a_job_that_waits_for_its_retry_brings_it_forward(
    serve_jobs: ServeJobs, run_worker: RunWorker
) -> None:
    service = serve_jobs(job(failing(1), retries=1, retry_wait_s=600))
    jobs = service.shared.jobs
    with run_worker(service):
        first = jobs.start(NAME)
        assert eventually(lambda: jobs.get(first.id).error is not None)
        assert jobs.get(first.id).state == "waiting"

        again = jobs.start(NAME)

        assert again.id == first.id
        assert jobs.wait(first.id, 10).state == "succeeded"


def test_the_soft_timeout_stops_a_run_when_it_reports_progress(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    def run(run: Run) -> None:
        while True:
            run.progress(1)
            time.sleep(0.01)

    done = outcome(serve_jobs, run_worker, job(run, soft_timeout_s=0.1))

    assert (done.state, done.error) == ("failed", "stopped: soft timeout")


def test_a_stopped_run_that_raises_another_error_still_counts_as_stopped(
    serve_jobs: ServeJobs, run_worker: RunWorker
) -> None:
    def run(run: Run) -> None:
        run.stop("cancelled")
        try:
            run.check()
        except RunStopped as ex:
            raise ValueError("oops") from ex

    assert outcome(serve_jobs, run_worker, job(run, retries=5)).state == "cancelled"


def test_the_job_of_a_stopped_worker_is_queued_again_without_costing_a_retry(
    serve_jobs: ServeJobs, run_worker: RunWorker
) -> None:
    def run(run: Run) -> str:
        while run.attempt == 1:
            run.check()
            time.sleep(0.01)
        return "done"

    service = serve_jobs(job(run))
    jobs = service.shared.jobs
    started = jobs.start(NAME)
    with run_worker(service):
        assert eventually(lambda: jobs.get(started.id).state == "running")
    assert jobs.get(started.id).state == "waiting"

    with run_worker(service):
        done = jobs.wait(started.id, 10)

    assert (done.state, done.attempt, done.result) == ("succeeded", 2, "done")


def test_a_result_that_is_not_json_fails_the_job(serve_jobs: ServeJobs) -> None:
    done = serve_jobs(job(lambda run: object())).shared.jobs.run_inline(NAME)

    assert done.state == "failed"


def test_progress_is_stored_at_intervals_and_at_the_end(serve_jobs: ServeJobs) -> None:
    seen: list[JobRecord] = []

    def run(run: Run) -> None:
        for number in range(1000):
            run.progress(number, 1000, f"item {number}")

    done = serve_jobs(job(run)).shared.jobs.run_inline(NAME, on_progress=seen.append)

    assert len(seen) < 100
    assert done.progress is not None
    assert (done.progress.done, done.progress.total, done.progress.message) == (999, 1000, "item 999")


def test_log_lines_are_stored_with_attempt_and_fields(serve_jobs: ServeJobs) -> None:
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


def test_lines_in_the_log_of_the_service_carry_the_request_id(
    serve_jobs: ServeJobs, capfd: pytest.CaptureFixture[str]
) -> None:
    service = serve_jobs(job(lambda run: run.log.info("read")), log={"format": "json", "level": "info"})

    service.shared.jobs.run_inline(NAME, request_id="r-77")

    line = next(line for line in capfd.readouterr().err.splitlines() if '"read"' in line)
    assert '"request_id":"r-77"' in line


def test_a_second_transaction_of_a_run_is_an_error(serve_jobs: ServeJobs) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            pass
        with run.transaction():
            pass

    assert "one transaction" in str(serve_jobs(job(run, retries=3)).shared.jobs.run_inline(NAME).error)


def test_a_failure_after_the_commit_is_not_retried(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            pass
        raise ValueError("late")

    done = outcome(serve_jobs, run_worker, job(run, retries=3, retry_wait_s=0))

    assert (done.state, done.attempt) == ("failed", 1)


def test_progress_and_log_lines_inside_the_transaction_do_not_wait_for_it(serve_jobs: ServeJobs) -> None:
    def run(run: Run) -> None:
        with run.transaction():
            run.progress(1)
            run.log.info("inside")

    started = time.monotonic()
    done = serve_jobs(job(run)).shared.jobs.run_inline(NAME)

    assert done.state == "succeeded"
    assert time.monotonic() - started < 5


class StalledRun:
    """A job that was claimed by a worker without heartbeats."""

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

    def recover(self) -> int:
        return recover_stalled_jobs(self.store, self.service.log, 1000, dead_worker=1)


def test_a_run_that_was_taken_over_can_neither_commit_nor_finish(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs)
    assert stalled.recover() == 1

    with pytest.raises(RunStopped, match="taken over"), stalled.run.transaction():
        pytest.fail("it got in")
    with pytest.raises(RunStopped, match="taken over"):
        stalled.run.progress(1)
    assert not stalled.store.finish(stalled.claim, "failed", "late")
    assert stalled.jobs.get(stalled.started.id).state == "waiting"


def test_a_fence_rejects_a_run_that_was_taken_over(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs)
    with stalled.service.shared.db.transaction() as connection:
        stalled.run.fence(connection)
    stalled.recover()

    with pytest.raises(RunStopped), stalled.service.shared.db.transaction() as connection:
        stalled.run.fence(connection)


def test_recovering_a_stalled_job_ends_its_open_transaction(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs)

    with pytest.raises((UnavailableError, psycopg.Error)), stalled.run.transaction():
        assert eventually(lambda: stalled.recover() == 1)

    assert stalled.jobs.get(stalled.started.id).state == "waiting"


def test_the_job_of_a_live_worker_is_not_taken_over(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs)

    assert recover_stalled_jobs(stalled.store, stalled.service.log, 1000) == 0
    assert stalled.jobs.get(stalled.started.id).state == "running"


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs)
    stalled.jobs.cancel(stalled.started.id)

    stalled.recover()

    assert stalled.jobs.get(stalled.started.id).state == "cancelled"


def test_a_job_cancelled_while_it_failed_is_not_retried(serve_jobs: ServeJobs) -> None:
    stalled = StalledRun(serve_jobs, retries=3)
    stalled.jobs.cancel(stalled.started.id)
    broken = job(failing(9), retries=3)

    ended = execute(RegisteredJob("alpha", broken), stalled.claim, stalled.run)
    record_outcome(stalled.store, broken, stalled.claim, stalled.run, ended)

    assert stalled.jobs.get(stalled.started.id).state == "cancelled"


def test_a_run_has_a_file_of_its_log_if_there_is_a_folder(
    serve_jobs: ServeJobs, run_worker: RunWorker, tmp_path: Path
) -> None:
    def run(run: Run) -> None:
        run.log.info("reading", source="a")
        if run.attempt == 1:
            raise ValueError("nothing works")

    folder = tmp_path / "logs" / "jobs"
    log = {"format": "json", "level": "info", "file": str(tmp_path / "service.log")}
    service = serve_jobs(job(run, retries=1, retry_wait_s=0), jobs={"log_dir": str(folder)}, log=log)
    with run_worker(service):
        done = service.shared.jobs.wait(service.shared.jobs.start(NAME, request_id="request-7").id, 20)
        (path,) = folder.iterdir()
        assert eventually(lambda: b"job_done" in path.read_bytes())

    assert path.name == f"job-{done.id}-{NAME}.log"
    assert path.stat().st_mode & stat.S_IRWXO == 0
    lines = [msgspec.json.decode(line) for line in path.read_text().splitlines()]
    assert [(each["attempt"], each["event"]) for each in lines] == [
        (1, "job_began"),
        (1, "reading"),
        (1, "job_failed"),
        (1, "job_not_done"),
        (2, "job_began"),
        (2, "reading"),
        (2, "job_done"),
    ]
    assert lines[1]["source"] == "a"
    # What the log of the service has of the request that started it is found by this.
    assert lines[0]["request_id"] == "request-7"
    assert (tmp_path / "service.log").read_text().count('"reading"') == 2
    assert lines[2]["exception"].endswith("ValueError: nothing works")


def test_a_file_that_cannot_be_written_does_not_fail_the_job(serve_jobs: ServeJobs, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    jobs = serve_jobs(job(lambda run: run.log.info("line")), jobs={"log_dir": str(tmp_path / "file")}).shared.jobs

    record = jobs.run_inline(NAME)

    assert record.state == "succeeded"
    assert [line.event for line in jobs.log_lines(record.id)] == ["line"]


def test_a_file_on_a_disk_that_is_full_does_not_fail_the_job(serve_jobs: ServeJobs, tmp_path: Path) -> None:
    jobs = serve_jobs(job(lambda run: run.log.info("line")), jobs={"log_dir": str(tmp_path)}).shared.jobs
    assert jobs.log_files is not None
    next_id = jobs.run_inline(NAME).id + 1
    jobs.log_files.path_of(next_id, NAME).symlink_to("/dev/full")

    record = jobs.run_inline(NAME)

    assert (record.id, record.state) == (next_id, "succeeded")
    assert [line.event for line in jobs.log_lines(next_id)] == ["line"]


def test_old_files_of_runs_are_deleted_and_no_others(serve_jobs: ServeJobs, tmp_path: Path) -> None:
    jobs = serve_jobs(job(lambda run: None), jobs={"log_dir": str(tmp_path)}).shared.jobs
    assert jobs.log_files is not None
    old, new = (jobs.log_files.path_of(jobs.run_inline(NAME).id, NAME) for _ in range(2))
    other = tmp_path / "nightly.log"
    other.touch()
    for path in (old, other):
        os.utime(path, (0, 0))

    jobs.log_files.delete_old(30)

    assert sorted(tmp_path.iterdir()) == sorted([new, other])
