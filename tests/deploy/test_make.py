"""The targets of the Makefile that run the service and keep the report of step 6."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from tests.contract.tree import ROOT
from tests.processes import START_TIMEOUT_S, TLS, eventually, free_port, make_environment

pytestmark = pytest.mark.process

# What the tests run in is set up already.
_SET_UP = [f"--old-file=.venv/{name}" for name in (".run", ".dev", ".pglite")]


def make(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start make in the root of the project."""
    command = ["make", "--silent", *_SET_UP, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=TLS).status_code == 200
    except httpx.TransportError:
        return False


def test_up_is_followed_by_logs_and_ended_by_down(database: str, tmp_path: Path) -> None:
    port = free_port()
    variables = {"TIERCEL_DATABASE_URL": database, "TIERCEL_BIND": f"127.0.0.1:{port}", "TIERCEL_JOB_PROCESSES": "1"}
    environment = make_environment(tmp_path / "home", **variables)

    up = make(environment, "up")
    try:
        assert eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz") or up.poll() is not None, START_TIMEOUT_S)
        assert up.poll() is None
        logs = make(environment, "logs")
        assert logs.stdout is not None
        # It follows the log until it is ended.
        watchdog = threading.Timer(START_TIMEOUT_S, logs.terminate)
        watchdog.start()
        assert any("Booting worker" in line for line in logs.stdout)
        watchdog.cancel()
        logs.terminate()
        logs.communicate()
        down = make(environment, "down")
        assert down.communicate(timeout=90)[0] == ""
        assert (down.returncode, up.wait(30)) == (0, 0)
    finally:
        up.kill()
        up.communicate()

    again = make(environment, "down")
    assert again.communicate()[0] == "Nothing that make up started is running.\n"
    assert again.returncode == 0


def test_step6_keeps_migrations_and_tests_in_its_report_and_fails_with_them(database: str, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "home", TIERCEL_DATABASE_URL=database)
    report = tmp_path / "reports" / "step6_tests.log"
    tests = tmp_path / "test_two.py"
    tests.write_text("def test_good() -> None: pass\ndef test_bad() -> None: raise AssertionError\n")

    arguments = f"-n 0 -p no:cacheprovider -c {ROOT / 'pyproject.toml'} --rootdir={tmp_path} {tests}"
    step6 = make(environment, "step6", f"REPORT={report}", f"TESTS={arguments}")
    printed = step6.communicate()[0]

    assert step6.returncode != 0
    assert "Nothing to do: every migration is applied." in report.read_text()
    assert "1 failed, 1 passed" in report.read_text()
    assert report.read_text() in printed
