"""Start scheduled jobs when they are due: once, however many workers look."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from kernel.db.pool import Database
from kernel.jobs.catalogue import Catalogue, decode_parameters, lock_of
from kernel.jobs.queueing import plain_parameters
from kernel.jobs.schedules import Schedule
from kernel.jobs.store import QUERIES, JobStore
from kernel.logging import Logger


class Scheduler:
    """The schedules as one worker sees them.

    Args:
        db: Keeps what was due last.
        catalogue: Knows jobs and schedules.
        now: Tells the time.
        log: Hears of what is started.
    """

    def __init__(self, db: Database, catalogue: Catalogue, now: Callable[[], datetime], log: Logger) -> None:
        self._db = db
        self._store = JobStore(db)
        self._catalogue = catalogue
        self._now = now
        self._log = log
        self._next: dict[str, datetime] = {}

    def tick(self) -> None:
        """Start what is due. Asks the database only then."""
        now = self._now()
        for name, schedule in self._catalogue.schedules.items():
            if name not in self._next or self._next[name] <= now:
                self._fire(name, schedule, now)
                self._next[name] = schedule.following(now)

    def _fire(self, name: str, schedule: Schedule, now: datetime) -> None:
        job = self._catalogue.find(name)
        parameters = decode_parameters(job, {})
        lock = lock_of(job, parameters)
        with self._store.starting(name, lock) as connection:
            connection.execute(QUERIES["insert_schedule"], {"name": name, "schedule": schedule.text, "now": now})
            row = connection.execute(QUERIES["lock_schedule"], {"name": name}).fetchone()
            due = schedule.latest(now)
            if row is None or (row[0] == schedule.text and row[1] >= due):
                return
            changed = row[0] != schedule.text
            given = {"name": name, "schedule": schedule.text, "due": now if changed else due}
            connection.execute(QUERIES["advance_schedule"], given)
            if changed or self._store.find_waiting(connection, name, lock) is not None:
                return
            job_id = self._store.insert(connection, name, lock, plain_parameters(parameters), None)
        self._log.info("job_scheduled", job=name, job_id=job_id, due=due.isoformat())
