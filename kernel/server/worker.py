"""gunicorn's threaded worker, changed so that no client delays others.

No thread waits for the head (request line and headers) of a request, a thread that waits for a body, or for a response
to be read, leaves its turn to others, and nothing waits for a client to close its side of a connection. What the server
answers itself has the body of every other error.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

from kernel.errors import ApiError, InternalError, OtherClientError
from kernel.http.access_log import RejectedRequest
from kernel.http.request import make_context
from kernel.server.client_socket import ClientLimits, ClientSocket
from kernel.server.error_responses import as_api_error, encode_error_response, read_headers
from kernel.server.request import Connection, apply_target
from kernel.server.response import ServerResponse
from kernel.server.thread_pool import RequestThreadPool

# A larger head goes to the parser incomplete, which rejects it by gunicorn's own limits.
_HEAD_MAX_BYTES = 64 * 1024
# Also those with a line feed alone, which the parser refuses: nothing more will come.
_HEAD_ENDS = (b"\n\r\n", b"\n\n")
# How long a stopping worker waits for heads in transit; gunicorn does the same for kept-alive connections.
_LINGER_S = 2.0
# How long, and for how many bytes, a connection that is being closed is read from.
_CLOSE_TIMEOUT_S = 2.0
_CLOSE_READ_MAX_BYTES = 64 * 1024
_PROBE_THREADS = 2
# The process, or the system, has no descriptor or no memory for another connection.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# How many connections fewer there are then, so that the database and files have some; and for how long.
_DESCRIPTORS_SPARED = 16
_REDUCED_S = 30.0
_PATH_MAX_BYTES = 256
_STOPPING_SWITCH_INTERVAL_S = 0.0001


class _PartialHead:
    """The state of a connection whose head is incomplete: when it began to wait, and the bytes that have arrived."""

    def __init__(self) -> None:
        self.waiting_since = time.monotonic()
        self.size_bytes = 0


class _Closing:
    """The state of a connection that is being closed: since when, and how many bytes the client has sent since."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.read_bytes = 0


