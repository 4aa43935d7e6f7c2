"""Keep worker processes alive: a process that forks them and starts another for each that dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from kernel.jobs.here import make_worker_id
from kernel.logging import Logger

# How soon a child that ended is noticed. A signal ends a sleep at once.
_LOOK_S = 0.1
_RESTART_WAIT_S = 1.0
# Beyond the graceful timeout, for what a worker does after its job: last words, and the shutdown of plugins.
_GRACE_S = 8.0

Work = Callable[[int, int | None, Callable[[], bool]], None]


class _Child(msgspec.Struct, frozen=True):
    worker: int
    started: float


class Supervisor:
    """Forks workers. Has neither threads nor connections of its own, so that a fork is safe.

    Args:
        processes: How many workers.
        graceful_timeout_s: What they have to stop.
        log: Hears of those that die.
        work: Called in each child with its number, that of its dead predecessor, and what tells it that it is an
            orphan; returns when it should end.
        parent: End when this process is no longer the parent; None to stay.
    """

    def __init__(
        self, processes: int, graceful_timeout_s: float, log: Logger, work: Work, parent: int | None = None
    ) -> None:
        self._processes = processes
        self._graceful_timeout_s = graceful_timeout_s
        self._log = log
        self._work = work
        self._parent = parent
        self._children: dict[int, _Child] = {}
        self._stopping = False

    def run(self) -> None:
        """Keep the workers alive until SIGTERM, SIGINT or the end of the parent; then stop them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        for _ in range(self._processes):
            self._spawn(None)
        while not self._stopping:
            time.sleep(_LOOK_S)
            self._reap(replace=True)
            if self._parent is not None and os.getppid() != self._parent:
                self._stopping = True
        self._stop_children()

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _spawn(self, predecessor: int | None) -> None:
        worker, me = make_worker_id(), os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._children[pid] = _Child(worker, time.monotonic())
            return
        # No way out of here but this: the stack belongs to the parent.
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._work(worker, predecessor, lambda: os.getppid() != me)
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
            time.sleep(max(0.0, child.started + _RESTART_WAIT_S - time.monotonic()))
            if not self._stopping:
                self._spawn(child.worker)

    def _stop_children(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + self._graceful_timeout_s + _GRACE_S
        while self._children and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            self._reap(replace=False)
        self._signal(signal.SIGKILL)
        while self._children:
            time.sleep(_LOOK_S)
            self._reap(replace=False)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)
