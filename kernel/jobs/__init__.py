"""Durable jobs and their schedules: a queue in PostgreSQL, worker processes, and a record of every run."""

from kernel.jobs.events import JobEvent, JobFollower
from kernel.jobs.models import (
    JobError,
    JobFigures,
    JobLogLine,
    JobOrdering,
    JobRecord,
    JobState,
    JobSummary,
    RunStopped,
)
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.runner import Run

__all__ = [
    "JobError",
    "JobEvent",
    "JobFigures",
    "JobFollower",
    "JobLogLine",
    "JobOrdering",
    "JobRecord",
    "JobState",
    "JobSummary",
    "RegisteredJob",
    "Run",
    "RunStopped",
]
