"""Start jobs, watch them, cancel them: what plugins and commands use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.db.pool import Database
from kernel.errors import ConflictError, NotFoundError, UnavailableError
from kernel.jobs.catalogue import Catalogue, decode_parameters
from kernel.jobs.here import run_in_this_process
from kernel.jobs.model import JobFigures, JobLogLine, JobRecord, JobState
from kernel.jobs.queueing import queue_job
from kernel.jobs.store import JobStore
from kernel.logging import Logger
from kernel.settings import JobSettings

# Whoever waits for a job asks so often: soon enough for people, cheap enough for the database.
_POLL_S = 0.1
_LINES_MAX = 1000

Parameters = msgspec.Struct | Mapping[str, Any] | None


class Jobs:
    """The jobs of this service.

    Args:
        db: Holds them.
        settings: How long things may take.
        log: Of runs in this process.
    """

    def __init__(self, db: Database, settings: JobSettings, log: Logger) -> None:
        self.store = JobStore(db)
        self.catalogue = Catalogue(settings.schedules)
        self._settings = settings
        self._log = log

    @property
    def known(self) -> tuple[Job, ...]:
        """The jobs that can be started, by name."""
        return self.catalogue.all()

    def start(
        self, name: str, parameters: Parameters = None, *, request_id: str | None = None, delay_s: float = 0.0
    ) -> JobRecord:
        """Queue a job; a worker runs it as soon as it is due and its lock is free.

        One that waits already is not queued twice: it comes back, and no longer waits for a later time than this. One
        that is running does not keep the next from waiting.

        Args:
            name: Which job.
            parameters: Its Struct, or the values for it.
            request_id: The request that wants it; its log lines carry it.
            delay_s: Seconds until it is due, in which further starts make no further job.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: Some parameters are wrong.
            ConflictError: One of the same lock waits, with other parameters.
        """
        return self.start_once(name, parameters, request_id=request_id, delay_s=delay_s)[0]

    def start_once(
        self, name: str, parameters: Parameters = None, *, request_id: str | None = None, delay_s: float = 0.0
    ) -> tuple[JobRecord, bool]:
        """As ``start``; tell as well whether the job is new, and not one that waited already."""
        job = self.catalogue.find(name)
        decoded = decode_parameters(job, parameters)
        job_id, is_new = queue_job(self.store, job, decoded, request_id, delay_s)
        return self.get(job_id), is_new

    def get(self, job_id: int) -> JobRecord:
        """Return a job.

        Raises:
            NotFoundError: There is none of that number, or it was removed.
        """
        found = self.store.find(job_id=job_id)
        if not found:
            raise NotFoundError(detail=f"there is no job {job_id}")
        return found[0]

    def list(
        self,
        *,
        name: str | None = None,
        state: JobState | None = None,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
    ) -> Sequence[JobRecord]:
        """Return jobs, latest first.

        Args:
            name: Only this job.
            state: Only those in this state.
            limit: How many.
            before: Only those with a lower number: the next page.
            after: Only those with a higher number, the nearest: the previous page.
        """
        return self.store.find(name=name, state=state, before=before, after=after, limit=limit)

    def cancel(self, job_id: int) -> JobRecord:
        """Cancel a job that waits; ask one that runs to stop.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It is finished.
        """
        if not self.store.cancel(job_id):
            record = self.get(job_id)
            raise ConflictError(f"The job {job_id} cannot be cancelled: it has {record.state}.")
        return self.get(job_id)

    def log_lines(self, job_id: int, after: int = 0) -> Sequence[JobLogLine]:
        """Return the lines a job logged, earliest first, a thousand at most.

        Args:
            job_id: Which job.
            after: Only lines with a higher number: the next page.
        """
        return self.store.list_lines(job_id, after, _LINES_MAX)

    def wait(self, job_id: int, timeout_s: float) -> JobRecord:
        """Wait until a job is finished.

        Args:
            job_id: Which job.
            timeout_s: How long.

        Raises:
            UnavailableError: It was not finished in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (record := self.get(job_id)).is_finished:
            if time.monotonic() >= deadline:
                raise UnavailableError(f"job {job_id} is still {record.state} after {timeout_s:g} s")
            time.sleep(_POLL_S)
        return record

    def run_here(
        self,
        name: str,
        parameters: Parameters = None,
        *,
        on_progress: Callable[[JobRecord], None] | None = None,
        request_id: str | None = None,
    ) -> JobRecord:
        """Run a job in this process, without a worker; return it finished. It is not retried.

        Args:
            name: Which job.
            parameters: Its Struct, or the values for it.
            on_progress: Called when it says how far it is.
            request_id: The request that wants it.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: Some parameters are wrong.
            ConflictError: A job with the same lock is running; names it.
        """
        job = self.catalogue.find(name)
        decoded = decode_parameters(job, parameters)
        notify = None if on_progress is None else lambda job_id: on_progress(self.get(job_id))
        return self.get(run_in_this_process(self.store, job, decoded, request_id, self._settings, self._log, notify))

    def figures(self) -> JobFigures:
        """Count jobs."""
        return self.store.read_figures()

    def check_health(self) -> str:
        """Say how the workers are.

        Raises:
            UnavailableError: No worker lives, although jobs wait or are scheduled.
        """
        alive, waiting = self.store.read_health(self._settings.dead_after_s)
        if not alive and (waiting or self.catalogue.schedules):
            why = "jobs wait" if waiting else "jobs are scheduled"
            raise UnavailableError(f"{why}, but no worker runs; start one: tiercel worker")
        return "a worker runs" if alive else "no worker runs, and nothing waits for one"
