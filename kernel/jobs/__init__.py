"""Durable jobs and their schedules: a queue in PostgreSQL, worker processes, and what is kept of every run.

The queue is procrastinate's: its tables and functions, migrated by us into a schema of their own. Its worker is not
used: there, the end of a job and the record of it would be two transactions, and a database that is away would end it.
"""

from kernel.jobs.follow import Follower, JobEvent
from kernel.jobs.model import JobError, JobFigures, JobLogLine, JobRecord, JobState, Progress, RunStopped
from kernel.jobs.overview import JobSummary, summarize_jobs
from kernel.jobs.run import Run
from kernel.jobs.service import Jobs

__all__ = [
    "Follower",
    "JobError",
    "JobEvent",
    "JobFigures",
    "JobLogLine",
    "JobRecord",
    "JobState",
    "JobSummary",
    "Jobs",
    "Progress",
    "Run",
    "RunStopped",
    "summarize_jobs",
]
