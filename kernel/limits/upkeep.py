"""The thread of a process that stores what was counted, and removes what is of no interest any more."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psycopg

from kernel.errors import UnavailableError
from kernel.limits.throttles import Throttles
from kernel.limits.usage import FLUSH_S, Usage
from kernel.threads import BackgroundThread

_REMOVE_THROTTLE_S = 30.0
_REMOVE_USAGE_S = 3600.0


class LimitsUpkeep:
    """Stores counts once a second, tries a storage that is away, and removes old rows now and then.

    Args:
        throttles: Those of the process.
        usage: That of the process.
    """

    def __init__(self, throttles: Throttles, usage: Usage) -> None:
        self._throttles = throttles
        self._usage = usage
        self._thread = BackgroundThread("limits", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and store what was counted."""
        self._thread.stop()
        self._usage.try_flush()

    def _run(self, stopping: threading.Event) -> None:
        # Every process begins with it, so that restarts do not put it off.
        throttle_at = usage_at = time.monotonic()
        while not stopping.wait(FLUSH_S):
            self._usage.try_flush()
            self._throttles.try_again()
            now = time.monotonic()
            # What is not removed now is removed the next time.
            with suppress(UnavailableError, psycopg.Error):
                if now >= throttle_at:
                    throttle_at = now + _REMOVE_THROTTLE_S
                    self._throttles.remove_expired()
                if now >= usage_at:
                    usage_at = now + _REMOVE_USAGE_S
                    self._usage.remove_old()
