"""What a job's function gets: progress, the wish to stop, a log, and a transaction that only one attempt can commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection

from kernel.contracts import Job
from kernel.jobs.joblog import make_run_logger
from kernel.jobs.model import Progress, RunStopped, StopReason
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger

_PROGRESS_INTERVAL_S = 0.2


class Run:
    """One attempt at a job.

    Args:
        claim: What this process took on.
        store: Where its progress and lines go.
        log: The service's log.
        job: Its time limits.
    """

    def __init__(self, claim: Claim, store: JobStore, log: Logger, job: Job) -> None:
        self.id = claim.id
        self.name = claim.name
        self.attempt = claim.attempt
        self.request_id = claim.request_id
        self.log: Logger = make_run_logger(claim, store, log)
        self.result: Any = None
        self.committed = False
        self.stopped: StopReason | None = None
        self.latest: Progress | None = None
        self.on_progress: Callable[[Progress], None] | None = None
        self._claim = claim
        self._store = store
        self._stop: StopReason | None = None
        self._used = False
        self._lock = threading.Lock()
        self._written: Progress | None = None
        self._written_at = 0.0
        self._timeout_s = job.timeout_s
        self._deadline = None if job.soft_timeout_s is None else time.monotonic() + job.soft_timeout_s

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far this run is, and stop here if it has to. Call it as often as you like.

        Args:
            done: In whatever unit the job counts.
            total: Where ``done`` will end, if known.
            message: What the job is at, for people.

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
        """Stop here if this run has to.

        Raises:
            RunStopped: It was cancelled, reached its soft time limit, its process ends, or another took it over.
        """
        if self._stop is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._stop = "soft timeout"
        if self._stop is not None:
            self.stopped = self._stop
            raise RunStopped(self._stop)

    def stop(self, reason: StopReason) -> None:
        """Make the next ``check`` raise. The first reason counts, save that nothing outlives being taken over."""
        if self._stop is None or reason == "taken over":
            self._stop = reason

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """Do the work of this run in one transaction. At most once a run.

        It commits only if this attempt still is the one that runs, and marks the work as done in the same moment: a
        run whose transaction committed is never done again, however its process ends.

        Raises:
            RunStopped: Another process took this run over.
            RuntimeError: It was used before.
        """
        if self._used:
            raise RuntimeError("a run has one transaction; use fence() for several")
        self._used = True
        with self._store.transaction(self._timeout_s) as connection:
            self.fence(connection)
            yield connection
            self._store.mark_committed(connection, self._claim, self.result)
        self.committed = True

    def fence(self, connection: Connection[Any]) -> None:
        """Let a transaction of your own commit only while this attempt is the one that runs.

        Args:
            connection: Inside a transaction. No other process can take this run over before it ends.

        Raises:
            RunStopped: Another process took this run over.
        """
        if not self._store.fence(connection, self._claim):
            self.stop("taken over")
            self.check()
