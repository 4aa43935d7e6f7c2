"""Recover the jobs of workers that died: a stalled job is queued again, or ended.

A worker is dead when its heartbeat is too old, or when its supervisor says so. It may in fact be frozen and wake up:
from then on its claim is void, and ``Run.transaction`` and ``Run.fence`` let it commit nothing.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from kernel.jobs.store import QUERIES, JobStore
from kernel.logging import Logger

# A job that kills its workers must not go on doing so.
DEATHS_MAX = 3
_NO_WORKER = -1


def recover_stalled_jobs(store: JobStore, log: Logger, dead_after_s: float, dead_worker: int | None = None) -> int:
    """Queue the jobs of dead workers again, or end them; return how many there were.

    Args:
        store: Where jobs and workers are.
        log: Gets a line about each job.
        dead_after_s: A worker is dead when its last heartbeat is older than this.
        dead_worker: One that is known to be dead.
    """
    given = {"dead_after_s": dead_after_s, "worker": _NO_WORKER if dead_worker is None else dead_worker}
    with store.db.connection() as connection:
        stalled = [row[0] for row in connection.execute(QUERIES["list_stalled"], given)]
    recovered = 0
    for job_id in stalled:
        # A frozen process may sit in an open transaction; it must not hold the job forever.
        store.end_session_of_run(job_id)
        with store.db.transaction() as connection:
            outcome = _recover(connection, store, job_id, given)
        if outcome is not None:
            recovered += 1
            log.warning("job_taken_over", job_id=job_id, became=outcome)
    with store.db.connection() as connection:
        connection.execute(QUERIES["delete_dead_workers"], {"dead_after_s": dead_after_s})
    return recovered


def _recover(connection: Connection[Any], store: JobStore, job_id: int, given: dict[str, Any]) -> str | None:
    row = connection.execute(QUERIES["lock_stalled"], {**given, "id": job_id}).fetchone()
    if row is None:
        return None
    attempt, deaths, committed, is_inline = row
    if committed:
        store.finish_in(connection, job_id, attempt, "succeeded")
        return "succeeded: its work was committed"
    if store.is_cancelled(connection, job_id):
        store.finish_in(connection, job_id, attempt, "cancelled", "cancelled; its worker died meanwhile")
        return "cancelled"
    if is_inline:
        store.finish_in(connection, job_id, attempt, "failed", "the command that ran it was killed")
        return "failed"
    if deaths + 1 >= DEATHS_MAX:
        store.finish_in(connection, job_id, attempt, "failed", f"its worker died {DEATHS_MAX} times")
        return "failed"
    store.requeue_in(connection, job_id, attempt, "its worker died", deaths=1)
    return "waiting"
