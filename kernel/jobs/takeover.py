"""Take over the jobs of workers that ended without a word."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from kernel.db.pool import Database
from kernel.jobs.store import OWN_QUEUE_PREFIX, QUERIES, JobStore
from kernel.logging import Logger

DEATHS_MAX = 3
_NOBODY = -1


def take_over(db: Database, log: Logger, dead_after_s: float, worker: int | None = None) -> int:
    """Give the jobs of dead workers to others, or end them; return how many there were.

    Args:
        db: A pool.
        log: Hears of every one.
        dead_after_s: A worker is dead when it has not been heard of for this long.
        worker: One that is known to be dead.
    """
    given = {"dead_after_s": dead_after_s, "worker": _NOBODY if worker is None else worker}
    with db.connection() as connection:
        abandoned = [row[0] for row in connection.execute(QUERIES["list_abandoned"], given)]
    taken = 0
    for job_id in abandoned:
        with db.connection() as connection:
            # A frozen process may sit in an open transaction; it must not keep the job for ever.
            connection.execute(QUERIES["end_session_of_run"], {"id": job_id})
        with db.transaction() as connection:
            what = _take_over(connection, JobStore(db), job_id, given)
        if what is not None:
            taken += 1
            log.warning("job_taken_over", job_id=job_id, became=what)
    with db.connection() as connection:
        connection.execute(QUERIES["prune_workers"], {"dead_after_s": dead_after_s})
    return taken


def _take_over(connection: Connection[Any], store: JobStore, job_id: int, given: dict[str, Any]) -> str | None:
    row = connection.execute(QUERIES["lock_abandoned"], {**given, "id": job_id}).fetchone()
    if row is None:
        return None
    attempt, deaths, committed, cancelled, queue = row
    if committed:
        store.finish_in(connection, job_id, attempt, "succeeded")
        return "succeeded: its work was committed"
    if cancelled:
        store.finish_in(connection, job_id, attempt, "cancelled", "cancelled; its worker died meanwhile")
        return "cancelled"
    if queue.startswith(OWN_QUEUE_PREFIX):
        store.finish_in(connection, job_id, attempt, "failed", "the command that ran it was killed")
        return "failed"
    if deaths + 1 >= DEATHS_MAX:
        store.finish_in(connection, job_id, attempt, "failed", f"its worker died {DEATHS_MAX} times")
        return "failed"
    store.requeue_in(connection, job_id, attempt, "its worker died", deaths=1)
    return "waiting"
