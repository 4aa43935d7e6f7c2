"""Run a job in the process that wants it: through the same queue and locks, without a worker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec

from kernel.contracts import Job
from kernel.errors import ConflictError
from kernel.jobs.catalogue import lock_of
from kernel.jobs.execution import Outcome, log_end, perform, settle
from kernel.jobs.keeper import Keeper
from kernel.jobs.queueing import plain_parameters
from kernel.jobs.run import Run
from kernel.jobs.store import OWN_QUEUE_PREFIX, Claim, JobStore
from kernel.jobs.takeover import take_over
from kernel.logging import Logger
from kernel.settings import JobSettings


def make_worker_id() -> int:
    """Return a number for a worker; made here, so that whoever starts one knows it before the database does."""
    # The database's own numbers are small; 62 bits do not meet them, nor each other.
    return secrets.randbits(62)


def run_in_this_process(
    store: JobStore,
    job: Job,
    parameters: msgspec.Struct | None,
    request_id: str | None,
    settings: JobSettings,
    log: Logger,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Run a job to its end; return its number.

    Raises:
        ConflictError: Its lock is taken; names the job that runs.
    """
    worker = make_worker_id()
    take_over(store.db, log, settings.dead_after_s)
    claim = _claim(store, job, parameters, request_id, worker)
    keeper = Keeper(store, worker, settings.dead_after_s, log)
    run = Run(claim, store, log, job)
    if on_progress is not None:
        run.on_progress = lambda _: on_progress(claim.id)
    keeper.watch(claim, run)
    keeper.start()
    started = time.monotonic()
    try:
        outcome = perform(job, claim, run)
    except BaseException:
        settle(store, job, claim, run, Outcome(error="interrupted", stopped="cancelled"), may_retry=False)
        raise
    else:
        settle(store, job, claim, run, outcome, may_retry=False)
        log_end(log, claim, outcome, time.monotonic() - started)
    finally:
        keeper.stop()
        store.unregister(worker)
    return claim.id


def _claim(store: JobStore, job: Job, parameters: msgspec.Struct | None, request_id: str | None, worker: int) -> Claim:
    lock = lock_of(job, parameters)
    queue = f"{OWN_QUEUE_PREFIX}{worker}"
    store.heartbeat(worker)
    with store.starting(job.name, lock) as connection:
        queued = store.insert(connection, job.name, lock, plain_parameters(parameters), request_id, queue)
    claim = store.claim(worker, queue)
    if claim is None:
        store.cancel(queued)
        store.unregister(worker)
        running = store.find(state="running", lock=lock)
        who = f"{running[0].name}, as {running[0].id}" if running else "another job"
        raise ConflictError(f"The job {job.name} cannot run now: {who}, is running and holds the lock {lock!r}.")
    return claim
