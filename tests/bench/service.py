"""A real service in separate processes, and its database."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from tests.processes import GUNICORN, ROOT, TIERCEL, eventually, serving

WORKERS = 2


class Service(msgspec.Struct, frozen=True):
    """A running service.

    Args:
        port: On 127.0.0.1.
        conninfo: Its database: an embedded one, unless the environment names another.
        ready_s: From the start of the process to the first 200 on ``/readyz``.
        workers: The processes that answer.
    """

    port: int
    conninfo: str
    ready_s: float
    workers: list[psutil.Process]

    def empty(self) -> None:
        """Take all events out."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute("TRUNCATE observability.event")


@contextmanager
def service(command: str = "serve", *, program: Sequence[str] = (TIERCEL,), **environment: str) -> Iterator[Service]:
    """Run Tiercel, on a new embedded database and with ``WORKERS`` workers by default, and no request log.

    Args:
        command: What the program is told to do.
        program: How Tiercel is started.
        environment: Of its processes.
    """
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder:
        home = Path(folder) / "home"
        given = {"TIERCEL_WORKERS": str(WORKERS), "TIERCEL_LOG__REQUESTS": "false", **environment}
        workers = int(given["TIERCEL_WORKERS"])
        started = time.monotonic()
        with serving(home, (*program, command), **given) as running:
            ready_s = time.monotonic() - started
            # The first worker answers while the others are being forked. `up` has one more child, which runs jobs.
            if not eventually(lambda: len(running.workers()) >= workers):
                raise RuntimeError(f"{workers} workers did not start")
            embedded = make_conninfo("", host=str(home / "run"), user="tiercel", dbname="tiercel")
            conninfo = given.get("TIERCEL_DATABASE_URL", embedded)
            yield Service(running.port, conninfo, ready_s, running.workers())


@contextmanager
def bare(application: str, **environment: str) -> Iterator[int]:
    """Run another WSGI application on the gunicorn settings of the service; yield its port.

    Args:
        application: ``module:name``; it answers ``/readyz``.
        environment: Of its processes.
    """
    command = (GUNICORN, "-c", str(ROOT / "tests" / "bench" / "bare_gunicorn.py"), application)
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder:
        given = {"TIERCEL_WORKERS": str(WORKERS), **environment}
        with serving(Path(folder) / "home", command, **given) as running:
            yield running.port
