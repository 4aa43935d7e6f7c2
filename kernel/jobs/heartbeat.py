"""The heartbeat of a worker: shows that it is alive, and polls for the cancellation of its run."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kernel.errors import UnavailableError
from kernel.jobs.runner import Run
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger
from kernel.threads import BackgroundThread

_TICK_S = 1.0
_HEARTBEAT_INTERVAL_S = 5.0


class Heartbeat:
    """The heartbeat thread of a worker. About once a second it stores progress and polls for cancellation.

    Args:
        store: Where heartbeats go.
        worker: Id of the worker.
        dead_after_s: Heartbeats are sent at least four times as often.
        log: Gets errors of the thread.
        on_tick: Called about once a second.
    """

    def __init__(
        self,
        store: JobStore,
        worker: int,
        dead_after_s: float,
        log: Logger,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._worker = worker
        self._log = log
        self._on_tick = on_tick
        self._tick_s = min(_TICK_S, dead_after_s / 4)
        self._ticks_per_heartbeat = max(1, int(min(_HEARTBEAT_INTERVAL_S, dead_after_s / 4) / self._tick_s))
        self._current: tuple[Claim, Run] | None = None
        self._wake = threading.Event()
        self._thread = BackgroundThread("job-heartbeat", self._run, self.wake)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; do not wait for long if the database does not answer."""
        self._thread.stop(2)

    def wake(self) -> None:
        """Poll for cancellation now."""
        self._wake.set()

    def watch(self, claim: Claim, run: Run) -> None:
        """Set the current run."""
        self._current = (claim, run)

    def unwatch(self) -> None:
        """Clear the current run, because it ended."""
        self._current = None

    def _run(self, stopping: threading.Event) -> None:
        tick = 0
        while not stopping.is_set():
            try:
                if tick % self._ticks_per_heartbeat == 0:
                    self._store.heartbeat(self._worker)
                self._poll_cancellation()
                self._on_tick()
            except UnavailableError:
                # The database is unavailable. Send a heartbeat as soon as it is back.
                tick = -1
            except Exception:
                self._log.exception("job_heartbeat_failed")
            tick += 1
            self._wake.wait(self._tick_s)
            self._wake.clear()

    def _poll_cancellation(self) -> None:
        current = self._current
        if current is None:
            return
        claim, run = current
        # The run itself limits how often it stores progress; the latest may not be stored yet.
        run.write_progress()
        valid, cancelled = self._store.poll_cancellation(claim)
        if self._current is not current:
            return
        if not valid:
            run.stop("taken over")
        elif cancelled:
            run.stop("cancelled")
