"""Keep worker processes running: a process that forks them, and starts another for each that dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from kernel.jobs.store import make_worker_id
from kernel.logging import Logger

# How soon a child that ended is noticed, or that this process should stop.
_POLL_S = 0.1
_RESTART_WAIT_S = 1.0
# Beyond the graceful timeout, for what a worker does after its job: its last statement, and the shutdown of plugins.
GRACE_S = 8.0

RunWorker = Callable[[int, int | None, Callable[[], bool]], None]


class _Child(msgspec.Struct, frozen=True):
    worker_id: int
    started_at: float


class Supervisor:
    """Forks workers. Has no threads and no connections of its own, so that a fork is safe.

    Args:
        processes: How many workers.
        graceful_timeout_s: What they have to stop.
        log: Gets a line about each that dies.
        run_worker: Called in each child with its worker id, that of the dead worker it replaces, and a function that
            tells whether this process is gone; returns when the child should end.
        parent: Pid of the process to end with; None for none.
    """

    def __init__(
        self, processes: int, graceful_timeout_s: float, log: Logger, run_worker: RunWorker, parent: int | None = None
    ) -> None:
        self._processes = processes
        self._graceful_timeout_s = graceful_timeout_s
        self._log = log
        self._run_worker = run_worker
        self._parent = parent
        self._children: dict[int, _Child] = {}
        self._stopping = False

    def run(self) -> None:
        """Keep the workers running until SIGTERM, SIGINT or the end of the parent; then stop them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        for _ in range(self._processes):
            self._spawn(None)
        while not self._stopping:
            time.sleep(_POLL_S)
            self._reap(replace=True)
            if self._parent is not None and os.getppid() != self._parent:
                self._stopping = True
        self._stop_children()

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _spawn(self, dead_worker: int | None) -> None:
        worker_id, me = make_worker_id(), os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._children[pid] = _Child(worker_id, time.monotonic())
            return
        # It must not return from here: the stack belongs to the parent.
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._run_worker(worker_id, dead_worker, lambda: os.getppid() != me)
            code = 0
        except BaseException:
            self._log.exception("worker_failed")
        finally:
            os._exit(code)

    def _reap(self, *, replace: bool) -> None:
        for pid, child in list(self._children.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            del self._children[pid]
            if not replace or self._stopping:
                continue
            self._log.warning("worker_ended", pid=pid, status=os.waitstatus_to_exitcode(status))
            # One that cannot even start must not keep the machine busy.
            time.sleep(max(0.0, child.started_at + _RESTART_WAIT_S - time.monotonic()))
            if not self._stopping:
                self._spawn(child.worker_id)

    def _stop_children(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + self._graceful_timeout_s + GRACE_S
        while self._children and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self._reap(replace=False)
        self._signal(signal.SIGKILL)
        while self._children:
            time.sleep(_POLL_S)
            self._reap(replace=False)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)
