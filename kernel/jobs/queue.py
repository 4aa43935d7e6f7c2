"""Enqueue jobs. A job that waits already, under the same name and lock, is not queued a second time."""

from __future__ import annotations

from typing import Any

import msgspec

from kernel.conversion import strip_nul
from kernel.errors import ConflictError
from kernel.jobs.owner import Owner
from kernel.jobs.registry import RegisteredJob
from kernel.jobs.store import JobStore


def enqueue(
    store: JobStore,
    job: RegisteredJob,
    parameters: msgspec.Struct | None,
    owner: Owner,
    *,
    request_id: str | None = None,
    delay_s: float = 0.0,
) -> tuple[int, bool]:
    """Queue a job, or find the one that waits already; return its id, and whether it is new.

    Args:
        store: Where the queue is.
        job: Which job.
        parameters: From ``job.decode_parameters``.
        owner: Whose it is.
        request_id: The request that starts it.
        delay_s: Seconds until it is due. One that waits for longer is brought forward.

    Raises:
        ConflictError: One of the same lock waits, with other parameters.
    """
    raw = encode_parameters(parameters)
    lock = job.lock_name(parameters, owner.account)
    with store.enqueueing(job.name, lock) as connection:
        waiting = store.find_waiting(connection, job.name, lock, owner)
        if waiting is None:
            return store.insert_waiting(connection, job.name, lock, raw, request_id, owner, delay_s), True
        if waiting[1] != raw:
            raise ConflictError(f"The job {job.name} waits already, as {waiting[0]}, with other parameters.")
        store.bring_forward(connection, waiting[0], delay_s)
        return waiting[0], False


def encode_parameters(parameters: msgspec.Struct | None) -> dict[str, Any]:
    """Return parameters as the database gives them back, so that they can be compared with those of waiting jobs."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({} if parameters is None else parameters))
    stored: dict[str, Any] = strip_nul(plain)
    return stored
