"""The thread beside a run: says that this process lives, and passes on the wish to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kernel.errors import UnavailableError
from kernel.jobs.run import Run
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger

_INTERVAL_S = 1.0
_HEARTBEAT_INTERVAL_S = 5.0


class Keeper:
    """Keeps a worker alive in the eyes of the others.

    Args:
        store: Where it says so.
        worker: The number of this worker.
        dead_after_s: Sends heartbeats much more often than this.
        log: Hears of what fails.
        also: Called about once a second.
    """

    def __init__(
        self, store: JobStore, worker: int, dead_after_s: float, log: Logger, also: Callable[[], None] | None = None
    ) -> None:
        self.wake = threading.Event()
        self._store = store
        self._worker = worker
        self._log = log
        self._also = also
        self._interval_s = min(_INTERVAL_S, dead_after_s / 4)
        self._beats_every = max(1, int(min(_HEARTBEAT_INTERVAL_S, dead_after_s / 4) / self._interval_s))
        self._current: tuple[Claim, Run] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="job-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop it; wait for what it does at the moment, but not for long."""
        self._ending.set()
        self.wake.set()
        self._thread.join(2)

    def watch(self, claim: Claim | None, run: Run | None) -> None:
        """Look after a run, or after none."""
        self._current = (claim, run) if claim is not None and run is not None else None

    def _loop(self) -> None:
        round_number = 0
        while not self._ending.is_set():
            try:
                if round_number % self._beats_every == 0:
                    self._store.heartbeat(self._worker)
                self._pass_on()
                if self._also is not None:
                    self._also()
            except UnavailableError:
                # The database is away. It comes back, or the others take over.
                round_number = -1
            except Exception:
                self._log.exception("job_keeper_failed")
            round_number += 1
            self.wake.wait(self._interval_s)
            self.wake.clear()

    def _pass_on(self) -> None:
        current = self._current
        if current is None:
            return
        claim, run = current
        # What came too soon after another would not be seen before the next, which may be long in coming.
        run.write_progress()
        valid, cancelled = self._store.read_wish(claim)
        if self._current is not current:
            return
        if not valid:
            run.stop("taken over")
        elif cancelled:
            run.stop("cancelled")
