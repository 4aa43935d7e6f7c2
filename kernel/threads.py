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
        on_stop: Called once the event is set, to wake ``run`` if it waits for something else.
    """

    def __init__(
        self, name: str, run: Callable[[threading.Event], None], on_stop: Callable[[], None] | None = None
    ) -> None:
        self._name = name
        self._run = run
        self._on_stop = on_stop
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopping,), name=self._name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Set the event and wait for the thread to end; return whether it has ended.

        Args:
            timeout_s: The longest wait, in seconds; 0 does not wait.
        """
        self._stopping.set()
        if self._on_stop is not None:
            self._on_stop()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive
