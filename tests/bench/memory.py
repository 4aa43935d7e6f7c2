"""Memory of the workers: after many events, and while large bodies are received."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil

from kernel.cli.output import progress
from tests.bench.figures import Figure
from tests.bench.load import bodies, make_events, post, send
from tests.bench.service import Service, service

MILLION = 1_000_000
BATCH = 1_000
CONNECTIONS = 4
# More than the workers have threads, however they fall to them.
WARM_CONNECTIONS = 40
MILLIONS = 3
MILLIONS_FULL = 10
LARGE_BYTES = 50_000_000
LARGE_EVENTS = 100_000
LARGE_SENDS = 6


def figures(full: bool) -> Iterator[Figure]:
    """Measure resident memory from the first million events on, and its peak with bodies of 50 MB."""
    with service() as running:
        yield _growth(running, MILLIONS_FULL if full else MILLIONS)
    with service() as running:
        yield _peak(running)


def _growth(running: Service, millions: int) -> Figure:
    content = bodies(40, BATCH)
    sizes: list[list[int]] = []
    # Threads and database connections are made when they are needed: all of them before anything is compared.
    post(running.port, content, BATCH, connections=WARM_CONNECTIONS, events=MILLION // 5)
    with progress("events", total=millions * MILLION) as bar:
        for _ in range(millions):
            post(running.port, content, BATCH, connections=CONNECTIONS, events=MILLION)
            bar.advance(MILLION)
            sizes.append([worker.memory_info().rss for worker in running.workers])
            running.empty()
    worst = max(last / first for first, last in zip(sizes[0], sizes[-1], strict=True))
    detail = f"{_mb(*sizes[0])} MB after 1 million, {_mb(*sizes[-1])} MB at the end"
    return Figure(f"memory of a worker, {millions} million events against 1", worst, 1.05, "at most", detail=detail)


def _peak(running: Service) -> Figure:
    body = _large_body()
    before = [worker.memory_info().rss for worker in running.workers]
    for worker in running.workers:
        _forget_peak(worker)
    for _ in range(LARGE_SENDS):
        # A new connection each time, so that every worker gets some.
        connection = HTTPConnection("127.0.0.1", running.port, timeout=60)
        send(connection, body, {})
        connection.close()
    peaks = [peak_bytes(worker) for worker in running.workers]
    ratio = max(peak - start for peak, start in zip(peaks, before, strict=True)) / len(body)
    detail = f"from {_mb(*before)} MB to {_mb(*peaks)} MB with {_mb(len(body))} MB"
    return Figure("peak memory beyond rest, in bodies", ratio, 4.0, "at most", detail=detail)


def _large_body() -> bytes:
    """Make as many events as a body may hold, with tags that bring it to its size."""
    events = make_events(LARGE_EVENTS)
    missing_bytes = (LARGE_BYTES - len(json.dumps(events))) // LARGE_EVENTS
    for event in events:
        event["tags"]["note"] = "x" * (missing_bytes - len(', "note": ""'))
    return json.dumps(events).encode()


def _forget_peak(process: psutil.Process) -> None:
    # https://docs.kernel.org/filesystems/proc.html: 5 sets the peak back to what is resident now.
    Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(process: psutil.Process) -> int:
    """Return how much was resident at most since ``_forget_peak``, or ever."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _mb(*sizes_bytes: int) -> str:
    return " and ".join(f"{size_bytes / 1e6:.0f}" for size_bytes in sizes_bytes)
