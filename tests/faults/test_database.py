"""A database that dies, freezes, rejects work or has a full disk: 503 in time, readiness reports it, and recovery."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kernel.db.failures import READ_ONLY
from tests.faults.conftest import ANSWER_S, VARIABLES, stored_batches
from tests.faults.database import connect, end_server, frozen, locked, no_connections_left, read_only
from tests.faults.senders import Senders
from tests.plugins.observability.events import make_event
from tests.processes import Service, eventually, run_tiercel

pytestmark = pytest.mark.process

LIST = "/api/requests/"


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["detail"]


def write(service: Service, **fields: str) -> httpx.Response:
    """Write one event, and assert that the response arrives in time."""
    started = time.monotonic()
    answer = service.post(LIST, make_event(**fields), timeout_s=30)
    assert time.monotonic() - started < ANSWER_S
    return answer


def recovers(service: Service) -> bool:
    return eventually(lambda: service.is_ready() and write(service).status_code == 201, 40)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
def test_everything_acknowledged_survives_the_end_of_the_database_under_load(
    service: Service, how: signal.Signals
) -> None:
    senders = Senders(service.port, size=200)
    workers = service.workers()
    with senders.running(connections=3):
        senders.put(range(20))
        assert eventually(lambda: len(senders.acknowledged) >= 5)
        end_server(service.home, how)
        senders.put(range(20, 40))
        assert eventually(lambda: len(senders.acknowledged) == 40, 60)

    assert stored_batches(service.home) == dict.fromkeys(range(40), 200)
    assert senders.unexpected == []
    assert set(workers) <= set(service.workers())


def test_requests_answer_503_while_the_database_is_dead(service: Service) -> None:
    # Without this file the watchdog cannot restart it.
    control = service.home / "postgres" / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    end_server(service.home, signal.SIGQUIT)

    assert_unavailable(write(service))
    assert service.get("/readyz").status_code == 503
    assert service.get("/livez").status_code == 200
    control.with_suffix(".away").rename(control)
    assert recovers(service)


def test_requests_answer_503_in_time_while_the_database_is_frozen(shared: Service) -> None:
    assert write(shared).status_code == 201
    with frozen(shared.home):
        assert_unavailable(write(shared))
        ready = shared.get("/readyz")

    assert ready.status_code == 503
    assert [check["name"] for check in ready.json()["checks"] if check["status"] == "failed"] == ["database"]
    assert recovers(shared)


@pytest.mark.parametrize("fault", [read_only, no_connections_left, locked])
def test_writes_answer_503_in_time_while_the_database_rejects_them(
    shared: Service, fault: Callable[[Path], AbstractContextManager[None]]
) -> None:
    assert write(shared).status_code == 201
    with fault(shared.home):
        assert_unavailable(write(shared))

    assert recovers(shared)


def test_readiness_reports_a_read_only_database(shared: Service) -> None:
    with read_only(shared.home):
        ready = shared.get("/readyz")

    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"][0]["detail"] == READ_ONLY.detail
    assert eventually(lambda: shared.get("/readyz?exclude=jobs").json()["status"] == "ok")


def test_the_service_is_not_ready_without_a_connection(shared: Service) -> None:
    with no_connections_left(shared.home):
        assert eventually(lambda: shared.get("/readyz").status_code == 503)

    assert eventually(shared.is_ready)


def test_the_doctor_describes_a_database_that_answers_and_one_that_is_frozen(shared: Service) -> None:
    with connect(shared.home) as connection:
        connection.execute(b"CREATE EXTENSION pg_stat_statements")

    answering = examine(shared, timeout_s=30)
    with frozen(shared.home):
        silent = examine(shared, timeout_s=20)

    assert [name for name, part in answering.items() if part["status"] == "failed"] == []
    slow = answering["slow_statements"]["content"]["rows"]
    assert {"calls", "total_ms", "statement"} <= slow[0].keys()
    assert answering["probes"]["content"][0]["status"] == 200
    assert "tiercel serve" in {process["command"] for process in answering["processes"]["content"]}
    # As many as the processes that serve.
    places = [name for name in answering["metrics"]["content"] if name.startswith("tiercel_process_threads")]
    assert places == ["tiercel_process_threads{process=web-0}", "tiercel_process_threads{process=web-1}"]
    assert silent["database"]["reason"].startswith("the database does not answer")
    # It is waited for once, not for each part.
    assert silent["tables"] == {"status": "failed", "took_ms": 0, "reason": f"left out: {silent['database']['reason']}"}
    assert silent["embedded_server"]["content"]["is_running"] is True
    assert [probe["status"] for probe in silent["probes"]["content"]] == [200, 503]
    assert {"versions", "machine", "disks", "settings", "check", "metrics"} <= {
        name for name, part in silent.items() if part["status"] == "ok"
    }


def examine(service: Service, timeout_s: float) -> dict[str, Any]:
    """Return the parts of what ``tiercel doctor`` reports of a service."""
    variables = {**VARIABLES, "TIERCEL_BIND": f"127.0.0.1:{service.port}"}
    ran = run_tiercel(service.home, "doctor", f"--timeout-s={timeout_s}", "-", **variables)
    assert ran.returncode == 0, ran.stderr
    parts: dict[str, Any] = msgspec.json.decode(ran.stdout)["parts"]
    return parts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path]).returncode:
        pytest.skip("only root can mount a file system")
    account = pwd.getpwnam("tiercel")
    os.chown(tmp_path, account.pw_uid, account.pw_gid)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.usefixtures("traversable_tmp_path")
def test_writes_answer_503_while_the_disk_is_full(service: Service, small_disk: Path) -> None:
    with connect(service.home) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        connection.execute(b"GRANT CREATE ON TABLESPACE small TO tiercel")
        connection.execute(b"ALTER SYSTEM SET default_tablespace = small")
        connection.execute(b"SELECT pg_reload_conf()")
    senders = Senders(service.port, size=5000)
    with senders.running(connections=1):
        senders.put(range(2))
        assert eventually(lambda: senders.replays >= 2, 30)
        assert senders.acknowledged < {0, 1}
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)

    assert senders.acknowledged == {0, 1}
    assert senders.unexpected == []
    assert stored_batches(service.home) == {0: 5000, 1: 5000}


@pytest.fixture
def traversable_tmp_path(tmp_path: Path) -> None:
    """Let the server's account reach the temporary directory of the test."""
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