class TiercelWorker(ThreadWorker):
    """Serves ``threads`` requests at a time, not counting those that wait for their clients.

    gunicorn passes a new connection to a thread at once, and the thread waits for the client: as many slow clients as
    there are threads block a worker. Here

    - heads wait in the poller until they are complete, at the cost of a socket each, with one time limit for the whole
      head, so that a client cannot extend it by sending a byte now and then;
    - a thread that waits for the body of a request, or for its client to read the response, leaves its turn to others;
    - probes have threads of their own, so that they are answered while every other thread is busy;
    - a request whose client has disconnected while it waited for a thread is not served.
    """

    header_timeout_s: float = 10.0
    client_limits = ClientLimits(10.0, 30.0, 500)
    # Paths of probes, without a trailing slash.
    probe_paths: frozenset[bytes] = frozenset()
    tpool: RequestThreadPool  # type: ignore[assignment] # see get_thread_pool
    # Called when the worker begins to stop, before it waits for current requests; gunicorn has no such hook.
    on_stopping: Callable[[], None] | None = None
    # Returns the headers of what the server answers itself, for the Origin of a request.
    rejected_headers: Callable[[str | None], Mapping[str, str]] | None = None
    # Called with what the server answered itself, which never reaches the application.
    on_rejected: Callable[[RejectedRequest], None] | None = None

    def init_process(self) -> None:
        """Initialize the worker; disable gunicorn's access log, and replace its response class."""
        self._partial_heads: dict[TConn, _PartialHead] = {}
        self._closing: dict[TConn, _Closing] = {}
        self._reduced_until = 0.0
        self._serving = threading.local()
        self._probe_pool = RequestThreadPool(_PROBE_THREADS, _PROBE_THREADS)
        # Tiercel has a request log of its own; gunicorn would format a line for each request and then discard it.
        self.log.access = _no_access_log  # type: ignore[method-assign] # no setting does it once logging is configured
        wsgi.Response = ServerResponse  # type: ignore[misc] # there is no setting for the class
        super().init_process()

    def get_thread_pool(self) -> RequestThreadPool:  # type: ignore[override] # gunicorn only submits and shuts down
        """Return the pool for all requests but probes."""
        return RequestThreadPool(self.cfg.threads, self.worker_connections)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as on SIGTERM: gunicorn would cut off the requests that are being served."""
        self.handle_exit(sig, frame)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection."""
        try:
            self._accept_from(listener)
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError as ex:
            if ex.errno not in _EXHAUSTED:
                raise
            self._reduce_connections(ex)

    def _reduce_connections(self, error: OSError) -> None:
        """Have fewer connections for a while: ``murder_pending`` closes idle ones, or nothing is accepted meanwhile."""
        self.worker_connections = max(1, self.nr_conns - _DESCRIPTORS_SPARED)
        self._reduced_until = time.monotonic() + _REDUCED_S
        self.log.warning("%s: at most %d connections for now; see ulimit -n", error.strerror, self.worker_connections)

    def enqueue_req(self, conn: TConn) -> None:
        """Pass a connection to a thread, or wait for the rest of its head."""
        head = self._complete_head(conn)
        if head is None:
            conn.sock.settimeout(0)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
            return
        if self._partial_heads.pop(conn, None) is not None:
            # Otherwise the thread would wait for more bytes than the client has to send.
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        conn.data_ready = True
        pool = self._probe_pool if _path_of(head) in self.probe_paths else self.tpool
        if isinstance(conn.sock, ClientSocket):
            conn.sock.begin_request(pool.waiting)
        pool.submit(self.handle, conn, head).add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def handle(self, conn: TConn, head: bytes = b"") -> bool:
        """Serve the request of a connection, unless nobody waits for the response any more.

        Args:
            conn: The connection.
            head: Of the request, for what has to be known of it although it cannot be parsed.
        """
        if isinstance(conn.sock, ClientSocket) and conn.sock.is_abandoned():
            return False
        self._serving.head = head
        try:
            return super().handle(conn)
        finally:
            self._serving.head = b""

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """Serve a request, once it is settled which host it is for."""
        apply_target(req)
        return bool(super().handle_request(req, conn))

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:  # noqa: FBT001 - gunicorn's name for it
        try:
            return bool(super()._keepalive_after(conn, keepalive))  # type: ignore[misc] # not in the stubs
        except ParseException:
            # The rest of the body is malformed. Its request has been answered, and must not be answered again.
            return False

    def handle_error(self, req: Request | None, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that gunicorn could not parse, or whose exception left the application."""
        error = as_api_error(exc)
        # The parser passes the request on with some of its exceptions, and with others something else.
        found = req if req is not None else getattr(exc, "req", None)
        self._send_error(client, addr, error, found if isinstance(found, Request) else None)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keep a connection, or close it once the client has the response.

        A socket that is closed with unread bytes resets the connection, and the client may lose the response. gunicorn
        therefore reads on until the client closes its side, and meanwhile serves nobody else.
        """
        keeps = fs.cancelled() or fs.exception() is not None or fs.result()
        if keeps or conn.cfg.is_ssl:
            super().finish_request(conn, fs)
            return
        self._closing[conn] = _Closing()
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.settimeout(0)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_closing, conn))
        except (OSError, ValueError):
            self._close(conn)

    def _read_closing(self, conn: TConn, client: socket.socket) -> None:
        try:
            read_bytes = len(client.recv(_CLOSE_READ_MAX_BYTES))
        except BlockingIOError:
            return
        except OSError:
            read_bytes = 0
        closing = self._closing[conn]
        closing.read_bytes += read_bytes
        if read_bytes == 0 or closing.read_bytes >= _CLOSE_READ_MAX_BYTES:
            self.poller.unregister(client)
            self._close(conn)

    def _close(self, conn: TConn) -> None:
        del self._closing[conn]
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close connections whose head did not arrive, or that the client did not close, in time; and one too many."""
        super().murder_pending()
        now = time.monotonic()
        # Both are in the order in which they began to wait. This runs for each event: it must not look at all of them.
        while self._closing:
            conn, closing = next(iter(self._closing.items()))
            if now - closing.since < _CLOSE_TIMEOUT_S:
                break
            self.poller.unregister(conn.sock)
            self._close(conn)
        limit_s = self.header_timeout_s if self.alive else min(_LINGER_S, self.header_timeout_s)
        while self._partial_heads:
            conn, head = next(iter(self._partial_heads.items()))
            if now - head.waiting_since < limit_s:
                break
            self._close_slow(conn)
        if now >= self._reduced_until:
            self.worker_connections = self.cfg.worker_connections
        while self.nr_conns >= self.worker_connections:
            if not self._close_idlest():
                break

    def set_accept_enabled(self, enabled: bool | None) -> None:  # noqa: FBT001 - gunicorn's name for it
        """Stop listening when the worker stops, and accept the connections that are queued already.

        gunicorn would keep the socket open until the last kept-alive connection ends: clients that connect meanwhile
        are queued by the kernel, and reset in the end.
        """
        super().set_accept_enabled(enabled)
        if self.alive or enabled:
            return
        if self.on_stopping is not None:
            self.on_stopping()
        # What connects between the last accept and the close is reset. With busy threads, that takes up to the interval
        # for each of them: 5 ms in the median and 0.2 s at most with eight, 0.02 and 4 ms with this one.
        sys.setswitchinterval(_STOPPING_SWITCH_INTERVAL_S)
        for listener in self.sockets:
            self._accept_queued(listener)
            listener.close()

    def _accept_queued(self, listener: socket.socket) -> None:
        while True:
            try:
                self._accept_from(listener)
            except ConnectionError:  # of this client; others may be queued behind it
                continue
            except OSError:  # there are no more, or no descriptors for them
                return

    def _accept_from(self, listener: socket.socket) -> None:
        client, address = listener.accept()
        self.nr_conns += 1
        if not self.cfg.is_ssl:  # a TLS socket is made from a plain one
            client = ClientSocket(client, self.client_limits)
        self.enqueue_req(Connection(self.cfg, client, address, listener.getsockname()))

    def _close_idlest(self) -> bool:
        """Close the connection that has been waiting for its next request, or for the rest of a head, for longest.

        Returns:
            Whether there was one.
        """
        if self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()
        elif self._closing:
            conn = next(iter(self._closing))
            self.poller.unregister(conn.sock)
            self._close(conn)
        elif self._partial_heads:
            self._close_slow(next(iter(self._partial_heads)))
        else:
            return False
        return True

    def _on_readable(self, conn: TConn, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.enqueue_req(conn)

    def _complete_head(self, conn: TConn) -> bytes | None:
        """Return the start of a request, or None if a thread would have to wait: its head can still become complete."""
        if conn.cfg.is_ssl:
            return b""
        if buffered := _buffered_input(conn):
            return buffered
        try:
            seen: bytes = conn.sock.recv(_HEAD_MAX_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._partial_heads.setdefault(conn, _PartialHead())
            return None
        except OSError:
            return b""
        head = self._partial_heads.get(conn)
        # The socket is readable, without more bytes than before: the client closed its side.
        ended = not seen or (head is not None and len(seen) <= head.size_bytes)
        if ended or len(seen) >= _HEAD_MAX_BYTES or any(end in seen for end in _HEAD_ENDS):
            return seen
        head = self._partial_heads.setdefault(conn, _PartialHead())
        head.size_bytes = len(seen)
        # The bytes were only peeked at and stay in the socket: poll for more of them.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(seen) + 1)
        return None

    def _close_slow(self, conn: TConn) -> None:
        head = self._partial_heads.pop(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        # A client that sent nothing is not at fault: browsers open connections in advance.
        if head.size_bytes:
            self.log.warning("dropped a client that stopped sending")
            with contextlib.suppress(OSError):
                # Closing a socket with unread bytes resets the connection, and the response may be lost with it.
                conn.sock.recv(_HEAD_MAX_BYTES, socket.MSG_DONTWAIT)
            self._send_error(conn.sock, conn.client, OtherClientError(408, "The request did not arrive in time."))
        conn.close()

    def _send_error(self, client: socket.socket, address: Any, error: ApiError, request: Request | None = None) -> None:
        """Send an error and report it.

        Args:
            client: The socket.
            address: Of the client; text if the socket is a local one.
            error: What the client is told.
            request: What is known of the request.
        """
        headers = read_headers(getattr(self._serving, "head", b"")) if request is None else request.headers
        environ = {f"HTTP_{name.replace('-', '_')}": value for name, value in headers}
        context = make_context(environ)
        method = (request and request.method) or ""
        if isinstance(error, InternalError):
            self.log.exception("request %s failed outside the application", context.request_id)
        always = {} if self.rejected_headers is None else self.rejected_headers(environ.get("HTTP_ORIGIN"))
        response, length_bytes = encode_error_response(error, context, always, has_body=method != "HEAD")
        with contextlib.suppress(OSError):
            util.write_nonblock(client, response)
        if self.on_rejected is not None:
            host = address[0] if isinstance(address, tuple) else ""
            path = (request and request.path) or ""
            self.on_rejected(RejectedRequest(context, host, method, path, error.status, length_bytes, error.message))


def _no_access_log(resp: object, req: object, environ: object, request_time: object) -> None:
    """Replace gunicorn's access log."""


def _buffered_input(conn: TConn) -> bytes:
    # On a kept-alive connection the parser may have read the start of the next request, which the poller cannot see.
    unreader = getattr(conn.parser, "unreader", None)
    return b"" if unreader is None else unreader.buf.getvalue()


def _path_of(head: bytes) -> bytes:
    """Return the path of a request, without its query string and trailing slashes."""
    _, _, rest = head[:_PATH_MAX_BYTES].partition(b" ")
    return rest.partition(b" ")[0].partition(b"?")[0].rstrip(b"/")
