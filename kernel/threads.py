"""Background threads: started after the fork, asked to stop, waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundThread:
    """A daemon thread that runs a function until it is asked to stop.

    Threads do not survive a fork: start it in the process that needs it. It can be started again once it was stopped.

    Args:
        name: Shown by debuggers.
        run: Called with an event; returns soon after that is set.
    """

    def __init__(self, name: str, run: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._run = run
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopping,), name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask the thread to stop, and wait for it.

        Args:
            timeout_s: Do not wait longer; 0 does not wait at all.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None
