"""A typed route of the kernel, against a bare route of Falcon on the same gunicorn settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.service import free_port, process, service

ROUNDS = 7


def figures() -> Iterator[Figure]:
    """Measure a route that returns a small dict."""
    port = free_port()
    gunicorn = [str(Path(sys.executable).parent / "gunicorn"), "-c", "tests/bench/bare_gunicorn.py"]
    plugins = "system,observability,tests.bench.small"
    with (
        service(TIERCEL_PLUGINS=plugins, PYTHONPATH=".") as running,
        process([*gunicorn, "-b", f"127.0.0.1:{port}", "tests.bench.bare:app"], port, "/small"),
    ):
        wrk(running.port, "/small", seconds=1)
        wrk(port, "/small", seconds=1)
        ratio, typed, bare = in_turn(lambda: wrk(running.port, "/small"), lambda: wrk(port, "/small"), ROUNDS)
    detail = f"{typed:,.0f} requests/s typed, {bare:,.0f} bare"
    yield Figure("typed route against bare Falcon", ratio, 0.8, detail=detail)
