"""Hear of new versions at once, and look now and then should a notification be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg

from kernel.datasets.store import QUERIES
from kernel.db.pool import Database
from kernel.errors import UnavailableError
from kernel.log import Logger

# How soon a lost connection is tried again.
_RETRY_S = 1.0
# How often the thread looks whether it should stop.
_TICK_S = 0.5


class Watch:
    """A thread that calls back whenever something may have been published.

    Args:
        db: Says where the server is. The connection is one of its own: it waits all the time.
        poll_interval_s: The longest time between two calls.
        changed: Called at the start, after each notification, and at least once an interval.
        log: Hears of lost connections.
    """

    def __init__(self, db: Database, poll_interval_s: float, changed: Callable[[], None], log: Logger) -> None:
        self._db = db
        self._poll_interval_s = poll_interval_s
        self._changed = changed
        self._log = log
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start watching. After the fork."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="dataset-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    def _run(self) -> None:
        lost = False
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, UnavailableError, OSError) as ex:
                if not lost:
                    self._log.warning("dataset_watch_waits", reason=str(ex).strip())
                lost = True
                self._stopping.wait(_RETRY_S)
            except Exception:
                self._log.exception("dataset_watch_failed")
                self._stopping.wait(self._poll_interval_s)
            else:
                lost = False

    def _listen(self) -> None:
        with psycopg.connect(self._db.conninfo, autocommit=True) as connection:
            connection.execute(QUERIES["listen"])
            # What was published before we listened.
            self._changed()
            looked = time.monotonic()
            while not self._stopping.is_set():
                heard = list(connection.notifies(timeout=_TICK_S, stop_after=1))
                if heard or time.monotonic() - looked >= self._poll_interval_s:
                    self._changed()
                    looked = time.monotonic()
