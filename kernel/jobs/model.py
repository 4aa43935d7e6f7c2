"""What is known of jobs: records, their log lines, and why a run had to stop."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from kernel.errors import TiercelError

JobState = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
StopReason = Literal["cancelled", "soft timeout", "shutdown", "taken over"]
STATES: tuple[JobState, ...] = get_args(JobState)


class Progress(msgspec.Struct, frozen=True):
    """How far a run is.

    Args:
        done: In whatever unit the job counts.
        total: Where ``done`` will end, if the job knows.
        message: What it is at, for people.
    """

    done: float
    total: float | None = None
    message: str | None = None


class JobRecord(msgspec.Struct, frozen=True):
    """One job that was started: what it should do, and what became of it.

    Args:
        id: Its number; later ones have higher ones.
        name: Which job.
        state: ``waiting`` also while it waits for its next attempt.
        parameters: As given.
        lock: Jobs with one lock never run at the same time.
        request_id: The request that started it, if one did.
        attempt: How often it began to run.
        progress: Of the latest attempt.
        result: What it returned.
        error: Why the latest attempt failed or stopped.
        created_at: When it was started.
        due_at: It does not run before.
        started_at: When the latest attempt began.
        finished_at: When it succeeded, failed or was cancelled.
    """

    id: int
    name: str
    state: JobState
    parameters: dict[str, Any]
    lock: str
    request_id: str | None
    attempt: int
    progress: Progress | None
    result: Any
    error: str | None
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state not in {"waiting", "running"}


class JobLogLine(msgspec.Struct, frozen=True):
    """A line that a run logged.

    Args:
        id: Later lines have higher ones.
        attempt: Which attempt logged it.
        at: When.
        level: ``info``, ``warning``, ``error`` or ``critical``.
        event: What happened.
        fields: Everything else about it.
    """

    id: int
    attempt: int
    at: datetime
    level: str
    event: str
    fields: dict[str, Any]


class JobFigures(msgspec.Struct, frozen=True):
    """How many jobs there are, and whether they are served.

    Args:
        waiting_count: Those that wait, for a worker or for their next attempt.
        running_count: Those that run.
        failed_last_day_count: Those that failed within the last 24 hours.
        oldest_waiting_s: For how long the oldest that is due has been waiting; 0 if none is.
    """

    waiting_count: int
    running_count: int
    failed_last_day_count: int
    oldest_waiting_s: float


class JobError(TiercelError):
    """A job cannot do what it should, and says why in its own words.

    Args:
        reason: For people; the error of the job.
        retry: Whether it may work another time. If not, the job fails at once, whatever its ``retries``.
    """

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


class RunStopped(TiercelError):  # noqa: N818 - what happened, not an error of the job
    """A run must not go on. Clean up and let it pass.

    Args:
        reason: Why.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason
