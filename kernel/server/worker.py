"""gunicorn's threaded worker, whose threads never wait for a client that has not sent its head."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial

from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from kernel.server.response import ServerResponse

# A head beyond this goes to the parser as it is, which refuses it by gunicorn's own limits.
_HEAD_MAX_BYTES = 64 * 1024
_HEAD_ENDS = (b"\r\n\r\n", b"\n\n")
# A stopping worker waits this long for a head that may be under way; gunicorn does the same for kept-alive connections.
_LINGER_S = 2.0
_REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Waiting:
    """A connection without a whole head, since when, and how much of it is there."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.size_bytes = 0


class HeadFirstWorker(ThreadWorker):
    """Hands a connection to a thread once the head of its request is there.

    gunicorn gives a new connection to a thread at once, so that as many half-sent heads as there are threads stop a
    worker. Here they wait in the poller, which costs a socket each, and have one time limit for the whole head: a
    client that sends a byte now and then gains nothing.
    """

    header_timeout_s: float = 10.0
    # Called when it begins to stop, before it waits for the requests of that moment; gunicorn has no such hook.
    on_stopping: Callable[[], None] | None = None

    def init_process(self) -> None:
        """Begin with nobody waiting."""
        self._waiting: dict[TConn, _Waiting] = {}
        # The request log is Tiercel's own; gunicorn would put a line together for each request, and show it to nobody.
        self.log.access = _no_access_log  # type: ignore[method-assign] # no setting does it once logging is configured
        wsgi.Response = ServerResponse  # type: ignore[misc] # nor is there a setting for what writes answers
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection to a thread, or wait for the rest of its head."""
        if self._has_head(conn):
            if self._waiting.pop(conn, None) is not None:
                # Otherwise the thread would wait for more than the client owes.
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            conn.data_ready = True
            super().enqueue_req(conn)
        else:
            conn.sock.settimeout(0)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._look_again, conn))

    def murder_pending(self) -> None:
        """Drop connections whose head took too long."""
        super().murder_pending()
        limit_s = self.header_timeout_s if self.alive else min(_LINGER_S, self.header_timeout_s)
        now = time.monotonic()
        for conn in [conn for conn, waiting in self._waiting.items() if now - waiting.since >= limit_s]:
            self._drop(conn)

    def set_accept_enabled(self, enabled: bool | None) -> None:  # noqa: FBT001 - gunicorn's name for it
        """Stop listening when the worker stops, and take those who came before.

        gunicorn would keep the socket until the last kept-alive connection is through: whoever connects meanwhile is
        queued by the system, and cut off in the end.
        """
        super().set_accept_enabled(enabled)
        if self.alive or enabled:
            return
        if self.on_stopping is not None:
            self.on_stopping()
        for listener in self.sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._take(listener)
            listener.close()

    def _take(self, listener: socket.socket) -> None:
        client, address = listener.accept()
        self.nr_conns += 1
        self.enqueue_req(TConn(self.cfg, client, address, listener.getsockname()))

    def _look_again(self, conn: TConn, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.enqueue_req(conn)

    def _has_head(self, conn: TConn) -> bool:
        """Tell whether a thread would not have to wait: the head is there, or none will ever come."""
        if conn.cfg.is_ssl or _has_read_ahead(conn):
            return True
        try:
            seen = conn.sock.recv(_HEAD_MAX_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._waiting.setdefault(conn, _Waiting(time.monotonic()))
            return False
        except OSError:
            return True
        waiting = self._waiting.get(conn)
        # Woken up with no more to read than before: the client hung up.
        ended = not seen or (waiting is not None and len(seen) <= waiting.size_bytes)
        if ended or len(seen) >= _HEAD_MAX_BYTES or any(end in seen for end in _HEAD_ENDS):
            return True
        waiting = self._waiting.setdefault(conn, _Waiting(time.monotonic()))
        waiting.size_bytes = len(seen)
        # What was seen stays in the socket: wake up for more than that only.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(seen) + 1)
        return False

    def _drop(self, conn: TConn) -> None:
        waiting = self._waiting.pop(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        # A client that sent nothing at all is no fault: browsers open connections ahead of need.
        if waiting.size_bytes:
            self.log.warning("dropped a client that stopped sending")
            with contextlib.suppress(OSError):
                # Closing on bytes that nobody read resets the connection, and the answer may be lost with it.
                conn.sock.recv(_HEAD_MAX_BYTES, socket.MSG_DONTWAIT)
                conn.sock.send(_REQUEST_TIMEOUT)
        conn.close()


def _no_access_log(resp: object, req: object, environ: object, request_time: object) -> None:
    """Stand in for gunicorn's access log."""


def _has_read_ahead(conn: TConn) -> bool:
    # The parser may hold the beginning of the next request already; the poller cannot see that.
    unreader = getattr(conn.parser, "unreader", None)
    return unreader is not None and bool(unreader.buf.getvalue())
