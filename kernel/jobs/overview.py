"""The jobs that there are, each with its parameters, when it is due and how it went last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.jobs.model import JobRecord
from kernel.jobs.service import Jobs


class JobSummary(msgspec.Struct, frozen=True):
    """A job that can be started.

    Args:
        name: What starts it.
        plugin: Who registered it.
        parameters: JSON Schema of its parameters; None if it has none.
        lock: Jobs with one lock never run at the same time; may name parameters in braces.
        schedule: The one in force, from the configuration or its own; None if it is not scheduled.
        next_due: When that starts it next.
        soft_timeout_s: After this a run is asked to stop.
        timeout_s: After this it is killed.
        retries: How often a run that failed is tried again.
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
    last_run: JobRecord | None


def summarize_jobs(jobs: Jobs, now: datetime) -> Sequence[JobSummary]:
    """Return every job that can be started, by name.

    Args:
        jobs: Has them.
        now: For when they are due.
    """
    return [_summarize(jobs, job, now) for job in jobs.known]


def _summarize(jobs: Jobs, job: Job, now: datetime) -> JobSummary:
    schedule = jobs.catalogue.schedules.get(job.name)
    last = jobs.list(name=job.name, limit=1)
    return JobSummary(
        name=job.name,
        plugin=jobs.catalogue.owner(job.name),
        parameters=None if job.parameters is None else msgspec.json.schema(job.parameters),
        lock=job.lock or job.name,
        schedule=None if schedule is None else schedule.text,
        next_due=None if schedule is None else schedule.following(now),
        soft_timeout_s=job.soft_timeout_s,
        timeout_s=job.timeout_s,
        retries=job.retries,
        last_run=last[0] if last else None,
    )
