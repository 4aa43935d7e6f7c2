"""``tiercel worker``, and the one that ``tiercel up`` runs beside the web."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import click

from kernel.app import Tiercel
from kernel.config import load
from kernel.jobs.chores import Chores
from kernel.jobs.scheduler import Scheduler
from kernel.jobs.supervisor import Supervisor
from kernel.jobs.worker import Worker

# The web comes first: two more processes that start would slow its start.
_HEAD_START_S = 1.5


@click.command()
def worker() -> None:
    """Run jobs: worker processes, and another for each that dies."""
    service = Tiercel(load())
    service.prepare()
    try:
        _supervise(service)
    finally:
        service.close()


def fork_worker(service: Tiercel) -> int:
    """Run jobs in a process beside this one, which ends with it; return its number.

    Args:
        service: Prepared, without threads.
    """
    me = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # Until the supervisor has its own: whoever just died here would leave the embedded server running.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if service.server is not None:
            service.server.acquire_after_fork()
        try:
            time.sleep(_HEAD_START_S)
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


def stop_worker(pid: int) -> None:
    """Stop what ``fork_worker`` started, and wait until it did."""
    try:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # gunicorn takes note of every child that ends


def _supervise(service: Tiercel, parent: int | None = None) -> None:
    jobs = service.settings.jobs

    def work(number: int, predecessor: int | None, is_orphan: Callable[[], bool]) -> None:
        _work(service, number, predecessor, is_orphan)

    Supervisor(jobs.processes, jobs.graceful_timeout_s, service.log, work, parent).run()


def _work(service: Tiercel, number: int, predecessor: int | None, is_orphan: Callable[[], bool]) -> None:
    shared, settings = service.shared, service.settings.jobs
    service.start()
    try:
        scheduler = Scheduler(shared.db, shared.jobs.catalogue, shared.clock.now, service.log)
        chores = Chores(shared.db, settings, service.log, scheduler, predecessor)
        Worker(number, shared.jobs, shared.db, settings, service.log, chores).run(is_orphan)
    finally:
        service.stop()
