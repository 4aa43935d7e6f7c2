"""Applications that are killed while the service comes and goes: what the client says is in its spool, arrives once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.contract.tree import ROOT
from tests.faults.conftest import VARIABLES
from tests.faults.database import connect
from tests.processes import Service, copy_home, free_port, serving

pytestmark = pytest.mark.process

SEED = 20_261_128
KILLS = 8
PROCESSES = 2
# It writes into a journal which event it is about to report, and, once it is told so, that this one is in the spool.
# A write that has returned outlives a kill.
SENDER = """
import os, sys, threading, time
from tiercel_client import Accepted, Reporter

reporter = Reporter(spool_dir=sys.argv[1], spool_write="event", batch_max_events=50, flush_interval_s=0.05,
    backoff_min_s=0.05, backoff_max_s=0.2, timeout_s=2, exit_timeout_s=60)
journal = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def run(thread):
    number = 0
    while True:
        name = f"{os.getpid()}-{thread}-{number}"
        os.write(journal, f"tries {name}\\n".encode())
        what = {"endpoint": "/orders", "method": "POST", "status_code": 201, "latency_ms": 2, "trace_id": name}
        if reporter.report(**what) is Accepted.SPOOL:
            os.write(journal, f"accepted {name}\\n".encode())
        number += 1
        time.sleep(0.002)

if len(sys.argv) > 3:
    # What is left of all of them.
    print(reporter.flush(60), sum(len(files) for _, _, files in os.walk(sys.argv[1])))
else:
    for thread in range(2):
        threading.Thread(target=run, args=(thread,), daemon=True).start()
    time.sleep(60)
"""


def start_sender(spool: Path, journal: Path, port: str, *arguments: str) -> subprocess.Popen[str]:
    """Start an application that reports requests until it is killed."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "contrib" / "client"),
        "TIERCEL_CLIENT_URL": f"http://127.0.0.1:{port}",
        "TIERCEL_CLIENT_SERVICE": "killed",
    }
    command = [sys.executable, "-c", SENDER, str(spool), str(journal), *arguments]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_senders(generator: random.Random, spool: Path, journal: Path, port: str, kills: int) -> None:
    """Start applications that share a spool, kill one after the other, and start each again."""
    running = [start_sender(spool, journal, port) for _ in range(PROCESSES)]
    for _ in range(kills):
        time.sleep(generator.uniform(0.2, 0.6))
        victim = running.pop(generator.randrange(len(running)))
        victim.kill()
        victim.communicate()
        running.append(start_sender(spool, journal, port))
    time.sleep(0.5)
    for sender in running:
        sender.kill()
        sender.communicate()


def kill_service(service: Service) -> None:
    """Kill the service and its workers in the middle of whatever they do."""
    master = psutil.Process(service.process.pid)
    for process in [master, *service.workers()]:
        process.kill()
    service.process.wait()


def test_events_in_the_spool_of_killed_processes_are_stored_once(initialised: Path, tmp_path: Path) -> None:
    generator = random.Random(SEED)
    home, port = copy_home(initialised, tmp_path), str(free_port())
    spool, journal = tmp_path / "spool", tmp_path / "journal"

    with serving(home, port=port, **VARIABLES) as service:
        kill_senders(generator, spool, journal, port, KILLS // 2)
        busy = [start_sender(spool, journal, port) for _ in range(PROCESSES)]
        time.sleep(1)
        kill_service(service)
    kill_senders(generator, spool, journal, port, KILLS // 2)
    left = sum(file.read_bytes().count(b"\n") for file in spool.rglob("*.ndjson"))
    with serving(home, port=port, **VARIABLES):
        time.sleep(0.5)
        for sender in busy:
            sender.kill()
            sender.communicate()
        last = start_sender(spool, journal, port, "flush")
        output, errors = last.communicate(timeout=90)
        with connect(home) as connection:
            rows = connection.execute(b"SELECT trace_id FROM observability.event").fetchall()

    assert output.split() == ["True", "0"], errors
    # The last line of a process that was killed within a write may be cut off, and then another's follows on it.
    lines = [line.split() for line in journal.read_text().splitlines()]
    tried = {line[1] for line in lines if line[0] == "tries"}
    accepted = {line[1] for line in lines if line[0] == "accepted"}
    stored = Counter(name for (name,) in rows)
    assert left > 100
    assert len(accepted) > 500
    assert [name for name, count in stored.items() if count > 1] == []
    assert accepted - set(stored) == set()
    # Each thread may have been killed between the spool and its journal.
    assert set(stored) - tried == set()
    assert len(set(stored) - accepted) <= 2 * (KILLS + 3 * PROCESSES)
