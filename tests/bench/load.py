"""Clients: as little work of their own as possible, because they share the machine with the server."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

INGEST = "/api/requests/ingest/"
START = datetime(2026, 1, 5, tzinfo=UTC)


DAY = timedelta(days=1)


def make_events(
    count: int, *, bad_every: int = 0, span: timedelta = DAY, start: datetime = START
) -> list[dict[str, Any]]:
    """Make events of one day in 500 series; every so many of them has a status that HTTP does not know."""
    span_ms = span // timedelta(milliseconds=1)
    return [
        {
            "time": (start + timedelta(milliseconds=random.randrange(span_ms))).isoformat(),
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


def bodies(
    batches: int, batch: int, *, bad_every: int = 0, span: timedelta = DAY, start: datetime = START
) -> list[bytes]:
    """Encode some batches."""
    return [
        json.dumps(make_events(batch, bad_every=bad_every, span=span, start=start)).encode() for _ in range(batches)
    ]


def side_by_side(workers: int, run: Callable[[int], int]) -> float:
    """Run something in threads; return the sum of what they return per second. What one raises, this raises."""
    with ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        done = sum(pool.map(run, range(workers)))
        return done / (time.perf_counter() - started)


def post(
    port: int,
    content: Sequence[bytes],
    batch: int,
    *,
    connections: int,
    events: int,
    headers: Callable[[int], Mapping[str, str]] = lambda _: {},
    path: str = INGEST,
) -> float:
    """Post batches over some connections; return events a second.

    Args:
        port: On 127.0.0.1.
        content: Encoded batches, sent over and over.
        batch: Events in each.
        connections: How many send side by side.
        events: In all.
        headers: Further headers of the request of that number.
        path: Where to.
    """

    def run(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        batches = range(number, events // batch, connections)
        for at in batches:
            send(connection, content[at % len(content)], headers(at), path)
        connection.close()
        return len(batches) * batch

    return side_by_side(connections, run)


def send(connection: HTTPConnection, content: bytes, headers: Mapping[str, str], path: str = INGEST) -> None:
    """Post one batch and wait until it is taken."""
    connection.request("POST", path, content, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(text.decode())


def wrk(
    port: int, path: str, *, connections: int = 16, seconds: float = 3, headers: Mapping[str, str] | None = None
) -> float:
    """Ask for one path as fast as it goes; return requests a second.

    Args:
        port: On 127.0.0.1.
        path: What to ask for.
        connections: Enough that every worker gets some.
        seconds: For how long.
        headers: Further ones.
    """
    found = re.search(r"Requests/sec:\s+([0-9.]+)", _run_wrk(port, path, connections, seconds, headers or {}))
    if found is None:
        raise RuntimeError("wrk printed no rate")
    return float(found[1])


def wrk_p50_ms(port: int, path: str, *, seconds: float = 1) -> float:
    """Ask for one path over one kept-alive connection; return the median time to the answer.

    No client of ours is in what is measured: one in Python takes as long as a small route does.

    Args:
        port: On 127.0.0.1.
        path: What to ask for.
        seconds: For how long.
    """
    found = re.search(r"50%\s+([0-9.]+)(us|ms|s)\b", _run_wrk(port, path, 1, seconds, {}))
    if found is None:
        raise RuntimeError("wrk printed no median")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _run_wrk(port: int, path: str, connections: int, seconds: float, headers: Mapping[str, str]) -> str:
    tool = shutil.which("wrk")
    if tool is None:
        raise RuntimeError("wrk is needed: apt-get install wrk")
    url = f"http://127.0.0.1:{port}{path}"
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    printed = subprocess.run(
        [tool, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", *given, url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in printed:
        raise RuntimeError(printed)
    return printed
