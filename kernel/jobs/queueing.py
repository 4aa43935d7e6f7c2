"""Put jobs into the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.conversion import strip_nul
from kernel.errors import ConflictError
from kernel.jobs.catalogue import lock_of
from kernel.jobs.store import JobStore


def plain_parameters(parameters: msgspec.Struct | None) -> dict[str, Any]:
    """Return parameters as they come back out of the database."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({} if parameters is None else parameters))
    # Else they would differ from those that wait already.
    stored: dict[str, Any] = strip_nul(plain)
    return stored


def queue_job(
    store: JobStore, job: Job, parameters: msgspec.Struct | None, request_id: str | None, delay_s: float = 0.0
) -> tuple[int, bool]:
    """Queue a job unless it waits already; return the number of the one that waits then, and whether it is new."""
    raw = plain_parameters(parameters)
    lock = lock_of(job, parameters)
    with store.starting(job.name, lock) as connection:
        waiting = store.find_waiting(connection, job.name, lock)
        if waiting is None:
            return store.insert(connection, job.name, lock, raw, request_id, delay_s=delay_s), True
        if waiting[1] != raw:
            raise ConflictError(f"The job {job.name} waits already, as {waiting[0]}, with other parameters.")
        store.bring_forward(connection, waiting[0], delay_s)
        return waiting[0], False
