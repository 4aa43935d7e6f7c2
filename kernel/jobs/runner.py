"""Run one attempt at a job: what its function gets, how it is called, and how its outcome is recorded."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from psycopg import Connection

from kernel.contracts import Job
from kernel.errors import ApiError
from kernel.identity import acting_as
from kernel.jobs.models import JobError, Progress, RunStopped, StopReason
from kernel.jobs.owner import identity_of_run
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.run_log import RunLog, RunLogFiles
from kernel.jobs.store import Claim, JobStore, encode_json
from kernel.logging import Logger
from kernel.masking import mask_text
from kernel.metrics import Metrics
from kernel.tracing import Tracing

_PROGRESS_INTERVAL_S = 0.2
# From a tenth of a second to an hour.
_DURATION_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_ERROR_CHARACTERS_MAX = 2000


class Run:
    """One attempt at a job: progress, requests to stop, a log, and a transaction that no other attempt can commit.

    Args:
        claim: The attempt.
        store: Where its progress and log lines go.
        log: The service's log.
        job: Its time limits.
        log_files: Where the file of its log is; None writes none.
    """

    def __init__(
        self, claim: Claim, store: JobStore, log: Logger, job: Job, log_files: RunLogFiles | None = None
    ) -> None:
        self.id = claim.id
        self.name = claim.name
        self.attempt = claim.attempt
        self.request_id = claim.request_id
        self.run_log = RunLog(claim, store, log, log_files)
        self.log: Logger = self.run_log.logger
        self.result: Any = None
        self.committed = False
        self.stopped: StopReason | None = None
        self.latest: Progress | None = None
        self.on_progress: Callable[[Progress], None] | None = None
        self._claim = claim
        self._store = store
        self._stop_reason: StopReason | None = None
        self._transaction_used = False
        self._lock = threading.Lock()
        self._written: Progress | None = None
        self._written_at = 0.0
        self._timeout_s = job.timeout_s
        self._deadline = None if job.soft_timeout_s is None else time.monotonic() + job.soft_timeout_s

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far this run is, and stop it if it should stop. Cheap: call it as often as you like.

        Args:
            done: In whatever unit the job counts.
            total: Where ``done`` will end, if known.
            message: What the job is working on, for people.

        Raises:
            RunStopped: As ``check``.
        """
        self.check()
        self.latest = Progress(done, total, message)
        if time.monotonic() - self._written_at >= _PROGRESS_INTERVAL_S and self.write_progress():
            self.check()
            if self.on_progress is not None:
                self.on_progress(self.latest)

    def write_progress(self) -> bool:
        """Store the latest progress unless it is stored; tell whether there was something to store."""
        with self._lock:
            latest = self.latest
            if latest is None or latest is self._written:
                return False
            self._written_at = time.monotonic()
            if not self._store.write_progress(self._claim, latest):
                self.stop("taken over")
            self._written = latest
            return True

    def check(self) -> None:
        """Stop this run if it should stop.

        Raises:
            RunStopped: It was cancelled, reached its soft time limit, its process ends, or another took it over.
        """
        if self._stop_reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._stop_reason = "soft timeout"
        if self._stop_reason is not None:
            self.stopped = self._stop_reason
            raise RunStopped(self._stop_reason)

    def stop(self, reason: StopReason) -> None:
        """Make the next ``check`` raise. The first reason counts, except that ``taken over`` replaces any other."""
        if self._stop_reason is None or reason == "taken over":
            self._stop_reason = reason

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """Do the work of this run in one transaction. At most once a run.

        It commits only if no other attempt has begun, and records in the same transaction that the work is done: a run
        whose transaction committed is never run again, however its process ends.

        Raises:
            RunStopped: Another process took this run over.
            RuntimeError: It was used before.
        """
        if self._transaction_used:
            raise RuntimeError("a run has one transaction; use fence() for several")
        self._transaction_used = True
        with self._store.transaction(self._timeout_s) as connection:
            self.fence(connection)
            yield connection
            self._store.mark_committed(connection, self._claim, self.result)
        self.committed = True

    def fence(self, connection: Connection[Any]) -> None:
        """Make a transaction of the caller fail unless this attempt is the current one.

        Args:
            connection: Inside a transaction. No other process can take this run over before it ends.

        Raises:
            RunStopped: Another process took this run over.
        """
        if not self._store.fence(connection, self._claim):
            self.stop("taken over")
            self.check()


# --- the call and its outcome -----------------------------------------------------------------------------------------


class RunMetrics:
    """What is measured of runs.

    Args:
        metrics: Of the process.
    """

    def __init__(self, metrics: Metrics) -> None:
        # Not ``job``, which Prometheus has for what it scrapes.
        self._runs = metrics.counter(
            "tiercel_job_runs_total",
            "Attempts at jobs that have ended: succeeded, failed, or why they were stopped.",
            ("name", "outcome"),
        )
        self._durations = metrics.histogram(
            "tiercel_job_duration_seconds", "How long attempts at jobs took.", ("name",), _DURATION_BUCKETS_S
        )

    def count(self, run: Run, outcome: Outcome, took_s: float) -> None:
        """Count an attempt that has ended."""
        failure = "failed" if outcome.stopped is None else outcome.stopped.replace(" ", "_")
        self._runs.inc(run.name, "succeeded" if outcome.error is None else failure)
        self._durations.observe(took_s, run.name)


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended.

    Args:
        result: What the function returned.
        error: Why it failed; None if it did not.
        stopped: Why it stopped early.
        is_final: Whether another attempt would fail as well.
    """

    result: Any = None
    error: str | None = None
    stopped: StopReason | None = None
    is_final: bool = False


def execute(job: RegisteredJob, claim: Claim, run: Run, tracing: Tracing | None = None) -> Outcome:
    """Call the job's function, as the account that it runs for, in a span if there is tracing. Never raises."""
    if tracing is None:
        return _execute(job, claim, run)
    with tracing.job(claim.name, claim.id, claim.attempt, claim.traceparent) as tracker:
        outcome = _execute(job, claim, run)
        if tracker is not None and outcome.error is not None:
            tracker.fail(outcome.stopped or "error", outcome.error)
    return outcome


def _execute(job: RegisteredJob, claim: Claim, run: Run) -> Outcome:
    try:
        identity = identity_of_run(job.job, claim.account, claim.sites, claim.started_by)
        with acting_as(identity):
            result = job.call(run, job.decode_parameters(claim.parameters))
        result = run.result if result is None else result
        encode_json(result)
    except RunStopped as ex:
        return Outcome(error=f"stopped: {ex.reason}", stopped=ex.reason)
    except Exception as ex:
        if run.stopped is not None:
            # The function converted RunStopped to another exception.
            return Outcome(error=f"stopped: {run.stopped}", stopped=run.stopped)
        if isinstance(ex, JobError):
            return _failed(run, ex)
        run.log.exception("job_failed")
        return Outcome(error=_describe(ex))
    return Outcome(result=result)


def record_outcome(
    store: JobStore, job: Job, claim: Claim, run: Run, outcome: Outcome, *, may_retry: bool = True
) -> None:
    """Record how an attempt ended: the job is finished, or queued for its next attempt.

    Args:
        store: Where it is recorded.
        job: How often and when it is retried.
        claim: The attempt.
        run: Has the latest progress, and whether its transaction is committed.
        outcome: How it ended.
        may_retry: False if no worker would run it again.

    Raises:
        UnavailableError: The database is unavailable.
    """
    if run.latest is not None:
        store.write_progress(claim, run.latest)
    if outcome.stopped == "taken over":
        return
    if outcome.error is None or (run.committed and outcome.stopped is not None):
        store.finish(claim, "succeeded", result=outcome.result)
    elif outcome.stopped == "cancelled":
        store.finish(claim, "cancelled", outcome.error)
    elif run.committed or not may_retry:
        store.finish(claim, "cancelled" if outcome.stopped == "shutdown" else "failed", outcome.error)
    elif outcome.stopped == "shutdown":
        store.requeue(claim, outcome.error)
    elif claim.failures < job.retries and not outcome.is_final:
        store.requeue(claim, outcome.error, wait_s=job.retry_wait_s * 2**claim.failures, failures=1)
    else:
        store.finish(claim, "failed", outcome.error)


def log_outcome(run: Run, outcome: Outcome, took_s: float, metrics: RunMetrics | None) -> None:
    """Log one line about an attempt that ended, close its log, and count it."""
    if metrics is not None:
        metrics.count(run, outcome, took_s)
    given: dict[str, Any] = {"attempt": run.attempt, "took_s": round(took_s, 3)}
    if outcome.error is None:
        run.run_log.note("info", "job_done", **given)
    else:
        run.run_log.note("warning", "job_not_done", reason=outcome.error, **given)
    run.run_log.close()


def _failed(run: Run, error: JobError) -> Outcome:
    # Its reason says everything; a traceback would add nothing.
    reason = mask_text(str(error))
    run.log.error("job_failed", reason=reason)
    return Outcome(error=reason[:_ERROR_CHARACTERS_MAX], is_final=not error.retry)


def _describe(error: Exception) -> str:
    detail = error.detail if isinstance(error, ApiError) else None
    text = mask_text("".join(traceback.format_exception_only(error)).strip())
    return (f"{text} ({detail})" if detail else text)[:_ERROR_CHARACTERS_MAX]
