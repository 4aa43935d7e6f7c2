"""A plugin with jobs for tests."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from kernel import Job, Services, hookimpl
from kernel.jobs import Run

GATE_TIMEOUT_S = 20.0


class Sum(msgspec.Struct, frozen=True):
    """Parameters of ``sample.add``."""

    numbers: list[int]
    scale: float = 1.0
    label: str = ""


class Gates(msgspec.Struct, frozen=True):
    """Parameters of ``sample.walk``: the folder in which a file ``1``, ``2`` ... opens each gate."""

    folder: str
    steps: int = 2


def add(run: Run, parameters: Sum) -> float:
    for number, _ in enumerate(parameters.numbers, 1):
        run.progress(number, len(parameters.numbers), f"number {number}")
    run.log.info("added", numbers=len(parameters.numbers), label=parameters.label)
    return sum(parameters.numbers) * parameters.scale


def fail(run: Run) -> None:
    run.log.warning("about to fail")
    raise ValueError("nothing works")


def walk(run: Run, parameters: Gates) -> str:
    """Report progress, and wait until the test opens each gate."""
    deadline = time.monotonic() + GATE_TIMEOUT_S
    for step in range(1, parameters.steps + 1):
        run.log.info("at_gate", gate=step)
        run.progress(step, parameters.steps, f"gate {step}")
        while not (Path(parameters.folder) / str(step)).exists():
            run.check()
            if time.monotonic() >= deadline:
                raise TimeoutError(f"gate {step} stays shut")
            time.sleep(0.02)
    return "through"


@hookimpl
def register_jobs(services: Services) -> list[Job]:
    return [
        Job(name="sample.add", run=add, lock="sample.add-{label}"),
        Job(name="sample.fail", run=fail, schedule="30 4 * * *"),
        Job(name="sample.walk", run=walk, lock="sample.walk-{folder}", timeout_s=120),
    ]
