"""``tiercel worker``, and the supervisor that ``tiercel up`` runs next to the web server."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import click

from kernel.app import Tiercel
from kernel.config import load
from kernel.errors import BootError
from kernel.jobs.supervisor import Supervisor
from kernel.jobs.worker import Worker
from kernel.package_names import own_version

# The web server starts first: two more processes that start would slow it down.
_DELAY_S = 1.5
_STOP_POLL_S = 0.05
# Beyond the time that the supervisor gives its workers.
_STOP_WAIT_S = 5.0


@click.command()
def worker() -> None:
    """Run jobs: worker processes, and another for each that dies."""
    service = Tiercel(load())
    service.prepare()
    service.shared.metrics.reset()
    try:
        _supervise(service)
    finally:
        service.close()


def fork_worker(service: Tiercel, begin: Callable[[], None]) -> int:
    """Run jobs in a child process that ends with this one; return its pid.

    Args:
        service: Prepared, without threads.
        begin: What the child does first.
    """
    me = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        begin()
        # Until the supervisor installs its handlers: a child that just died would leave the embedded server running.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if service.server is not None:
            service.server.acquire_after_fork()
        try:
            time.sleep(_DELAY_S)
            _supervise(service, parent=me)
        finally:
            service.close()
        code = 0
    except KeyboardInterrupt:
        code = 0
    except BaseException:
        service.log.exception("worker_failed")
    finally:
        os._exit(code)


def stop_worker(pid: int, timeout_s: float) -> None:
    """Stop what ``fork_worker`` started, and wait for its end; kill it if that takes too long."""
    deadline = time.monotonic() + timeout_s + _STOP_WAIT_S
    # gunicorn reaps every child that ends.
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGTERM)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(_STOP_POLL_S)


def _supervise(service: Tiercel, parent: int | None = None) -> None:
    jobs = service.settings.jobs
    _log_start(service)
    service.before_fork()

    def run_worker(worker_id: int, dead_worker: int | None, is_orphan: Callable[[], bool]) -> None:
        shared = service.shared
        service.start("jobs")
        try:
            worker = Worker(
                worker_id,
                shared.jobs.registry,
                shared.db,
                jobs,
                shared.clock.now,
                service.log,
                dead_worker,
                shared.jobs.log_files,
                service.tracing,
                shared.jobs.metrics,
            )
            worker.run(is_orphan)
        finally:
            service.stop()

    Supervisor(jobs.processes, jobs.graceful_timeout_s, service.log, run_worker, parent).run()


def _log_start(service: Tiercel) -> None:
    """Log what the worker serves."""
    registry, processes = service.shared.jobs.registry, service.settings.jobs.processes
    try:
        # Not through the pool, which must not be open when the workers are forked.
        engine = service.db.wait_for_server(0)
        database = f"{engine.name} {engine.version}, {engine.database}{', embedded' if engine.embedded else ''}"
    except BootError as ex:
        database = str(ex)  # the workers wait for it
    service.log.info(
        "worker_started",
        version=own_version(),
        processes=processes,
        jobs=len(registry.names),
        schedules=len(registry.schedules),
        database=database,
    )
