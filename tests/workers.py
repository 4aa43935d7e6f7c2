"""Real workers for tests that need a job to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.processes import START_TIMEOUT_S, TIERCEL, Service, eventually

SAMPLE = "tests.sample_jobs"


def sample_environment(database: str) -> dict[str, str]:
    """Return the environment of a process that knows the sample jobs, on a database."""
    return {
        "TIERCEL_DATABASE_URL": database,
        "TIERCEL_PLUGINS": f"system,{SAMPLE}",
        "TIERCEL_JOB_PROCESSES": "1",
        "TIERCEL_JOBS__GRACEFUL_TIMEOUT_S": "1",
    }


@contextmanager
def working(home: Path, database: str) -> Iterator[Service]:
    """Keep ``tiercel worker`` running, ready to work, for as long as the block lasts."""
    worker = Service(home, [TIERCEL, "worker"], **sample_environment(database))
    try:
        assert eventually(lambda: worker.process.poll() is not None or _is_there(database), START_TIMEOUT_S)
        assert worker.process.poll() is None, worker.errors
        yield worker
    finally:
        worker.stop()


def _is_there(database: str) -> bool:
    with psycopg.connect(database) as connection:
        return bool(connection.execute("SELECT 1 FROM procrastinate.procrastinate_workers").fetchone())
