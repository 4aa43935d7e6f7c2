"""Records of jobs, their progress and log lines, and the errors with which a run ends early."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec

from kernel.errors import TiercelError

JobState = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
StopReason = Literal["cancelled", "soft timeout", "shutdown", "taken over"]


class Progress(msgspec.Struct, frozen=True):
    """How far a run is.

    Args:
        done: In whatever unit the job counts.
        total: Where ``done`` will end, if the job knows.
        message: What the job is working on, for people.
    """

    done: float
    total: float | None = None
    message: str | None = None


JobOrdering = Literal[
    "id",
    "-id",
    "name",
    "-name",
    "state",
    "-state",
    "created_at",
    "-created_at",
    "started_at",
    "-started_at",
    "finished_at",
    "-finished_at",
]
LATEST_FIRST: JobOrdering = "-id"


class JobSelection(TypedDict, total=False):
    """Which jobs are read, in which order: keyword arguments of ``Jobs.list`` and its siblings, all of them optional.

    Searches, and orders other than by id, are of the 10,000 latest jobs that match the other conditions.

    Attributes:
        name: Only this job.
        state: Only those in this state.
        lock: Only those of this lock.
        search: Only those with this text in name, lock, request id, error or parameters, ignoring case. Errors and
            parameters of more than 2 KiB, compressed, are not searched.
        ordering: By which field, the latest first by default; jobs that are equal in it are ordered by id, in the same
            direction.
        beyond: Value of that field and id of a job: only those after it, the next page.
        backwards: Only those before it, the nearest: the previous page.
        with_routine: Also those that a schedule started and that succeeded; true by default.
        account: Only those that run for this account, out of those that the identity sees.
        start: Only those that were started at this time or later.
        end: Only those that were started at this time or earlier.
    """

    name: str | None
    state: JobState | None
    lock: str | None
    search: str | None
    ordering: JobOrdering
    beyond: tuple[Any, int] | None
    backwards: bool
    with_routine: bool
    account: int | None
    start: datetime | None
    end: datetime | None


class JobRecord(msgspec.Struct, frozen=True):
    """One job that was started, and its outcome so far.

    Args:
        id: Later jobs have higher ids.
        name: Which job.
        state: ``waiting`` also while it waits for its next attempt.
        parameters: As given.
        lock: Jobs with one lock never run at the same time.
        request_id: The request that started it, if one did.
        attempt: How often it began to run.
        progress: Of the latest attempt.
        result: What its function returned.
        error: Why the latest attempt failed or stopped.
        created_at: When it was started.
        due_at: It does not run before this time.
        started_at: When the latest attempt began.
        finished_at: When it succeeded, failed or was cancelled.
        account: The account that it runs for; 0, the system account, for jobs of the service itself.
        sites: The sites of the account that it is limited to; None for all.
        started_by: Name of the identity that started it; None for a schedule, a command, or the service itself.
        is_scheduled: Whether a schedule started it.
        is_cancelling: Whether it runs, and was asked to stop.
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
    account: int
    sites: Sequence[int] | None
    started_by: str | None
    is_scheduled: bool = False
    is_cancelling: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether it has succeeded, failed or was cancelled."""
        return self.state not in {"waiting", "running"}


class JobLogLine(msgspec.Struct, frozen=True):
    """A line that a run logged.

    Args:
        id: Later lines have higher ids.
        attempt: Which attempt logged it.
        at: When.
        level: ``info``, ``warning``, ``error`` or ``critical``.
        event: Name of the event.
        fields: Its fields.
    """

    id: int
    attempt: int
    at: datetime
    level: str
    event: str
    fields: dict[str, Any]


class JobFigures(msgspec.Struct, frozen=True):
    """How many jobs there are, and how far behind the workers are.

    Args:
        waiting_count: Jobs that wait for a worker or for their next attempt.
        running_count: Jobs that run.
        failed_last_day_count: Jobs that failed within the last 24 hours.
        oldest_waiting_s: For how many seconds the job that is due for longest has been waiting; 0 if none is due.
        failing: Names of the service's own jobs whose last run failed.
    """

    waiting_count: int
    running_count: int
    failed_last_day_count: int
    oldest_waiting_s: float
    failing: tuple[str, ...]


class JobSummary(msgspec.Struct, frozen=True):
    """A job that can be started.

    Args:
        name: What starts it.
        plugin: Who registered it.
        parameters: JSON Schema of its parameters; None if it has none.
        lock: Jobs with one lock never run at the same time; may name parameters in braces.
        schedule: The effective one, from the configuration or the plugin; None if it is not scheduled.
        next_due: When the schedule starts it next.
        is_late: Whether the schedule should have started it more than a minute ago, and it is not queued.
        soft_timeout_s: After this a run is asked to stop.
        timeout_s: After this it is killed.
        retries: How often a run that failed is tried again.
        per_account: Whether it runs for the account that starts it; if not, only staff may start it.
        last_run: The latest that was started, whatever its state.
    """

    name: str
    plugin: str
    parameters: dict[str, Any] | None
    lock: str
    schedule: str | None
    next_due: datetime | None
    soft_timeout_s: float | None
    timeout_s: float
    retries: int
    per_account: bool
    last_run: JobRecord | None
    is_late: bool = False


class JobError(TiercelError):
    """A job cannot be done, for a reason that needs no traceback. Raised by the functions of jobs.

    Args:
        reason: For people; becomes the job's error.
        retry: Whether another attempt may succeed. If not, the job fails at once, whatever its ``retries``.
    """

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


class RunStopped(TiercelError):  # noqa: N818 - an event, not an error of the job
    """A run must stop. Clean up and let the exception pass.

    Args:
        reason: Why.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason
