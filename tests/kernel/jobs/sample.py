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
    """Which file to make as a sign of life, and which to wait for."""

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


def deaf(run: Run, parameters: Wait) -> str:
    """Never ask whether to stop."""
    if run.attempt > 1:
        return "again"
    _wait(parameters)
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-1)")
    return "late"


def half(run: Run, parameters: Wait) -> str:
    """Write, and wait before it is committed."""
    if run.attempt > 1:
        return "again"
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-2)")
        _wait(parameters)
    return "late"


def done(run: Run, parameters: Wait) -> str:
    """Commit, and wait for the end."""
    run.result = "committed"
    with run.transaction() as connection:
        connection.execute("INSERT INTO sample_row (number) VALUES (-3)")
    _wait(parameters)
    return "late"


@hookimpl
def register_jobs(services: Services) -> list[Job]:
    return [
        Job(name="sample.insert", run=insert, lock="insert-{number}"),
        Job(name="sample.deaf", run=deaf),
        Job(name="sample.half", run=half),
        Job(name="sample.done", run=done),
        Job(name="sample.endless", run=deaf, timeout_s=0.5, retries=5),
        Job(name="sample.endless_half", run=half, timeout_s=0.5, retries=5),
    ]
