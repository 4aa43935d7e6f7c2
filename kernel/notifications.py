"""Notifications between processes: PostgreSQL's LISTEN and NOTIFY, with polling for those that get lost.

Behind a pooler, which gives a session to another client after each transaction, there is nothing to listen with, and
polling is all that is left. ``db.direct_url`` leads past it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo

from kernel.db.engine import is_pooled
from kernel.db.failures import describe
from kernel.db.pool import QUERIES
from kernel.errors import BootError, UnavailableError
from kernel.logging import Logger
from kernel.threads import BackgroundThread

# What a subscriber may raise while the database is unavailable; any other exception is a bug of the subscriber.
DATABASE_ERRORS = (psycopg.Error, UnavailableError, OSError)

_RECONNECT_S = 1.0
# Where notifications cannot be heard, others are noticed this late at most: such as that a session was signed out.
UNHEARD_POLL_S = 2.0
# How often the thread checks whether it should stop, should nothing wake it.
_TICK_S = 1.0
# A server that vanished without closing its connections is noticed after half a minute, not after two hours.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4"}


class _Subscription(msgspec.Struct, frozen=True):
    channel: str
    receive: Callable[[Sequence[str]], None]
    poll: Callable[[], None] | None
    on_failure: Callable[[Exception], None] | None


class NotificationListener:
    """Listens for notifications in a background thread, on a dedicated connection.

    A notification that is sent while the connection is down is lost. Subscribers therefore poll as well: whenever the
    connection was made, and once an interval.

    Args:
        conninfo: Where the server is.
        name: Of the connection (``application_name``) and of the thread.
        poll_interval_s: The longest time between two polls.
        log: Gets lost connections and subscribers that fail.
    """

    def __init__(self, conninfo: str, *, name: str, poll_interval_s: float, log: Logger) -> None:
        self._conninfo = make_conninfo(conninfo, application_name=name, **_KEEPALIVES)
        self._name = name
        self._poll_interval_s = poll_interval_s
        self._log = log
        self._subscriptions: list[_Subscription] = []
        self._is_lost = False
        self._is_polling = False
        self._connection: Connection[Any] | None = None
        self._thread = BackgroundThread(name, self._run, on_stop=self._wake)

    def subscribe(
        self,
        channel: str,
        receive: Callable[[Sequence[str]], None],
        *,
        poll: Callable[[], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Subscribe to a channel. Call it before ``start``; the functions are called in the thread.

        Args:
            channel: Name of the channel.
            receive: Called with the payloads that arrived together, in the order in which they were sent.
            poll: Called after each connect and once an interval, to find what a lost notification would have told.
            on_failure: Called with the error while the database cannot be reached, or when one of the other two raised.
        """
        self._subscriptions.append(_Subscription(channel, receive, poll, on_failure))

    @property
    def is_listening(self) -> bool:
        """Whether notifications arrive; if not, nothing is heard of other processes until the database is back."""
        connection = self._connection
        return connection is not None and not connection.closed and not self._is_lost

    def check(self) -> str:
        """Health check: tell how this process hears of others.

        Raises:
            BootError: It does not, until the database is back.
        """
        if self._is_lost:
            raise BootError("notifications of other processes cannot be received")
        if self._is_polling:
            return f"polling every {min(self._poll_interval_s, UNHEARD_POLL_S):g} s: db.direct_url is not set"
        return "listening" if self.is_listening else "connecting"

    def start(self) -> None:
        """Start listening. After the fork."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._thread.stop()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self._listen(stopping)
            except DATABASE_ERRORS as ex:
                if not stopping.is_set():
                    self._report_outage(ex)
                    stopping.wait(_RECONNECT_S)

    def _wake(self) -> None:
        """End the wait for notifications: nothing more can be read from the connection."""
        connection = self._connection
        if connection is not None and not connection.closed:
            # The descriptor may be closed in this very moment, by the thread itself.
            with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RD)

    def _listen(self, stopping: threading.Event) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            self._is_polling = is_pooled(connection)
            if not self._is_polling:
                self._receive(connection, stopping)
                return
        while not stopping.is_set():
            self._poll()
            self._is_lost = False
            stopping.wait(min(self._poll_interval_s, UNHEARD_POLL_S))

    def _receive(self, connection: Connection[Any], stopping: threading.Event) -> None:
        self._connection = connection
        for each in self._subscriptions:
            connection.execute(sql.SQL(QUERIES["listen"]).format(channel=sql.Identifier(each.channel)))
        self._poll()
        self._is_lost = False
        polled_at = time.monotonic()
        while not stopping.is_set():
            due_in_s = polled_at + self._poll_interval_s - time.monotonic()
            received = list(connection.notifies(timeout=max(0.01, min(_TICK_S, due_in_s)), stop_after=1))
            for each in self._subscriptions:
                payloads = [one.payload for one in received if one.channel == each.channel]
                if payloads:
                    self._call(each, each.receive, payloads)
            if time.monotonic() - polled_at >= self._poll_interval_s:
                self._poll()
                polled_at = time.monotonic()

    def _poll(self) -> None:
        for each in self._subscriptions:
            if each.poll is not None:
                self._call(each, each.poll)

    def _call(self, subscription: _Subscription, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except DATABASE_ERRORS:
            # Connect anew: that polls as soon as the database is back, not an interval later.
            raise
        except Exception as ex:
            self._log.exception("notification_failed", channel=subscription.channel)
            if subscription.on_failure is not None:
                subscription.on_failure(ex)

    def _report_outage(self, error: Exception) -> None:
        for each in self._subscriptions:
            if each.on_failure is not None:
                each.on_failure(error)
        # Once an outage, not once an attempt.
        if not self._is_lost:
            self._log.warning("notifications_lost", listener=self._name, reason=describe(error))
        self._is_lost = True


def notify(connection: Connection[Any], channel: str, payload: str = "") -> None:
    """Notify every process that listens to a channel, once the transaction is committed.

    Args:
        connection: In a transaction, or in autocommit mode.
        channel: Name of the channel.
        payload: PostgreSQL takes less than 8000 bytes.
    """
    connection.execute(QUERIES["notify"], {"channel": channel, "payload": payload})
