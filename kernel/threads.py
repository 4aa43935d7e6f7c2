"""Background threads: started after the fork, stopped with an event, joined with a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundThread:
    """A daemon thread that runs a function until it is stopped. It can be started again after that.

    Threads do not survive a fork: start it in the process that needs it.

    Args:
        name: Name of the thread, for debuggers.
        run: Called in the thread with an event; must return soon after the event is set.
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
        """Set the event and wait for the thread to end.

        Args:
            timeout_s: The longest wait, in seconds; 0 does not wait.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None
