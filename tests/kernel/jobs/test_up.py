"""The worker that ``tiercel up`` runs, and a worker whose database becomes unavailable."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kernel.server.addresses import ensure_addresses_free
from tests.faults.database import ask, end_server
from tests.processes import ROOT, TIERCEL, Service, copy_home, eventually, postmaster, serving

pytestmark = pytest.mark.process
COUNTING = """
import gc

from kernel import Job, Route, hookimpl
from kernel.jobs import Run


def count() -> int:
    \"\"\"Count what is hidden from the garbage collector.\"\"\"
    return gc.get_freeze_count()


def count_as_job(run: Run) -> int:
    return gc.get_freeze_count()


@hookimpl
def register_routes(services):
    return [Route(path="/counting/", handler=count, policy="public")]


@hookimpl
def register_jobs(services):
    return [Job(name="counting.count", run=count_as_job)]
"""
VARIABLES = {"TIERCEL_JOBS__GRACEFUL_TIMEOUT_S": "1", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}
ALIVE = "SELECT count(*) FROM tiercel.job_worker WHERE heartbeat_at > now() - interval '7 s'"


def processes(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


@pytest.fixture
def home(initialised: Path, tmp_path: Path) -> Path:
    return copy_home(initialised, tmp_path)


@pytest.mark.parametrize("end", [Service.stop, lambda service: os.kill(service.process.pid, signal.SIGKILL)])
def test_up_runs_workers_that_end_with_it(home: Path, end: Callable[[Service], object]) -> None:
    with serving(home, (TIERCEL, "up"), **VARIABLES) as service:
        assert eventually(lambda: ask(home, ALIVE) == 2)
        everything = processes(service)

        end(service)

        assert eventually(lambda: not any(process.is_running() for process in everything)), service.errors
        ensure_addresses_free(f"127.0.0.1:{service.port}")
    assert eventually(lambda: postmaster(home) is None)


def test_what_was_loaded_is_shared_by_processes_and_hidden_from_their_garbage_collectors(home: Path) -> None:
    package = home.parent / "acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "counting.py").write_text(COUNTING)
    path = os.pathsep.join([str(ROOT), str(home.parent)])
    plugins = {"PYTHONPATH": path, "TIERCEL_PLUGINS": "system,acme.counting"}
    with serving(home, (TIERCEL, "up"), **plugins, **VARIABLES) as service:
        web = service.get("/counting/").json()
        started = service.post("/api/v1/jobs/", {"name": "counting.count"})
        assert started.status_code == 202, started.text
        job = started.json()["data"]["id"]
        run = f"/api/v1/jobs/{job}/"
        assert eventually(lambda: service.get(run).json()["data"]["state"] == "succeeded", 30), service.errors
        hidden = service.get(run).json()["data"]["result"]

    assert min(web, hidden) > 50_000


def test_a_stop_before_the_workers_began_takes_the_database_with_it(home: Path) -> None:
    with serving(home, (TIERCEL, "up"), **VARIABLES) as service:
        assert service.stop() == 0

    assert postmaster(home) is None


def test_a_worker_outlives_a_restart_of_its_database(home: Path) -> None:
    with serving(home, (TIERCEL, "up"), **VARIABLES) as service:
        assert eventually(lambda: ask(home, ALIVE) == 2)
        before = {process.pid for process in processes(service)}

        end_server(home, signal.SIGINT)

        since = "SELECT count(*) FROM tiercel.job_worker WHERE heartbeat_at > pg_postmaster_start_time()"
        assert eventually(lambda: ask(home, since) == 2, 30), service.errors
        assert {process.pid for process in processes(service)} == before
