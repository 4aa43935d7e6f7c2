"""Durable jobs and their schedules: a queue in PostgreSQL, worker processes, and a record of every run."""

from kernel.jobs.events import JobEvent, JobFollower
from kernel.jobs.models import (
    JobError,
    JobFigures,
    JobLogLine,
    JobRecord,
    JobState,
    JobSummary,
    Progress,
    RunStopped,
)
from kernel.jobs.runner import Run
from kernel.jobs.service import Jobs

__all__ = [
    "JobError",
    "JobEvent",
    "JobFigures",
    "JobFollower",
    "JobLogLine",
    "JobRecord",
    "JobState",
    "JobSummary",
    "Jobs",
    "Progress",
    "Run",
    "RunStopped",
]
