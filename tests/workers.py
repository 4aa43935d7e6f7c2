"""Real ``tiercel worker`` processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from tests.processes import START_TIMEOUT_S, TIERCEL, Service, eventually

SAMPLE = "tests.sample_jobs"


def sample_environment(database: str) -> dict[str, str]:
    """Return the environment of a process with the sample jobs, on a database."""
    return {
        "TIERCEL_DATABASE_URL": database,
        "TIERCEL_PLUGINS": f"system,{SAMPLE}",
        "TIERCEL_JOB_PROCESSES": "1",
        "TIERCEL_JOBS__GRACEFUL_TIMEOUT_S": "1",
    }


@contextmanager
def running_worker(home: Path, database: str) -> Iterator[Service]:
    """Run ``tiercel worker`` until the block ends; it is ready when the block begins."""
    worker = Service(home, [TIERCEL, "worker"], **sample_environment(database))
    try:
        assert eventually(lambda: worker.process.poll() is not None or _is_registered(database), START_TIMEOUT_S)
        assert worker.process.poll() is None, worker.errors
        yield worker
    finally:
        worker.stop()


class Workers:
    """Workers whose processes a test may kill.

    Args:
        directory: Working directory, and folder of the log.
        environment: Complete environment of the processes.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, processes: int = 1) -> psutil.Process:
        """Start a supervisor, wait for its processes, and return it."""
        environment = {**self._environment, "TIERCEL_JOB_PROCESSES": str(processes)}
        with (self._directory / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [TIERCEL, "worker"], cwd=self._directory, env=environment, stdout=log, stderr=log
            )
        self.started.append(process)
        supervisor = psutil.Process(process.pid)
        assert eventually(lambda: len(supervisor.children()) == processes, 30), self.log
        return supervisor

    @property
    def log(self) -> str:
        """The log of all workers."""
        return (self._directory / "worker.log").read_text()

    def end(self) -> None:
        """Kill all processes."""
        for process in self.started:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                child.kill()
            process.kill()
            process.wait()


def _is_registered(database: str) -> bool:
    with psycopg.connect(database) as connection:
        return bool(connection.execute("SELECT 1 FROM tiercel.job_worker").fetchone())
