"""Background threads: started after the fork, stopped with an event, joined with a timeout; and calls that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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


class SharedCall(Generic[T]):
    """Calls a function in a thread of its own, which may hang, at most one at a time.

    Who asks while it runs waits for the same call, so that one that hangs forever costs one thread, not one for each
    who asks.

    Args:
        name: Name of the thread, for debuggers.
        call: The function.
    """

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self._name = name
        self._call = call
        self._done = threading.Event()
        self._done.set()
        self._lock = threading.Lock()
        self._started: float | None = None
        self._took_s = 0.0
        self._result: T | None = None
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin a call, unless one is running."""
        with self._lock:
            if not self._done.is_set():
                return
            self._done.clear()
            self._started = time.monotonic()
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def wait(self, timeout_s: float) -> T | None:
        """Return what the latest call returned; None if it raised, see ``error``, or has not ended in time.

        Args:
            timeout_s: From the beginning of that call.
        """
        self.is_over(timeout_s)
        return self._result if self._done.is_set() else None

    def is_over(self, timeout_s: float) -> bool:
        """Wait for the end of the latest call; return whether it has ended in time."""
        started = time.monotonic() if self._started is None else self._started
        return self._done.wait(max(started + timeout_s - time.monotonic(), 0))

    @property
    def took_s(self) -> float:
        """How long the latest call took, or has been running so far."""
        return self._took_s if self._done.is_set() or self._started is None else time.monotonic() - self._started

    @property
    def age_s(self) -> float:
        """How long ago the latest call began, if it succeeded; infinite otherwise."""
        is_good = self._started is not None and self._done.is_set() and self.error is None
        return time.monotonic() - self._started if is_good and self._started is not None else float("inf")

    def _run(self) -> None:
        try:
            self._result, self.error = self._call(), None
        except Exception as ex:
            self._result, self.error = None, ex
        finally:
            self._took_s = time.monotonic() - (self._started or 0.0)
            self._done.set()
