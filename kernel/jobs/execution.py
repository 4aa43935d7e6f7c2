"""Run one attempt at a job in this thread, and store how it ended."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.errors import ApiError
from kernel.jobs.catalogue import decode_parameters
from kernel.jobs.encoding import encode_json
from kernel.jobs.model import JobError, RunStopped, StopReason
from kernel.jobs.run import Run
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger

_ERROR_CHARACTERS_MAX = 2000


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended.

    Args:
        result: What it returned.
        error: Why it failed; None if it did not.
        stopped: Why it stopped before its end.
        is_final: Whether another attempt would fail as well.
    """

    result: Any = None
    error: str | None = None
    stopped: StopReason | None = None
    is_final: bool = False


def perform(job: Job, claim: Claim, run: Run) -> Outcome:
    """Call the job's function. Never raises."""
    try:
        parameters = decode_parameters(job, claim.parameters)
        result = job.run(run) if parameters is None else job.run(run, parameters)
        result = run.result if result is None else result
        encode_json(result)
    except RunStopped as ex:
        return Outcome(error=f"stopped: {ex.reason}", stopped=ex.reason)
    except Exception as ex:
        if run.stopped is not None:
            # The job turned the wish to stop into an error of its own.
            return Outcome(error=f"stopped: {run.stopped}", stopped=run.stopped)
        if isinstance(ex, JobError):
            return _failed(run, ex)
        run.log.exception("job_failed")
        return Outcome(error=_describe(ex))
    return Outcome(result=result)


def settle(store: JobStore, job: Job, claim: Claim, run: Run, outcome: Outcome, *, may_retry: bool = True) -> None:
    """Store how an attempt ended: finished, or to be tried again.

    Args:
        store: Keeps it.
        job: Knows how often and when to retry.
        claim: The attempt.
        run: Knows whether the effect is in the database already.
        outcome: How it ended.
        may_retry: False where nobody would take it on again.

    Raises:
        UnavailableError: The database is away.
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
        store.give_back(claim, outcome.error)
    elif claim.failures < job.retries and not outcome.is_final:
        store.give_back(claim, outcome.error, wait_s=job.retry_wait_s * 2**claim.failures, failures=1)
    else:
        store.finish(claim, "failed", outcome.error)


def log_end(log: Logger, claim: Claim, outcome: Outcome, took_s: float) -> None:
    """Write one line about an attempt."""
    given = {"job": claim.name, "job_id": claim.id, "attempt": claim.attempt, "took_s": round(took_s, 3)}
    if outcome.error is None:
        log.info("job_done", **given)
    else:
        log.warning("job_not_done", reason=outcome.error, **given)


def _failed(run: Run, error: JobError) -> Outcome:
    # It says all there is to say; a traceback would add nothing.
    run.log.error("job_failed", reason=str(error))
    return Outcome(error=str(error)[:_ERROR_CHARACTERS_MAX], is_final=not error.retry)


def _describe(error: Exception) -> str:
    detail = error.detail if isinstance(error, ApiError) else None
    text = "".join(traceback.format_exception_only(error)).strip()
    return (f"{text} ({detail})" if detail else text)[:_ERROR_CHARACTERS_MAX]
