"""A real service in processes of its own, and the database behind it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec
from psycopg.conninfo import make_conninfo

TIERCEL = Path(sys.executable).parent / "tiercel"
START_TIMEOUT_S = 60
WORKERS = 2


class Service(msgspec.Struct, frozen=True):
    """A running service.

    Args:
        port: On 127.0.0.1.
        conninfo: Its embedded database.
        ready_s: From the start of the process to the first 200 on ``/readyz``.
    """

    port: int
    conninfo: str
    ready_s: float


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int, path: str) -> bool:
    """Tell whether a server answers with 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def process(command: list[str], port: int, ready: str, **environment: str) -> Iterator[float]:
    """Run a server until the block ends; yield the seconds until it was ready."""
    started = time.monotonic()
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not is_ready(port, ready):
            if time.monotonic() - started > START_TIMEOUT_S or child.poll() is not None:
                raise RuntimeError(f"{command[0]} did not become ready")
            time.sleep(0.02)
        yield time.monotonic() - started
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(START_TIMEOUT_S)


@contextmanager
def service(command: str = "serve", **environment: str) -> Iterator[Service]:
    """Run Tiercel on an embedded database of its own, with ``WORKERS`` workers and no request log."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as home:
        given = {
            "TIERCEL_HOME": home,
            "TIERCEL_BIND": f"127.0.0.1:{port}",
            "TIERCEL_WORKERS": str(WORKERS),
            "TIERCEL_LOG__REQUESTS": "false",
            **environment,
        }
        with process([str(TIERCEL), command], port, "/readyz", **given) as ready_s:
            conninfo = make_conninfo("", host=f"{home}/run", user="tiercel", dbname="tiercel")
            yield Service(port, conninfo, ready_s)
