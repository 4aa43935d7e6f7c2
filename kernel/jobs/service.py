"""Start jobs, watch them, cancel them: what plugins and commands use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Unpack

import msgspec

from kernel.db.pool import Database
from kernel.errors import ConflictError, ForbiddenError, NotFoundError, UnavailableError
from kernel.identity import acting_as, current_identity
from kernel.jobs.inline import run_inline
from kernel.jobs.models import JobFigures, JobLogLine, JobRecord, JobSelection, JobSummary
from kernel.jobs.owner import current_owner
from kernel.jobs.queue import enqueue
from kernel.jobs.registry import JobRegistry, Parameters, RegisteredJob
from kernel.jobs.run_log import RunLogFiles
from kernel.jobs.runner import RunMetrics
from kernel.jobs.store import JobHealth, JobMeasures, JobStore
from kernel.logging import Logger
from kernel.settings import JobSettings
from kernel.tracing import Tracing

# Polling interval of ``wait``.
_POLL_S = 0.1
_LOG_LINES_MAX = 1000
# Parameters, results and errors of a page together. As objects of Python, they may take 25 times as much.
_PAGE_MAX_BYTES = 4 * 1024 * 1024
_PAGE_JOBS = 500


class Jobs:
    """The jobs of this service.

    Args:
        db: Holds them.
        settings: Time limits and schedules.
        log: The service's log, for runs in this process.
        log_files: Where the files of runs are; None writes none.
        tracing: Makes a span of each run; None for no spans.
        metrics: Counts runs.

    Attributes:
        store: The jobs in the database.
        registry: The jobs that plugins registered.
        log_files: As given.
        tracing: As given.
        metrics: As given.
    """

    def __init__(
        self,
        db: Database,
        settings: JobSettings,
        log: Logger,
        log_files: RunLogFiles | None = None,
        tracing: Tracing | None = None,
        metrics: RunMetrics | None = None,
    ) -> None:
        self.log_files = log_files
        self.tracing = tracing
        self.metrics = metrics
        self.store = JobStore(db)
        self.registry = JobRegistry(settings.schedules)
        self._settings = settings
        self._log = log
        self._worker_expected_until = 0.0

    def expect_worker(self) -> None:
        """Say in readiness that a worker starts, rather than that none runs, until it would count as dead."""
        self._worker_expected_until = time.monotonic() + self._settings.dead_after_s

    def start(
        self, name: str, parameters: Parameters = None, *, request_id: str | None = None, delay_s: float = 0.0
    ) -> JobRecord:
        """Queue a job; a worker runs it as soon as it is due and its lock is free.

        A job ``per_account`` belongs to the account of the current identity, and runs as that identity.

        A job that waits already is not queued twice: it is returned, and brought forward if this start is due earlier.
        A job that is running does not keep the next from waiting.

        Args:
            name: Which job.
            parameters: Its Struct, or the values for it.
            request_id: The request that starts it; its log lines carry it.
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
        """Start a job like ``start``; also return whether it is new, rather than one that waited already."""
        job = self.registry.get(name)
        decoded = job.decode_parameters(parameters)
        owner = current_owner(job.job)
        # A job of the service itself is none of the account whose request starts it.
        with acting_as(current_identity() if job.job.per_account else None):
            job_id, is_new = enqueue(self.store, job, decoded, owner, request_id=request_id, delay_s=delay_s)
            return self.get(job_id), is_new

    def run_inline(
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
            on_progress: Called with its record when it reports progress.
            request_id: The request that starts it.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: Some parameters are wrong.
            ConflictError: A job with the same lock is running; names it.
        """
        job = self.registry.get(name)
        decoded = job.decode_parameters(parameters)
        notify = None if on_progress is None else lambda job_id: on_progress(self.get(job_id))
        owner = current_owner(job.job)
        with acting_as(None):
            job_id = run_inline(
                self.store,
                job,
                decoded,
                owner,
                self._settings,
                self._log,
                request_id=request_id,
                on_progress=notify,
                log_files=self.log_files,
                tracing=self.tracing,
                metrics=self.metrics,
            )
            return self.get(job_id)

    def measures(self, timeout_s: float) -> JobMeasures:
        """Return what is measured of all jobs.

        Args:
            timeout_s: Of each statement.

        Raises:
            UnavailableError: The database is unavailable.
        """
        return self.store.read_measures(self._settings.dead_after_s, timeout_s)

    def ensure_may_control(self, name: str) -> None:
        """Ensure that the current identity may start and cancel a job: the service's own jobs are for staff.

        Raises:
            ForbiddenError: It may not.
        """
        if not self.may_control(name):
            raise ForbiddenError(detail=f"{name} is a job of the service itself, which only staff may start and cancel")

    def may_control(self, name: str) -> bool:
        """Tell whether the current identity may start and cancel a job, if it may write at all."""
        identity = current_identity()
        return identity is None or identity.is_staff or name not in self.registry.service_names

    def get(self, job_id: int) -> JobRecord:
        """Return a job. A request finds those of its account only, as in all of these methods.

        Raises:
            NotFoundError: There is none of that id, or it was removed.
        """
        found = self.store.find(job_id)
        if not found:
            raise NotFoundError(detail=f"there is no job {job_id}")
        return found[0]

    def list(self, *, limit: int = 50, **selection: Unpack[JobSelection]) -> Sequence[JobRecord]:
        """Return jobs, whole: ``iterate`` holds fewer of them in memory at a time.

        Args:
            limit: How many.
            selection: Which, and in which order; see ``JobSelection``.
        """
        return self.store.find(limit=limit, **selection)

    def page(self, page_size: int, **selection: Unpack[JobSelection]) -> tuple[Sequence[JobRecord], int]:
        """Return the jobs of a page and, if there is one, the next beyond it; and how many the page has.

        That is fewer than its size if their parameters, results and errors together would be longer than 4 MiB.

        Args:
            page_size: The most jobs of the page.
            selection: Which, and in which order; see ``JobSelection``.
        """
        return self.store.find_page(page_size, _PAGE_MAX_BYTES, **selection)

    def iterate(self, limit: int, **selection: Unpack[JobSelection]) -> Iterator[JobRecord]:
        """Iterate over jobs, latest first, a page in memory at a time.

        Args:
            limit: How many.
            selection: Which; see ``JobSelection``.
        """
        while limit:
            records, size = self.page(min(limit, _PAGE_JOBS), **selection)
            yield from records[:size]
            if len(records) <= size:
                return
            limit -= size
            selection["beyond"] = (records[size - 1].id, records[size - 1].id)

    def cancel(self, job_id: int) -> JobRecord:
        """Cancel a job that waits; ask one that runs to stop.

        Returns:
            The job: cancelled if it was waiting, else running, however soon its run stops.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It is finished.
        """
        record = self.store.cancel(job_id)
        if record is None:
            state = self.get(job_id).state
            ended = "was cancelled before" if state == "cancelled" else f"has {state}"
            raise ConflictError(f"The job {job_id} cannot be cancelled: it {ended}.")
        return record

    def log_lines(
        self, job_id: int, after: int = 0, *, limit: int = _LOG_LINES_MAX, latest: bool = False
    ) -> Sequence[JobLogLine]:
        """Return the lines a job logged, earliest first.

        Args:
            job_id: Which job.
            after: Only lines with a higher id: the next page.
            limit: How many, a thousand at most.
            latest: The last of them, if there are more; by default the first.
        """
        return self.store.list_log_lines(job_id, after, min(limit, _LOG_LINES_MAX), latest=latest)

    def upcoming(self, name: str, now: datetime, count: int) -> Sequence[datetime]:
        """Return when the schedule of a job starts it next; nothing if it has none.

        Args:
            name: The job.
            now: UTC.
            count: How many times.
        """
        schedule = self.registry.schedules.get(name)
        times: list[datetime] = []
        while schedule is not None and len(times) < count:
            times.append(schedule.following(times[-1] if times else now))
        return times

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

    def summaries(self, now: datetime) -> Sequence[JobSummary]:
        """Return every job that can be started, by name: parameters, schedule in force, next due time, last run.

        The service's own jobs are for staff.

        Args:
            now: For the next due times, UTC.
        """
        identity = current_identity()
        is_staff = identity is None or identity.is_staff
        recorded = self.store.list_schedules() if self.registry.schedules else {}
        return [
            self._summarize(job, now, recorded.get(job.name))
            for job in self.registry.all()
            if is_staff or job.job.per_account
        ]

    def figures(self) -> JobFigures:
        """Count jobs of all accounts, and find which of the service's own fail."""
        with acting_as(None):
            return self.store.read_figures(self.registry.service_names)

    def check_health(self) -> str:
        """Report whether a worker runs and the last run of each of the service's own jobs succeeded, for readiness.

        Jobs that run for accounts do not count: that one of them fails is its account's business. A job that was never
        run is healthy; one that is to be retried is as healthy as its last run that ended.

        Raises:
            UnavailableError: No worker runs, although jobs wait or are scheduled; or the last run of a job failed.
        """
        health = self._read_health(self.registry.service_names)
        problem = self._worker_problem(health)
        is_expected = problem is not None and time.monotonic() < self._worker_expected_until
        problems = [] if problem is None or is_expected else [problem]
        # Not why: errors may hold what the public must not see, and probes are public.
        problems += [f"the last run of {name} failed: tiercel jobs log {id_}" for name, id_ in health.failing.items()]
        if problems:
            raise UnavailableError("; ".join(problems))
        if is_expected:
            return "a worker starts"
        return "a worker runs" if health.has_worker else "no worker runs, and nothing waits for one"

    def check_worker(self) -> None:
        """Check that jobs are run.

        Raises:
            UnavailableError: No worker runs, although jobs wait or are scheduled.
        """
        if (problem := self._worker_problem(self._read_health(()))) is not None:
            raise UnavailableError(problem)

    def _read_health(self, names: Sequence[str]) -> JobHealth:
        with acting_as(None):
            return self.store.read_health(self._settings.dead_after_s, names)

    def _worker_problem(self, health: JobHealth) -> str | None:
        if health.has_worker or not (health.has_waiting or self.registry.schedules):
            return None
        why = "jobs wait" if health.has_waiting else "jobs are scheduled"
        return f"{why}, but no worker runs; start one: tiercel worker"

    def _summarize(self, registered: RegisteredJob, now: datetime, recorded: tuple[str, datetime] | None) -> JobSummary:
        job, parameters = registered.job, registered.parameters
        schedule = self.registry.schedules.get(job.name)
        with acting_as(current_identity() if job.per_account else None):
            last = self.list(name=job.name, limit=1)
        return JobSummary(
            name=job.name,
            plugin=registered.plugin,
            parameters=None if parameters is None else msgspec.json.schema(parameters),
            lock=job.lock or job.name,
            schedule=None if schedule is None else schedule.text,
            next_due=None if schedule is None else schedule.following(now),
            soft_timeout_s=job.soft_timeout_s,
            timeout_s=job.timeout_s,
            retries=job.retries,
            per_account=job.per_account,
            last_run=last[0] if last else None,
            is_late=self.registry.is_late(job.name, recorded, now),
        )
