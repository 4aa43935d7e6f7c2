"""What clients send reaches terminals of operators: as text, never as commands to the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hostile.raw_http import ask
from tests.processes import TIERCEL, Service, copy_home, eventually, make_environment, run_tiercel, serving

pytestmark = pytest.mark.process

# Clears the screen, sets the title, moves the cursor back, begins a sequence in C1, and turns the order of text around.
ATTACK = "\x1b[2J\x1b]0;owned\x07\x08\r\x9b31m\u202egnp\u2066\u2028x\x7f"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\x08\r\x9b31m\u202egnp\u2066\u2028x\x7f"
# Within JSON, as its standard has it.
SHOWN_IN_JSON = r"\u001b[2J\u001b]0;owned\u0007\b\r\u009b31m\u202egnp\u2066\u2028x\u007f"
COMMANDS = set("\x1b\x07\x08\r\x9b\u202e\u2066\u2028\x7f")


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that logs for people, also to a file, and stores an event with hostile texts."""
    home = copy_home(initialised, tmp_path_factory.mktemp("terminal"))
    with serving(home, TIERCEL_LOG__FILE=str(home / "log")) as started:
        arrived = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {"time": arrived, "service": "shop", "endpoint": f"/{ATTACK}", "method": "GET"}
        events = [{**event, "status_code": 200, "latency_ms": 1}]
        assert started.post("/api/requests/ingest/", events).json()["inserted"] == 1
        yield started


def run_on_terminal(home: Path, *arguments: str) -> str:
    """Run a command of tiercel whose standard output is a terminal, and return what is printed."""
    near, far = os.openpty()
    command = subprocess.Popen(
        [TIERCEL, *arguments], cwd=home.parent, env=make_environment(home, TERM="xterm"), stdout=far, stderr=far
    )
    os.close(far)
    parts = []
    with suppress(OSError):  # the end
        while part := os.read(near, 65536):
            parts.append(part)
    os.close(near)
    assert command.wait(60) == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    "path",
    [
        "/%1B[2J%1B]0;owned%07%08%0D%C2%9B31m%E2%80%AEgnp%E2%81%A6%E2%80%A8x%7F",
        "/%0A2026-01-01T00:00:00Z%20[info%20%20%20%20%20]%20request%20forged%3Dyes",
    ],
)
def test_the_log_of_requests_is_text(service: Service, path: str) -> None:
    answer = ask(service.port, "GET", path)
    request_id = answer.headers["x-request-id"]

    assert eventually(lambda: request_id in service.errors and request_id in (service.home / "log").read_text())
    printed = run_tiercel(service.home, "logs", TIERCEL_LOG__FILE=str(service.home / "log")).stdout
    for text in (service.errors, (service.home / "log").read_text(), printed):
        [line] = [each for each in text.split("\n") if request_id in each]
        assert SHOWN in line or r"\n2026-01-01T00:00:00Z [info     ] request forged=yes" in line
        assert not COMMANDS & set(text)
        assert "\n2026-01-01T" not in text


def test_what_others_wrote_to_the_log_file_is_printed_as_text(service: Service) -> None:
    path = service.home / "other"
    path.write_bytes(f"a {ATTACK}\n".encode() + b"b \x9b\xff\xe2\n")

    printed = run_tiercel(service.home, "logs", TIERCEL_LOG__FILE=str(path)).stdout

    assert printed == f"a {SHOWN}\nb \\x9b\\xff\\xe2\n"


def test_tables_and_json_are_text(service: Service) -> None:
    on_terminal = run_on_terminal(service.home, "observability", "top")
    piped = run_tiercel(service.home, "observability", "top").stdout
    as_json = run_tiercel(service.home, "observability", "top", "--json").stdout

    # The table may fold the text, and has colours of its own.
    assert "\x1b]0" not in on_terminal
    assert "\x1b[2J" not in on_terminal
    assert not set("\x07\x08\x9b\u202e\u2066\u2028\x7f") & set(on_terminal)
    assert SHOWN in piped
    assert not COMMANDS & set(piped)
    assert SHOWN_IN_JSON in as_json
    assert not COMMANDS & set(as_json)
    assert f"/{ATTACK}" in [each["endpoint"] for each in json.loads(as_json)]


def test_problems_are_text(service: Service) -> None:
    file = service.home / f"{ATTACK.replace('/', '')}.log"
    file.write_text(f"no log {ATTACK}\n" * 3)

    imported = run_tiercel(service.home, "observability", "import", str(file))
    unknown = run_tiercel(service.home, "jobs", "start", f"x{ATTACK}")
    misused = run_tiercel(service.home, "observability", f"x{ATTACK}")

    for each, code in ((imported, 1), (unknown, 1), (misused, 2)):
        assert each.returncode == code
        assert SHOWN in each.stderr + each.stdout
        assert not COMMANDS & set(each.stderr + each.stdout)
