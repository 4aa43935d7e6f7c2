"""Hear at once of new jobs and of jobs that should stop. Polling finds them too, only later."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
from psycopg import sql

from kernel.jobs.store import QUERIES, QUEUE

_CHANNEL = f"procrastinate_queue_v1#{QUEUE}"
_RECONNECT_S = 1.0
# How soon it notices that it should end.
_LOOK_S = 0.2


class Listener:
    """A thread with a connection of its own.

    Args:
        conninfo: Where to listen.
        new_job: Called when there may be something to run.
        abort: Called when a job that runs should stop.
    """

    def __init__(self, conninfo: str, new_job: Callable[[], None], abort: Callable[[], None]) -> None:
        self._conninfo = conninfo
        self._new_job = new_job
        self._abort = abort
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="job-listener", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._ending.set()
        self._thread.join(2)

    def _loop(self) -> None:
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True) as connection:
                    connection.execute(sql.SQL(QUERIES["listen"]).format(channel=sql.Identifier(_CHANNEL)))
                    self._new_job()  # what came before this moment was not heard
                    while not self._ending.is_set():
                        for notification in connection.notifies(timeout=_LOOK_S, stop_after=1):
                            self._pass_on(notification.payload)
            except psycopg.Error:
                self._ending.wait(_RECONNECT_S)

    def _pass_on(self, payload: str) -> None:
        if "abort_job_requested" in payload:
            self._abort()
        else:
            self._new_job()
