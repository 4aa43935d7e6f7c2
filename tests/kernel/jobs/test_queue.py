"""The queue: which job is claimed next, by whom, and what keeps jobs of one lock apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from kernel.contracts import Job
from kernel.errors import ConflictError
from kernel.jobs import store
from kernel.jobs.runner import Run
from kernel.jobs.service import Jobs
from kernel.jobs.store import QUERIES, Claim
from tests.kernel.jobs.conftest import RunWorker, ServeJobs
from tests.processes import eventually

WORKER = 7


class Numbered(msgspec.Struct, frozen=True):
    """Parameters that distinguish jobs."""

    number: int
    lock: str = ""


def run(run: Run, parameters: Numbered) -> int:
    return parameters.number


BY_NUMBER = Job(name="alpha.number", run=run, lock="number-{number}")
BY_LOCK = Job(name="alpha.lock", run=run, lock="{lock}")


@pytest.fixture
def jobs(serve_jobs: ServeJobs) -> Jobs:
    """The jobs of a service, without a worker."""
    # Each name has separate jobs, so that many of one lock can wait.
    more = [Job(name=f"alpha.lock{number}", run=run, lock="{lock}") for number in range(20)]
    return serve_jobs(BY_NUMBER, BY_LOCK, *more).shared.jobs


def drain(jobs: Jobs) -> Iterator[Claim]:
    """Claim every job that is due, and finish it."""
    while (claim := jobs.store.claim(WORKER)) is not None:
        yield claim
        jobs.store.finish(claim, "succeeded")


def test_jobs_are_claimed_in_the_order_in_which_they_are_due_and_were_started(jobs: Jobs, database: str) -> None:
    started = [jobs.start("alpha.number", {"number": number}).id for number in range(4)]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE tiercel.job_run SET due_at = %s", ["2026-01-01T00:00:00Z"])
        connection.execute("UPDATE tiercel.job_run SET due_at = %s WHERE id = %s", ["2025-01-01T00:00:00Z", started[2]])

    claimed = [claim.id for claim in drain(jobs)]

    assert claimed == [started[2], started[0], started[1], started[3]]


def test_jobs_whose_lock_is_held_keep_no_others_waiting(jobs: Jobs) -> None:
    held = jobs.start("alpha.lock", {"number": 0, "lock": "a"})
    assert jobs.store.claim(1) is not None
    waiting = [jobs.start(f"alpha.lock{number}", {"number": number, "lock": "a"}).id for number in range(20)]
    other = jobs.start("alpha.lock", {"number": 1, "lock": "b"})

    assert [claim.id for claim in drain(jobs)] == [other.id]

    running = jobs.store.find(state="running")
    assert [record.id for record in running] == [held.id]
    assert {record.id for record in jobs.list(state="waiting")} == set(waiting)


def test_jobs_of_one_lock_never_run_at_once_however_many_workers_claim(jobs: Jobs) -> None:
    locks = ("a", "b", "c")
    for number in range(20):
        for lock in locks:
            jobs.start(f"alpha.lock{number}", {"number": number, "lock": lock})
    held: dict[str, int] = dict.fromkeys(locks, 0)
    most: dict[str, int] = dict.fromkeys(locks, 0)
    finished: list[int] = []
    guard = threading.Lock()

    def work(worker: int) -> None:
        while len(finished) < 60:
            claim = jobs.store.claim(worker)
            if claim is None:
                continue
            with guard:
                held[claim.lock] += 1
                most[claim.lock] = max(most[claim.lock], held[claim.lock])
            time.sleep(0.002)
            with guard:
                held[claim.lock] -= 1
                finished.append(claim.id)
            jobs.store.finish(claim, "succeeded")

    in_threads(work, workers=4)

    assert most == dict.fromkeys(locks, 1)
    assert len(set(finished)) == 60


def test_a_job_is_claimed_by_one_worker_only(jobs: Jobs) -> None:
    started = {jobs.start("alpha.number", {"number": number}).id for number in range(60)}
    claimed: list[int] = []

    def work(worker: int) -> None:
        while (claim := jobs.store.claim(worker)) is not None:
            claimed.append(claim.id)

    in_threads(work, workers=4)

    assert len(claimed) == 60
    assert set(claimed) == started


def in_threads(work: Callable[[int], None], workers: int) -> None:
    """Run a function in threads, each with the id of a worker."""
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(1, workers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_claim_registers_its_worker(jobs: Jobs, database: str) -> None:
    jobs.start("alpha.number", {"number": 1})

    assert jobs.store.claim(WORKER) is not None

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT id FROM tiercel.job_worker").fetchall() == [(WORKER,)]


def test_a_queue_that_was_seen_empty_is_still_read_by_its_index(jobs: Jobs, database: str) -> None:
    # PostgreSQL plans by its latest statistics. With a sort or a join, claims take time that grows with the queue.
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE tiercel.job_run")
        connection.execute(
            "INSERT INTO tiercel.job_run (name, state, parameters, lock)"
            " SELECT 'alpha.lock', 'waiting', '{}', 'lock ' || number FROM generate_series(1, 2000) AS number"
        )
        claim = sql.SQL("EXPLAIN " + QUERIES["claim"]).format(worker=WORKER)
        plan = "\n".join(row[0] for row in connection.execute(claim))

    assert "Index Scan using job_run_due" in plan
    assert "Sort" not in plan
    assert "Join" not in plan


def test_a_claim_is_planned_once_for_a_session(serve_jobs: ServeJobs) -> None:
    jobs = serve_jobs(BY_NUMBER, db={"pool_min": 1, "pool_max": 1}).shared.jobs
    for _ in range(8):
        jobs.store.claim(WORKER)

    with jobs.store.db.connection() as connection:
        plans = connection.execute(
            "SELECT generic_plans > 0, custom_plans FROM pg_prepared_statements WHERE statement ~ 'SKIP LOCKED'"
        ).fetchall()
    assert plans == [(True, 0)]


def test_a_job_of_a_newer_version_is_left_to_its_workers_but_not_for_ever(
    serve_jobs: ServeJobs, run_worker: RunWorker, database: str
) -> None:
    service = serve_jobs(BY_NUMBER)
    jobs = service.shared.jobs
    started = jobs.start("alpha.number", {"number": 1}).id
    jobs.registry.unregister("alpha")
    state = "SELECT state, error, attempt, due_at > now() FROM tiercel.job_run WHERE id = %s"
    reason = "no loaded plugin has a job 'alpha.number'"

    with psycopg.connect(database, autocommit=True) as connection, run_worker(service):
        assert eventually(lambda: connection.execute(state, [started]).fetchone() == ("waiting", reason, 1, True))

        connection.execute("UPDATE tiercel.job_run SET attempt = 59, due_at = now()")

        assert eventually(lambda: connection.execute(state, [started]).fetchone() == ("failed", reason, 60, False))


def test_cancelling_a_run_does_not_wait_for_its_transaction(serve_jobs: ServeJobs, run_worker: RunWorker) -> None:
    inside, cancelled = threading.Event(), threading.Event()

    def write(run: Run) -> None:
        with run.transaction():
            inside.set()
            assert cancelled.wait(10)
            while True:
                run.check()
                time.sleep(0.01)

    service = serve_jobs(Job(name="alpha.write", run=write))
    jobs = service.shared.jobs
    with run_worker(service):
        started = jobs.start("alpha.write")
        assert inside.wait(10)
        asked_at = time.monotonic()

        assert jobs.cancel(started.id).state == "running"

        assert time.monotonic() - asked_at < 2
        cancelled.set()
        assert jobs.wait(started.id, 10).state == "cancelled"


def test_a_run_that_stops_at_once_was_asked_to_and_did_not_wait(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    started = jobs.start("alpha.number", {"number": 1})
    claim = jobs.store.claim(WORKER)
    assert claim is not None
    transaction = jobs.store.db.transaction

    @contextmanager
    def stopping() -> Iterator[psycopg.Connection[Any]]:
        with transaction() as connection:
            yield connection
        monkeypatch.undo()
        assert jobs.store.finish(claim, "cancelled")

    monkeypatch.setattr(jobs.store.db, "transaction", stopping)

    assert jobs.cancel(started.id).state == "running"
    assert jobs.get(started.id).state == "cancelled"


def test_a_run_that_succeeds_while_it_is_asked_to_stop_cannot_be_cancelled(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = jobs.start("alpha.number", {"number": 1})
    claim = jobs.store.claim(WORKER)
    assert claim is not None
    find_query = store._list_query

    def finishing(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert jobs.store.finish(claim, "succeeded")
        return find_query(*arguments)

    monkeypatch.setattr(store, "_list_query", finishing)

    with pytest.raises(ConflictError, match="succeeded"):
        jobs.cancel(started.id)


def test_a_job_that_was_asked_to_stop_is_not_queued_again(jobs: Jobs) -> None:
    started = jobs.start("alpha.number", {"number": 1})
    claim = jobs.store.claim(WORKER)
    assert claim is not None
    jobs.cancel(started.id)

    jobs.store.requeue(claim, "ValueError: oops", failures=1)

    assert (jobs.get(started.id).state, jobs.get(started.id).error) == ("cancelled", "ValueError: oops")


def test_a_cancellation_at_the_moment_of_a_retry_is_not_lost(jobs: Jobs) -> None:
    for _ in range(30):
        started = jobs.start("alpha.number", {"number": 1})
        claim = jobs.store.claim(WORKER)
        assert claim is not None
        retrying = threading.Thread(target=jobs.store.requeue, args=(claim, "again"), kwargs={"wait_s": 60.0})
        cancelling = threading.Thread(target=jobs.cancel, args=(started.id,))
        for thread in (retrying, cancelling):
            thread.start()
        for thread in (retrying, cancelling):
            thread.join()

        assert jobs.get(started.id).state == "cancelled"


def test_a_run_that_is_not_stopped_by_its_cancellation_may_finish(jobs: Jobs) -> None:
    started = jobs.start("alpha.number", {"number": 1})
    claim = jobs.store.claim(WORKER)
    assert claim is not None
    jobs.cancel(started.id)

    assert jobs.store.finish(claim, "succeeded", result=1)

    assert jobs.get(started.id).state == "succeeded"


def test_an_inline_run_does_not_take_the_place_of_a_waiting_job(jobs: Jobs) -> None:
    waiting = jobs.start("alpha.lock", {"number": 1, "lock": "a"})

    ran = jobs.run_inline("alpha.lock", {"number": 2, "lock": "a"})

    assert (ran.state, ran.attempt, ran.result) == ("succeeded", 1, 2)
    assert jobs.get(waiting.id).state == "waiting"
