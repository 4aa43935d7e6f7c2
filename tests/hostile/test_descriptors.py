"""Clients that open connections until there are no file descriptors left."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import TIERCEL, Service, copy_home, python_environment

pytestmark = pytest.mark.process
RAISE = """
import resource
import msgspec
from kernel.server.descriptors import raise_descriptor_limit
from kernel.settings import ServerSettings, Settings
print(raise_descriptor_limit(Settings(server=ServerSettings(connections_max=1000))))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def with_limits(soft: int, hard: int, *command: str) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh", *command)


def test_idle_connections_that_take_every_descriptor_do_not_stop_the_service(initialised: Path, tmp_path: Path) -> None:
    variables = {"TIERCEL_SERVER__HEADER_TIMEOUT_S": "60", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}
    service = Service(copy_home(initialised, tmp_path), with_limits(200, 200, TIERCEL, "serve"), **variables)
    try:
        service.wait_until_ready()
        (worker,) = service.workers()
        assert "too_few_file_descriptors" in service.errors
        with ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))

            for _ in range(3):
                assert service.get("/livez", timeout_s=5).status_code == 200
            assert service.is_ready()
            before = worker.cpu_times()
            time.sleep(2)  # long enough to tell a worker that spins from one that waits
            after = worker.cpu_times()
            assert after.user + after.system - before.user - before.system < 1.0
        assert service.workers() == [worker]
        assert "connections for now; see ulimit -n" in service.errors
        assert "Traceback" not in service.errors
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("hard", "soft_afterwards", "problem"),
    [(2000, 1138, "None"), (1000, 1000, "1000 connections (server.connections_max) take 1138 file descriptors, and a")],
)
def test_the_soft_limit_of_descriptors_is_raised_as_far_as_the_settings_require(
    hard: int, soft_afterwards: int, problem: str
) -> None:
    command = with_limits(256, hard, sys.executable, "-c", RAISE)
    ran = subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=True)

    reported, limits = ran.stdout.splitlines()
    assert reported.startswith(problem)
    assert limits == f"{soft_afterwards} {hard}"
