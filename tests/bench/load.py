"""Clients: as little work of their own as possible, because they share the machine with the server."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

START = datetime(2026, 1, 5, tzinfo=UTC)


def make_events(count: int, *, bad_every: int = 0) -> list[dict[str, Any]]:
    """Make events of one day in 500 series; every so many of them has a status that HTTP does not know."""
    return [
        {
            "time": (START + timedelta(milliseconds=random.randrange(86_400_000))).isoformat(),
            "service": f"service-{random.randrange(10)}",
            "endpoint": f"/api/v1/resource-{random.randrange(50)}",
            "method": "GET",
            "status_code": 999 if bad_every and number % bad_every == 0 else 200,
            "latency_ms": random.randrange(500),
            "trace_id": f"{random.getrandbits(128):032x}",
            "user_ref": f"user-{random.randrange(500)}",
            "tags": {"env": "prod"},
        }
        for number in range(count)
    ]


def bodies(batches: int, batch: int, *, bad_every: int = 0) -> list[bytes]:
    """Encode some batches."""
    return [json.dumps(make_events(batch, bad_every=bad_every)).encode() for _ in range(batches)]


def side_by_side(workers: int, run: Callable[[int], int]) -> float:
    """Run something in threads; return the sum of what they return per second."""
    done = [0] * workers

    def work(number: int) -> None:
        done[number] = run(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def post(port: int, content: Sequence[bytes], batch: int, *, connections: int, events: int) -> float:
    """Post batches over some connections; return events a second."""

    def run(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        batches = range(number, events // batch, connections)
        for at in batches:
            connection.request(
                "POST", "/api/requests/ingest/", content[at % len(content)], {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(text.decode())
        connection.close()
        return len(batches) * batch

    return side_by_side(connections, run)


def wrk(port: int, path: str, *, connections: int = 8, seconds: float = 3) -> float:
    """Ask for one path as fast as it goes; return requests a second."""
    tool = shutil.which("wrk")
    if tool is None:
        raise RuntimeError("wrk is needed: apt-get install wrk")
    url = f"http://127.0.0.1:{port}{path}"
    printed = subprocess.run(
        [tool, "-t1", f"-c{connections}", f"-d{seconds:g}s", url], check=True, capture_output=True, text=True
    ).stdout
    if "Non-2xx" in printed:
        raise RuntimeError(printed)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", printed)
    if found is None:
        raise RuntimeError(printed)
    return float(found[1])
