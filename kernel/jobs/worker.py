"""A worker process: runs one job at a time, starts scheduled jobs, and stops on SIGTERM, even if its job does not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

import msgspec
import psycopg

from kernel.db.pool import Database
from kernel.errors import NotFoundError, TiercelError
from kernel.jobs.heartbeat import Heartbeat
from kernel.jobs.owner import Owner
from kernel.jobs.queue import encode_parameters
from kernel.jobs.registry import JobRegistry, RegisteredJob, Schedule
from kernel.jobs.run_log import RunLogFiles
from kernel.jobs.runner import Run, RunMetrics, execute, log_outcome, record_outcome
from kernel.jobs.stalled import recover_stalled_jobs
from kernel.jobs.store import CANCELLED, CHANNEL, QUERIES, QUEUED, Claim, JobStore
from kernel.logging import Logger
from kernel.notifications import NotificationListener
from kernel.settings import JobSettings
from kernel.threads import BackgroundThread
from kernel.tracing import Tracing

# How soon a worker looks for jobs without being notified, and retries when the database is unavailable.
_POLL_S = 1.0
# How soon the main thread notices a signal, the hard time limit, and the end of the supervisor.
_TICK_S = 0.1
# Timeout of the last statement of a process that is killed.
_LAST_STATEMENT_S = 3.0
# Notifications wake the worker; the queue is polled anyway.
_LISTEN_POLL_S = 60.0
# A job that nobody knows is left to other workers for ten minutes.
_UNKNOWN_WAIT_S = 10.0
_UNKNOWN_ATTEMPTS_MAX = 60
# Old records are removed so often, and so many in one statement.
_CLEAN_INTERVAL_S = 600.0
_CLEAN_BATCH = 1000


class _Current(msgspec.Struct, frozen=True):
    """The job that runs now, and when its hard time limit is over."""

    claim: Claim
    run: Run
    job: RegisteredJob
    deadline: float


class Worker:
    """A worker process. One thread runs jobs, another sends heartbeats and does maintenance, the main thread watches.

    Args:
        worker_id: From ``make_worker_id``.
        registry: The jobs it can run, and their schedules.
        db: Opened in this process.
        settings: Time limits.
        now: Returns the time, UTC.
        log: Gets a line about each job.
        dead_worker: Id of the worker that this one replaces.
        log_files: Where the files of runs are; None writes none.
        tracing: Makes a span of each run; None for no spans.
        metrics: Counts runs.
    """

    def __init__(
        self,
        worker_id: int,
        registry: JobRegistry,
        db: Database,
        settings: JobSettings,
        now: Callable[[], datetime],
        log: Logger,
        dead_worker: int | None = None,
        log_files: RunLogFiles | None = None,
        tracing: Tracing | None = None,
        metrics: RunMetrics | None = None,
    ) -> None:
        self._id = worker_id
        self._tracing = tracing
        self._metrics = metrics
        self._log_files = log_files
        self._registry = registry
        self._store = JobStore(db)
        self._settings = settings
        self._log = log
        self._is_told_to_end = False
        self._wake = threading.Event()
        self._current: _Current | None = None
        scheduler = Scheduler(self._store, registry, now, log)
        maintenance = Maintenance(self._store, settings, scheduler, log, dead_worker, log_files)
        self._heartbeat = Heartbeat(self._store, worker_id, settings.dead_after_s, log, maintenance.run_due)
        self._listener = NotificationListener(
            db.direct_conninfo, name="tiercel jobs", poll_interval_s=_LISTEN_POLL_S, log=log
        )
        self._listener.subscribe(CHANNEL, self._receive, poll=self._wake.set)
        self._runner = BackgroundThread("job-runner", self._run_jobs, self._wake.set)

    def run(self, is_orphan: Callable[[], bool] = lambda: False) -> None:
        """Work until SIGTERM or SIGINT, or until this process is an orphan.

        Args:
            is_orphan: Returns whether the parent process is gone.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.start()
        while self._runner.is_alive and not self._is_told_to_end and not is_orphan():
            time.sleep(_TICK_S)
            self._end_overrun()
        self._leave()

    def start(self) -> None:
        """Start the threads."""
        self._heartbeat.start()
        self._listener.start()
        self._runner.start()

    def stop(self) -> None:
        """Claim no further job, and ask the one that runs to stop."""
        self._runner.stop(0)
        current = self._current
        if current is not None:
            current.run.stop("shutdown")

    def join(self, timeout_s: float) -> bool:
        """After ``stop``: wait for the job that runs, then forget this worker; tell whether the job ended in time."""
        ended = self._runner.stop(timeout_s)
        self._listener.stop()
        self._heartbeat.stop()
        if ended:
            with contextlib.suppress(TiercelError, psycopg.Error):
                self._store.delete_worker(self._id)
        return ended

    def _on_signal(self, *_: object) -> None:
        # Nothing else: it interrupts the main thread, which may hold any lock.
        self._is_told_to_end = True

    def _receive(self, payloads: Sequence[str]) -> None:
        if QUEUED in payloads:
            self._wake.set()
        if CANCELLED in payloads:
            self._heartbeat.wake()

    # --- the thread that runs jobs ----------------------------------------------------------------------------------

    def _run_jobs(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self._wake.clear()
            try:
                claim = self._store.claim(self._id)
            except (TiercelError, psycopg.Error) as ex:
                self._log.warning("jobs_cannot_be_read", reason=getattr(ex, "detail", None) or str(ex))
                stopping.wait(_POLL_S)
                continue
            if claim is not None:
                self._run_claim(claim, stopping)
            elif not stopping.is_set():
                self._wake.wait(_POLL_S)

    def _run_claim(self, claim: Claim, stopping: threading.Event) -> None:
        try:
            job = self._registry.get(claim.name)
        except NotFoundError:
            self._store_until_done(lambda: self._leave_to_others(claim))
            return
        run = Run(claim, self._store, self._log, job.job, self._log_files)
        started = time.monotonic()
        self._current = _Current(claim, run, job, started + job.job.timeout_s)
        self._heartbeat.watch(claim, run)
        if stopping.is_set():
            run.stop("shutdown")
        outcome = execute(job, claim, run, self._tracing)
        # Still the current job: a process that has to end while the database is unavailable requeues it.
        self._current = msgspec.structs.replace(self._current, deadline=float("inf"))
        self._store_until_done(lambda: record_outcome(self._store, job.job, claim, run, outcome))
        self._current = None
        self._heartbeat.unwatch()
        log_outcome(run, outcome, time.monotonic() - started, self._metrics)

    def _leave_to_others(self, claim: Claim) -> None:
        """Queue a job that this worker does not know: while versions change, it may be one of a newer version."""
        reason = f"no loaded plugin has a job {claim.name!r}"
        if claim.attempt < _UNKNOWN_ATTEMPTS_MAX:
            self._store.requeue(claim, reason, wait_s=_UNKNOWN_WAIT_S)
        else:
            self._store.finish(claim, "failed", reason)

    def _store_until_done(self, store: Callable[[], object]) -> None:
        while True:
            try:
                store()
            except (TiercelError, psycopg.Error) as ex:
                self._log.warning("job_end_not_stored", reason=getattr(ex, "detail", None) or str(ex))
                time.sleep(_POLL_S)
            else:
                return

    # --- the main thread --------------------------------------------------------------------------------------------

    def _end_overrun(self) -> None:
        current = self._current
        if current is not None and time.monotonic() >= current.deadline:
            error = f"hard time limit: it ran for more than {current.job.job.timeout_s:g} s"
            current.run.run_log.note("error", "job_killed", reason=error)
            self._exit(1, lambda: self._store.fail_overrun(current.claim, error))

    def _leave(self) -> None:
        self.stop()
        if self.join(self._settings.graceful_timeout_s):
            return
        current = self._current
        if current is None:
            self._exit(0, lambda: None)
        current.run.run_log.note("warning", "job_abandoned")
        self._exit(0, lambda: self._store.requeue(current.claim, "stopped: shutdown", end_session=True))

    def _exit(self, code: int, last_statement: Callable[[], object]) -> NoReturn:
        """End this process at once, whatever its threads do."""
        # In a thread, because a database that does not answer must not keep the process. Should it fail, the job is
        # recovered once the heartbeat of this worker is too old.
        thread = threading.Thread(target=_run_quietly, args=(last_statement,), daemon=True)
        thread.start()
        thread.join(_LAST_STATEMENT_S)
        _run_quietly(lambda: self._store.delete_worker(self._id))
        os._exit(code)


def _run_quietly(function: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        function()


# --- maintenance ----------------------------------------------------------------------------------------------------


class Maintenance:
    """What every worker does besides its jobs: start scheduled jobs, recover stalled ones, remove old records.

    All workers do the same; the database ensures that each is done only once.

    Args:
        store: Jobs in the database.
        settings: When a worker is dead, and how long jobs are kept.
        scheduler: Starts scheduled jobs.
        log: Gets a line about each job.
        dead_worker: A worker that is known to be dead.
        log_files: Where the files of runs are; old ones are deleted.
    """

    def __init__(
        self,
        store: JobStore,
        settings: JobSettings,
        scheduler: Scheduler,
        log: Logger,
        dead_worker: int | None = None,
        log_files: RunLogFiles | None = None,
    ) -> None:
        self._store = store
        self._log_files = log_files
        self._settings = settings
        self._scheduler = scheduler
        self._log = log
        self._dead_worker = dead_worker
        self._recover_at = 0.0
        self._clean_at = 0.0

    def run_due(self) -> None:
        """Do what is due."""
        self._scheduler.tick()
        now = time.monotonic()
        if now >= self._recover_at:
            recover_stalled_jobs(self._store, self._log, self._settings.dead_after_s, self._dead_worker)
            self._dead_worker = None
            self._recover_at = now + min(5.0, self._settings.dead_after_s / 4)
        if now >= self._clean_at:
            deleted = self._store.delete_old(self._settings.keep_days, _CLEAN_BATCH)
            self._clean_at = now + (0 if deleted == _CLEAN_BATCH else _CLEAN_INTERVAL_S)
            self._delete_old_files()

    def _delete_old_files(self) -> None:
        if self._log_files is None:
            return
        try:
            self._log_files.delete_old(self._settings.keep_days)
        except OSError as ex:
            self._log.warning("job_log_files_not_deleted", reason=str(ex))


class Scheduler:
    """Starts scheduled jobs when they are due, only once even if several workers check at the same time.

    Args:
        store: Jobs in the database, and when each schedule was due last.
        registry: Jobs and their effective schedules.
        now: Returns the time, UTC.
        log: Gets a line about each job that is started.
    """

    def __init__(self, store: JobStore, registry: JobRegistry, now: Callable[[], datetime], log: Logger) -> None:
        self._store = store
        self._registry = registry
        self._now = now
        self._log = log
        self._next: dict[str, datetime] = {}

    def tick(self) -> None:
        """Start the jobs that are due. Queries the database only then."""
        now = self._now()
        for name, schedule in self._registry.schedules.items():
            if name not in self._next or self._next[name] <= now:
                self._start(name, schedule, now)
                self._next[name] = schedule.following(now)

    def _start(self, name: str, schedule: Schedule, now: datetime) -> None:
        job = self._registry.get(name)
        parameters = job.decode_parameters({})
        owner = Owner(per_account=job.job.per_account)
        lock = job.lock_name(parameters, owner.account)
        with self._store.enqueueing(name, lock) as connection:
            connection.execute(QUERIES["insert_schedule"], {"name": name, "schedule": schedule.text, "now": now})
            row = connection.execute(QUERIES["lock_schedule"], {"name": name}).fetchone()
            due = schedule.latest(now)
            if row is None or (row[0] == schedule.text and row[1] >= due):
                return
            changed = row[0] != schedule.text
            # A schedule that changed begins with its next due time.
            given = {"name": name, "schedule": schedule.text, "due": now if changed else due}
            connection.execute(QUERIES["advance_schedule"], given)
            if changed or self._store.find_waiting(connection, name, lock, owner) is not None:
                return
            job_id = self._store.insert_waiting(
                connection, name, lock, encode_parameters(parameters), None, owner, is_scheduled=True
            )
        self._log.info("job_scheduled", job=name, job_id=job_id, due=due.isoformat())
