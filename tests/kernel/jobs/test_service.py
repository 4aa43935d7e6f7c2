"""Starting, watching and cancelling jobs, with a worker in this process."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from kernel.contracts import Job
from kernel.errors import ConflictError, InvalidError, NotFoundError
from kernel.jobs.models import RunStopped
from kernel.jobs.runner import Run
from tests.kernel.jobs.conftest import RunWorker, ServeJobs
from tests.processes import eventually


class Add(msgspec.Struct, frozen=True):
    """What to add."""

    left: int
    right: int = 0


def add(run: Run, parameters: Add) -> int:
    return parameters.left + parameters.right


ADD = Job(name="alpha.add", run=add)


class Gate:
    """A job that sets an event when it begins, and runs until another is set."""

    def __init__(self, **given: Any) -> None:
        self.began = threading.Event()
        self.open = threading.Event()
        self.stopped: list[str] = []
        self.job = Job(name="alpha.gate", run=self.run, **given)

    def run(self, run: Run) -> str:
        self.began.set()
        try:
            while not self.open.wait(0.01):
                run.check()
        except RunStopped as ex:
            self.stopped.append(ex.reason)
            raise
        return "through"


def test_a_worker_runs_a_started_job(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    jobs = serve_jobs(ADD).shared.jobs
    started = jobs.start("alpha.add", {"left": 1, "right": 2}, request_id="r-1")

    with run_worker(serve_jobs(ADD)):
        done = jobs.wait(started.id, 10)

    assert started.state == "waiting"
    assert (done.state, done.result, done.error, done.attempt) == ("succeeded", 3, None, 1)
    assert (done.request_id, done.parameters, done.lock) == ("r-1", {"left": 1, "right": 2}, "alpha.add")
    assert done.started_at is not None
    assert done.finished_at is not None


def test_parameters_can_be_given_as_their_struct(serve_jobs: ServeJobs) -> None:
    started = serve_jobs(ADD).shared.jobs.start("alpha.add", Add(4))

    assert started.parameters == {"left": 4, "right": 0}


def test_starting_an_unknown_job_lists_the_known_ones(serve_jobs: ServeJobs) -> None:
    with pytest.raises(NotFoundError) as caught:
        serve_jobs(ADD).shared.jobs.start("alpha.ad")

    assert caught.value.extra == {"available_jobs": ["alpha.add"]}


def test_every_wrong_parameter_is_named(serve_jobs: ServeJobs) -> None:
    with pytest.raises(InvalidError) as caught:
        serve_jobs(ADD).shared.jobs.start("alpha.add", {"right": "x", "up": 1})

    assert set(caught.value.errors or {}) == {"left", "right", "up"}


def test_a_job_without_parameters_rejects_any(serve_jobs: ServeJobs) -> None:
    with pytest.raises(InvalidError):
        serve_jobs(Gate().job).shared.jobs.start("alpha.gate", {"up": 1})


def test_a_waiting_job_is_not_queued_twice(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD).shared.jobs

    first, second = (jobs.start("alpha.add", {"left": 1}) for _ in range(2))

    assert first == second
    assert len(jobs.list()) == 1


def test_starting_a_waiting_job_with_other_parameters_is_a_conflict(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD).shared.jobs
    jobs.start("alpha.add", {"left": 1})

    with pytest.raises(ConflictError):
        jobs.start("alpha.add", {"left": 2})


def test_a_delayed_job_does_not_run_before_it_is_due(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    service = serve_jobs(ADD)
    jobs = service.shared.jobs

    started = jobs.start("alpha.add", {"left": 1}, delay_s=0.5)

    assert (started.due_at - started.created_at).total_seconds() == 0.5
    with run_worker(service):
        done = jobs.wait(started.id, 10)
    assert done.started_at is not None
    assert done.started_at >= started.due_at


@pytest.mark.parametrize(("again_s", "due_after_s"), [(0.0, 0.0), (30.0, 30.0), (120.0, 60.0)])
def test_starting_a_waiting_job_again_brings_it_forward_and_never_delays_it(
    serve_jobs: ServeJobs, again_s: float, due_after_s: float
) -> None:
    jobs = serve_jobs(ADD).shared.jobs
    first = jobs.start("alpha.add", {"left": 1}, delay_s=60.0)

    again = jobs.start("alpha.add", {"left": 1}, delay_s=again_s)

    assert again.id == first.id
    assert (again.due_at - first.created_at).total_seconds() == pytest.approx(due_after_s, abs=5.0)


def test_a_lock_may_depend_on_parameters(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(Job(name="alpha.add", run=add, lock="add-{left}")).shared.jobs

    locks = [jobs.start("alpha.add", {"left": left}).lock for left in (1, 2)]

    assert locks == ["add-1", "add-2"]


def test_the_next_job_of_a_lock_waits_until_the_running_one_ends(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    gate = Gate()
    service = serve_jobs(gate.job)
    jobs = service.shared.jobs
    with run_worker(service), run_worker(service):
        first = jobs.start("alpha.gate")
        assert gate.began.wait(10)
        second, third = jobs.start("alpha.gate"), jobs.start("alpha.gate")

        assert second.id == third.id != first.id
        # The second worker has polled the queue by now, and again.
        assert not eventually(lambda: jobs.get(second.id).state != "waiting", 1.5)
        gate.open.set()
        assert jobs.wait(first.id, 10).state == jobs.wait(second.id, 10).state == "succeeded"


def test_a_waiting_job_is_cancelled_at_once(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD).shared.jobs

    cancelled = jobs.cancel(jobs.start("alpha.add", {"left": 1}).id)

    assert cancelled.state == "cancelled"
    assert jobs.list(state="waiting") == []


def test_cancelling_a_running_job_asks_it_to_stop(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    gate = Gate()
    service = serve_jobs(gate.job)
    with run_worker(service):
        started = service.shared.jobs.start("alpha.gate")
        assert gate.began.wait(10)
        service.shared.jobs.cancel(started.id)

        assert service.shared.jobs.wait(started.id, 10).state == "cancelled"
    assert gate.stopped == ["cancelled"]


def test_a_finished_job_cannot_be_cancelled(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD).shared.jobs
    done = jobs.run_inline("alpha.add", {"left": 1})

    with pytest.raises(ConflictError, match="succeeded"):
        jobs.cancel(done.id)


@pytest.mark.parametrize("ask", ["get", "cancel"])
def test_an_unknown_id_is_not_found(serve_jobs: ServeJobs, ask: str) -> None:
    with pytest.raises(NotFoundError):
        getattr(serve_jobs(ADD).shared.jobs, ask)(4711)


def test_lists_are_filtered_and_paged(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD, Gate().job).shared.jobs
    gate = jobs.start("alpha.gate")
    ran = [jobs.run_inline("alpha.add", {"left": left}).id for left in range(3)]

    assert [job.id for job in jobs.list(name="alpha.gate")] == [gate.id]
    assert [job.id for job in jobs.list(state="succeeded", limit=2)] == [ran[2], ran[1]]
    assert [job.id for job in jobs.list(state="succeeded", beyond=(ran[1], ran[1]))] == [ran[0]]


def test_an_inline_run_needs_no_worker_and_reports_progress(serve_jobs: ServeJobs) -> None:
    def count(run: Run) -> int:
        run.progress(1, 2, "half")
        return threading.get_ident()

    seen: list[Any] = []

    done = serve_jobs(Job(name="alpha.count", run=count)).shared.jobs.run_inline("alpha.count", on_progress=seen.append)

    assert (done.state, done.result) == ("succeeded", threading.get_ident())
    assert [(record.id, record.progress.message) for record in seen] == [(done.id, "half")]


def test_a_failed_inline_run_is_recorded_and_not_retried(serve_jobs: ServeJobs) -> None:
    def fail(run: Run) -> None:
        raise ValueError("no such thing")

    done = serve_jobs(Job(name="alpha.fail", run=fail, retries=3)).shared.jobs.run_inline("alpha.fail")

    assert (done.state, done.error, done.attempt) == ("failed", "ValueError: no such thing", 1)


def test_an_inline_run_whose_lock_is_held_names_the_holder(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    gate = Gate()
    service = serve_jobs(gate.job)
    jobs = service.shared.jobs
    with run_worker(service):
        started = jobs.start("alpha.gate")
        assert gate.began.wait(10)

        with pytest.raises(ConflictError, match=f"alpha.gate, as {started.id},"):
            jobs.run_inline("alpha.gate")

        gate.open.set()
        jobs.wait(started.id, 10)
    assert [job.state for job in jobs.list()] == ["cancelled", "succeeded"]


def test_an_inline_run_does_not_wait_for_queued_jobs_of_its_lock(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(ADD).shared.jobs
    jobs.start("alpha.add", {"left": 1})

    assert jobs.run_inline("alpha.add", {"left": 2}).state == "succeeded"


@pytest.mark.slow
def test_jobs_enqueued_while_workers_claim_are_not_lost(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(Job(name="alpha.add", run=add, lock="add-{left}")).shared.jobs
    claimed: set[int] = set()
    ended = threading.Event()

    def claim_all(worker: int) -> None:
        jobs.store.heartbeat(worker)
        while not ended.is_set():
            claim = jobs.store.claim(worker)
            if claim is not None:
                claimed.add(claim.id)

    threads = [threading.Thread(target=claim_all, args=(worker,)) for worker in (1, 2, 3)]
    for thread in threads:
        thread.start()
    started = {jobs.start("alpha.add", {"left": left}).id for left in range(400)}
    everything = eventually(lambda: claimed == started)
    ended.set()
    for thread in threads:
        thread.join()

    assert everything
