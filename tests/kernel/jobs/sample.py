"""A plugin whose jobs real worker processes run."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from kernel import Job, Services, hookimpl
from kernel.jobs import Run


class Insert(msgspec.Struct, frozen=True):
    """Which row to insert, and how long the work before and after takes."""

    number: int
    before_ms: int = 0
    after_ms: int = 0


class Wait(msgspec.Struct, frozen=True):
    """Which file to create when the run begins, and which to wait for."""

    begun: str
    until: str = ""
    seconds: float = 60.0


def insert(run: Run, parameters: Insert) -> int:
    time.sleep(parameters.before_ms / 1000)
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (%s)", [parameters.number])
    time.sleep(parameters.after_ms / 1000)
    return parameters.number


def _wait(parameters: Wait) -> None:
    Path(parameters.begun).touch()
    deadline = time.monotonic() + parameters.seconds
    while not (parameters.until and Path(parameters.until).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)


def run_without_checks(run: Run, parameters: Wait) -> str:
    """Wait without a check, then commit."""
    if run.attempt > 1:
        return "again"
    _wait(parameters)
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-1)")
    return "late"


def wait_before_commit(run: Run, parameters: Wait) -> str:
    """Write, and wait before the commit."""
    if run.attempt > 1:
        return "again"
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-2)")
        _wait(parameters)
    return "late"


def wait_after_commit(run: Run, parameters: Wait) -> str:
    """Commit, and wait afterwards."""
    run.result = "committed"
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-3)")
    _wait(parameters)
    return "late"


@hookimpl
def register_jobs(services: Services) -> list[Job]:
    return [
        Job(name="sample.insert", run=insert, lock="insert-{number}"),
        Job(name="sample.unstoppable", run=run_without_checks),
        Job(name="sample.uncommitted", run=wait_before_commit),
        Job(name="sample.committed", run=wait_after_commit),
        Job(name="sample.overrun", run=run_without_checks, timeout_s=0.5, retries=5),
        Job(name="sample.overrun_uncommitted", run=wait_before_commit, timeout_s=0.5, retries=5),
    ]
