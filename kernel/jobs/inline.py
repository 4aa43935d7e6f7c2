"""Run a job in the process that starts it, without a worker; lock, fence, log and record are those of any run."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from kernel.errors import ConflictError
from kernel.jobs.heartbeat import Heartbeat
from kernel.jobs.owner import Owner
from kernel.jobs.queue import encode_parameters
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.run_log import RunLogFiles
from kernel.jobs.runner import Outcome, Run, RunMetrics, execute, log_outcome, record_outcome
from kernel.jobs.stalled import recover_stalled_jobs
from kernel.jobs.store import Claim, JobStore, make_worker_id
from kernel.logging import Logger
from kernel.settings import JobSettings
from kernel.tracing import Tracing


def run_inline(
    store: JobStore,
    job: RegisteredJob,
    parameters: msgspec.Struct | None,
    owner: Owner,
    settings: JobSettings,
    log: Logger,
    *,
    request_id: str | None = None,
    on_progress: Callable[[int], None] | None = None,
    log_files: RunLogFiles | None = None,
    tracing: Tracing | None = None,
    metrics: RunMetrics | None = None,
) -> int:
    """Run a job to its end; return its id. It is not retried.

    Args:
        store: Where its record is.
        job: Which job.
        parameters: From ``job.decode_parameters``.
        owner: Whose it is.
        settings: When a worker is dead.
        log: The service's log.
        request_id: The request that starts it.
        on_progress: Called with the job's id when it reports progress.
        log_files: Where the file of its log is; None writes none.
        tracing: Makes a span of it; None for no span.
        metrics: Counts the run.

    Raises:
        ConflictError: Its lock is held; names the job that holds it.
    """
    recover_stalled_jobs(store, log, settings.dead_after_s)
    worker = make_worker_id()
    store.heartbeat(worker)
    try:
        claim = _begin(store, job, parameters, owner, request_id, worker)
        run = Run(claim, store, log, job.job, log_files)
        if on_progress is not None:
            run.on_progress = lambda _: on_progress(claim.id)
        heartbeat = Heartbeat(store, worker, settings.dead_after_s, log)
        _run(store, job, claim, run, heartbeat, tracing, metrics)
    finally:
        store.delete_worker(worker)
    return claim.id


def _begin(
    store: JobStore,
    job: RegisteredJob,
    parameters: msgspec.Struct | None,
    owner: Owner,
    request_id: str | None,
    worker: int,
) -> Claim:
    lock = job.lock_name(parameters, owner.account)
    claim = store.insert_running(worker, job.name, lock, encode_parameters(parameters), request_id, owner)
    if claim is None:
        running = store.find(state="running", lock=lock)
        holder = f"{running[0].name}, as {running[0].id}" if running else "another job"
        raise ConflictError(f"The job {job.name} cannot run now: {holder}, is running and holds the lock {lock!r}.")
    return claim


def _run(
    store: JobStore,
    job: RegisteredJob,
    claim: Claim,
    run: Run,
    heartbeat: Heartbeat,
    tracing: Tracing | None,
    metrics: RunMetrics | None,
) -> None:
    heartbeat.watch(claim, run)
    heartbeat.start()
    started = time.monotonic()
    try:
        outcome = execute(job, claim, run, tracing)
    except BaseException:
        interrupted = Outcome(error="interrupted", stopped="cancelled")
        record_outcome(store, job.job, claim, run, interrupted, may_retry=False)
        log_outcome(run, interrupted, time.monotonic() - started, metrics)
        raise
    else:
        record_outcome(store, job.job, claim, run, outcome, may_retry=False)
        log_outcome(run, outcome, time.monotonic() - started, metrics)
    finally:
        heartbeat.stop()
