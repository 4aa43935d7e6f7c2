"""Short jobs through two workers."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from kernel.app import Tiercel
from kernel.embedded.server import EmbeddedServer
from kernel.testing import make_configuration
from tests.bench.figures import Figure
from tests.processes import TIERCEL, eventually, make_environment

_JOBS = 1000
_PLUGIN = "tests.kernel.jobs.sample"


def figures(full: bool) -> Iterator[Figure]:
    """Measure how fast workers drain a queue; each job inserts a row exactly once."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder, EmbeddedServer(Path(folder)) as server:
        database = {"url": server.conninfo}
        service = Tiercel(make_configuration(plugins=[_PLUGIN], required=[], db=database, log={"level": "error"}))
        service.prepare()
        service.start()
        try:
            with psycopg.connect(server.conninfo, autocommit=True) as connection:
                connection.execute("CREATE TABLE sample_row (number integer NOT NULL)")
            jobs = service.shared.jobs
            started = time.monotonic()
            for number in range(_JOBS):
                jobs.start("sample.insert", {"number": number})
            queued_s = time.monotonic() - started
            drained_s = _drain(service, server.conninfo, Path(folder))
        finally:
            service.stop()
            service.close()
    detail = f"{_JOBS} jobs, 2 workers; queued at {_JOBS / queued_s:.0f}/s"
    yield Figure("short jobs", _JOBS / drained_s, 100, "at least", "jobs/s", detail)


def _drain(service: Tiercel, conninfo: str, home: Path) -> float:
    environment = make_environment(
        home,
        TIERCEL_PLUGINS=_PLUGIN,
        TIERCEL_REQUIRED="",
        TIERCEL_DATABASE_URL=conninfo,
        TIERCEL_JOB_PROCESSES="2",
        TIERCEL_LOG__LEVEL="error",
    )
    worker = subprocess.Popen([TIERCEL, "worker"], cwd=home, env=environment)
    try:
        if not eventually(lambda: _left(service) < _JOBS, 30):
            raise RuntimeError("no worker began")
        started, before = time.monotonic(), _left(service)
        if not eventually(lambda: _left(service) == 0, 120):
            raise RuntimeError(f"{_left(service)} jobs were not done")
        return (time.monotonic() - started) * _JOBS / before
    finally:
        worker.terminate()
        worker.wait(30)


def _left(service: Tiercel) -> int:
    jobs = service.shared.jobs
    return len(jobs.list(state="waiting", limit=_JOBS)) + len(jobs.list(state="running", limit=_JOBS))
