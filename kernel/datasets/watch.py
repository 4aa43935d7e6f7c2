"""Hear of what concerns every process at once, and look now and then should a notification be lost."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, Notify
from psycopg.conninfo import make_conninfo

from kernel.cache import Caches
from kernel.datasets.caches import CLEAR_CHANNEL, LISTENER, REPORT_CHANNEL, write_report
from kernel.datasets.store import QUERIES
from kernel.db.pool import Database
from kernel.errors import UnavailableError
from kernel.logging import Logger

# How soon a lost connection is tried again.
_RETRY_S = 1.0
# How often the thread looks whether it should stop.
_TICK_S = 0.1
# A server that vanished without a word is missed after half a minute, not after two hours.
_KEEPALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4"}


class Watch:
    """A thread that refreshes whenever something may have been published, and does what is asked of all caches.

    Args:
        db: Says where the server is. The connection is one of its own: it waits all the time.
        caches: Of this process.
        poll_interval_s: The longest time between two refreshes.
        refresh: Called at the start, after each publication, and at least once an interval.
        fail: Told why, while that cannot be done.
        log: Hears of lost connections.
    """

    def __init__(
        self,
        db: Database,
        caches: Caches,
        poll_interval_s: float,
        refresh: Callable[[], None],
        fail: Callable[[str], None],
        log: Logger,
    ) -> None:
        self._db = db
        self._caches = caches
        self._poll_interval_s = poll_interval_s
        self._refresh = refresh
        self._fail = fail
        self._log = log
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_lost = False

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
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, UnavailableError, OSError) as ex:
                self._wait(str(getattr(ex, "detail", None) or ex).strip())
            except Exception as ex:
                self._log.exception("dataset_watch_failed")
                self._fail(f"the datasets cannot be read: {ex}")
                self._stopping.wait(self._poll_interval_s)

    def _wait(self, reason: str) -> None:
        self._fail("the database is unavailable")
        if not self._is_lost:
            self._log.warning("dataset_watch_waits", reason=reason)
        self._is_lost = True
        self._stopping.wait(_RETRY_S)

    def _listen(self) -> None:
        conninfo = make_conninfo(self._db.conninfo, application_name=LISTENER, **_KEEPALIVE)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for name in ("listen", "listen_cache", "listen_cache_report"):
                connection.execute(QUERIES[name])
            # What was published before we listened.
            self._refresh()
            self._is_lost = False
            looked = time.monotonic()
            while not self._stopping.is_set():
                heard = list(connection.notifies(timeout=_TICK_S, stop_after=1))
                asked = [each for each in heard if each.channel in (CLEAR_CHANNEL, REPORT_CHANNEL)]
                for each in asked:
                    self._serve(connection, each)
                if len(heard) > len(asked) or time.monotonic() - looked >= self._poll_interval_s:
                    self._refresh()
                    looked = time.monotonic()

    def _serve(self, connection: Connection[Any], heard: Notify) -> None:
        if heard.channel == CLEAR_CHANNEL:
            self._caches.clear(heard.payload)
        else:
            write_report(connection, heard.payload, _process_name(), os.getpid(), self._caches)


def _process_name() -> str:
    return f"{' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])}@{socket.gethostname()}"
