"""What every worker does now and then beside its jobs: schedules, takeovers, cleaning."""

from __future__ import annotations

import time

from kernel.db.pool import Database
from kernel.jobs.scheduler import Scheduler
from kernel.jobs.store import JobStore
from kernel.jobs.takeover import take_over
from kernel.logging import Logger
from kernel.settings import JobSettings

_CLEAN_INTERVAL_S = 600.0
_CLEAN_AT_A_TIME = 1000


class Chores:
    """The chores of one worker. Others do the same; the database sees to it that each is done once.

    Args:
        db: The pool of this process.
        settings: When a worker is dead, and how long jobs are kept.
        log: Hears what was done.
        scheduler: Starts what is due.
        predecessor: A worker that is known to be dead.
    """

    def __init__(
        self,
        db: Database,
        settings: JobSettings,
        log: Logger,
        scheduler: Scheduler,
        predecessor: int | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._log = log
        self._scheduler = scheduler
        self._predecessor = predecessor
        self._take_over_at = 0.0
        self._clean_at = 0.0

    def do(self) -> None:
        """Do what is due."""
        self._scheduler.tick()
        now = time.monotonic()
        if now >= self._take_over_at:
            take_over(self._db, self._log, self._settings.dead_after_s, self._predecessor)
            self._predecessor = None
            self._take_over_at = now + min(5.0, self._settings.dead_after_s / 4)
        if now >= self._clean_at:
            deleted = JobStore(self._db).delete_old(self._settings.keep_days, _CLEAN_AT_A_TIME)
            self._clean_at = now + (0 if deleted == _CLEAN_AT_A_TIME else _CLEAN_INTERVAL_S)
