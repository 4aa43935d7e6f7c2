"""One worker process: takes on one job at a time, and ends when it is told, whatever the job does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec
import psycopg

from kernel.contracts import Job
from kernel.db.pool import Database
from kernel.errors import NotFoundError, TiercelError
from kernel.jobs.chores import Chores
from kernel.jobs.execution import log_end, perform, settle
from kernel.jobs.keeper import Keeper
from kernel.jobs.listener import Listener
from kernel.jobs.run import Run
from kernel.jobs.service import Jobs
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger
from kernel.settings import JobSettings

# How soon what could not be stored, or a database that is away, is tried again.
_POLL_S = 1.0
_LOOK_S = 0.1
_LAST_WORDS_S = 3.0


class _Current(msgspec.Struct, frozen=True):
    """The run of this moment, and when its time is up."""

    claim: Claim
    run: Run
    job: Job
    deadline: float


class Worker:
    """A worker process. Its main thread watches; another runs the jobs.

    Args:
        number: From ``make_worker_id``.
        jobs: What can be run.
        db: Opened in this process.
        settings: How long things may take.
        log: Hears of every job.
        chores: Done about once a second.
    """

    def __init__(
        self, number: int, jobs: Jobs, db: Database, settings: JobSettings, log: Logger, chores: Chores
    ) -> None:
        self._number = number
        self._jobs = jobs
        self._store: JobStore = jobs.store
        self._settings = settings
        self._log = log
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._current: _Current | None = None
        self._keeper = Keeper(self._store, number, settings.dead_after_s, log, chores.do)
        self._listener = Listener(db.conninfo, new_job=self._wake.set, abort=self._keeper.wake.set)
        self._runner = threading.Thread(target=self._loop, name="job-runner", daemon=True)

    def run(self, is_orphan: Callable[[], bool] = lambda: False) -> None:
        """Work until SIGTERM or SIGINT, or until this process is an orphan.

        Args:
            is_orphan: Tells whether the process that started this one is gone.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        self.start()
        while self._runner.is_alive() and not self._stopping.is_set():
            self._runner.join(_LOOK_S)
            self._end_overrun()
            if is_orphan():
                self.stop()
        self._leave()

    def start(self) -> None:
        """Start the threads."""
        self._keeper.start()
        self._listener.start()
        self._runner.start()

    def stop(self) -> None:
        """Take on no further job, and ask the one that runs to stop."""
        self._stopping.set()
        self._wake.set()
        current = self._current
        if current is not None:
            current.run.stop("shutdown")

    def join(self, timeout_s: float) -> bool:
        """After ``stop``: wait for the run, then say good-bye; tell whether it ended in time."""
        self._runner.join(timeout_s)
        self._listener.stop()
        self._keeper.stop()
        if self._runner.is_alive():
            return False
        with contextlib.suppress(TiercelError, psycopg.Error):
            self._store.unregister(self._number)
        return True

    # --- the thread that runs jobs ----------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                claim = self._store.claim(self._number)
            except (TiercelError, psycopg.Error) as ex:
                self._log.warning("jobs_cannot_be_read", reason=getattr(ex, "detail", None) or str(ex))
                self._stopping.wait(_POLL_S)
                continue
            if claim is None:
                self._wake.wait(_POLL_S)
            else:
                self._take_on(claim)

    def _take_on(self, claim: Claim) -> None:
        try:
            job = self._jobs.catalogue.find(claim.name)
        except NotFoundError:
            reason = f"no loaded plugin has a job {claim.name!r}"
            self._until_stored(lambda: self._store.finish(claim, "failed", reason))
            return
        run = Run(claim, self._store, self._log, job)
        started = time.monotonic()
        self._current = _Current(claim, run, job, started + job.timeout_s)
        self._keeper.watch(claim, run)
        if self._stopping.is_set():
            run.stop("shutdown")
        outcome = perform(job, claim, run)
        # Kept as current: what cannot be stored because the database is away is given back by the next worker.
        self._current = msgspec.structs.replace(self._current, deadline=float("inf"))
        self._until_stored(lambda: settle(self._store, job, claim, run, outcome))
        self._current = None
        self._keeper.watch(None, None)
        log_end(self._log, claim, outcome, time.monotonic() - started)

    def _until_stored(self, store: Callable[[], object]) -> None:
        while not self._is_stored(store):
            time.sleep(_POLL_S)

    def _is_stored(self, store: Callable[[], object]) -> bool:
        try:
            store()
        except (TiercelError, psycopg.Error) as ex:
            self._log.warning("job_end_not_stored", reason=getattr(ex, "detail", None) or str(ex))
            return False
        return True

    # --- the main thread --------------------------------------------------------------------------------------------

    def _end_overrun(self) -> None:
        current = self._current
        if current is not None and time.monotonic() >= current.deadline:
            error = f"hard time limit: it ran for more than {current.job.timeout_s:g} s"
            self._log.error("job_killed", job=current.claim.name, job_id=current.claim.id, reason=error)
            self._die(lambda: self._store.end_by_force(current.claim, error))

    def _leave(self) -> None:
        self.stop()
        if not self.join(self._settings.graceful_timeout_s):
            current = self._current
            if current is not None:
                self._log.warning("job_abandoned", job=current.claim.name, job_id=current.claim.id)
                self._die(lambda: self._store.give_back(current.claim, "stopped: shutdown", by_force=True))
            self._die(lambda: None)

    def _die(self, last_words: Callable[[], object]) -> NoReturn:
        # Nothing here may hang: neither the job, nor the database.
        said = threading.Thread(target=_quietly, args=(last_words,), daemon=True)
        said.start()
        said.join(_LAST_WORDS_S)
        with contextlib.suppress(Exception):
            self._store.unregister(self._number)
        os._exit(0 if self._stopping.is_set() else 1)


def _quietly(do: Callable[[], object]) -> None:
    # Should it fail, the job is taken over when this worker has been silent for long enough.
    with contextlib.suppress(Exception):
        do()
