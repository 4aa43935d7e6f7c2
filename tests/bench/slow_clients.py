"""Probes and ingest while a thousand clients are slow, one kind of them after the other."""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import msgspec

from tests.bench.figures import Figure
from tests.bench.load import INGEST, bodies, make_events, post
from tests.bench.service import Service, service

CLIENTS = 1_000
# Each client does something this often, a few of them at a time: all together cost the client side little.
PACE_S = 1.0
TICK_S = 0.02
# Of the server: for a head and for a body, and until the next request.
TIME_LIMIT_S = 10.0
KEEPALIVE_S = 5.0
SETTLE_S = 3.0
SETTLE_TIMEOUT_S = 60.0
PROBES = 200
PROBE_INTERVAL_S = 0.01
PROBE_LIMIT_MS = 100.0
EVENTS = 50_000
BATCH = 1_000
CONNECTIONS = 4
ROUNDS = 3
_HOST = "Host: 127.0.0.1\r\n"
# Half a megabyte: more than the buffers of a connection hold.
_LARGE = "/api/requests/?service=large&page_size=500"
_LARGE_EVENTS = 500
_LARGE_TAG_BYTES = 1_000
# A small window, so that what is not read stays with the server.
_RECEIVE_BUFFER_BYTES = 4096
_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Kind(msgspec.Struct, frozen=True):
    """A way to be slow.

    Args:
        name: Of the clients.
        sent: What each sends when it has connected.
        then: What it sends after that, a piece at each turn; it reads nothing.
        reconnect_s: The client connects anew this long after it connected, if the server has closed the connection.
        connect_within_s: The clients connect one after the other over this time. Where the server cuts them off, it is
            its time limit: otherwise it would do nothing for as long, and then cut off all of them at once.
    """

    name: str
    sent: str
    then: bytes = b""
    reconnect_s: float = PACE_S
    connect_within_s: float = PACE_S


KINDS = (
    Kind("heads byte by byte", f"GET /livez HTTP/1.1\r\n{_HOST}X-Slow: ", b"x", connect_within_s=TIME_LIMIT_S),
    Kind(
        "bodies byte by byte",
        f"POST {INGEST} HTTP/1.1\r\n{_HOST}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n[",
        b" ",
        connect_within_s=TIME_LIMIT_S,
    ),
    Kind("responses not read", f"GET {_LARGE} HTTP/1.1\r\n{_HOST}\r\n"),
    Kind("idle connections", f"GET /livez HTTP/1.1\r\n{_HOST}\r\n", connect_within_s=KEEPALIVE_S),
    # The server has closed its side, and waits for the client to close the other one.
    Kind("half-closed connections", f"GET /livez HTTP/1.1\r\n{_HOST}Connection: close\r\n\r\n", reconnect_s=5.0),
)


def figures(full: bool) -> Iterator[Figure]:
    """Measure probes and ingest beside slow clients."""
    content = bodies(20, BATCH)
    with service() as running:
        _store_large_page(running.port)
        post(running.port, content, BATCH, connections=CONNECTIONS, events=EVENTS)
        for kind in KINDS:
            yield from _beside(running, kind, content)


def _beside(running: Service, kind: Kind, content: list[bytes]) -> Iterator[Figure]:
    def ingest() -> float:
        # Ingest into a large table is slower, whoever else is connected.
        running.empty()
        _store_large_page(running.port)
        return post(running.port, content, BATCH, connections=CONNECTIONS, events=EVENTS)

    alone = [ingest() for _ in range(ROUNDS)]
    with SlowClients(running.port, kind) as clients:
        clients.wait_until_connected()
        for path in ("/livez", "/readyz"):
            median_ms, p99_ms = _probe(running.port, path)
            detail = f"p50 {median_ms:.1f} ms; {clients.connected} clients"
            yield Figure(
                f"{path}, 99th percentile, {kind.name}", p99_ms, PROBE_LIMIT_MS, "at most", unit="ms", detail=detail
            )
        cpu_s, started = clients.cpu_s, time.monotonic()
        beside = [ingest() for _ in range(ROUNDS)]
        cpu = (clients.cpu_s - cpu_s) / (time.monotonic() - started)
    # Again, so that whatever drifts meanwhile is on both sides.
    alone += [ingest() for _ in range(ROUNDS)]
    slow, usual = statistics.median(beside), statistics.median(alone)
    detail = f"{slow:,.0f} events/s, {usual:,.0f} alone; the slow clients use {cpu:.0%} of a CPU"
    yield Figure(f"ingest, {kind.name}, against none", slow / usual, 0.8, detail=detail)


def _store_large_page(port: int) -> None:
    [event] = make_events(1)
    event |= {"service": "large", "tags": {"text": "x" * _LARGE_TAG_BYTES}}
    body = msgspec.json.encode([event] * _LARGE_EVENTS)
    post(port, [body], _LARGE_EVENTS, connections=1, events=_LARGE_EVENTS)


def _probe(port: int, path: str) -> tuple[float, float]:
    """Ask over new connections, as a load balancer does; return median and 99th percentile in milliseconds."""
    took_ms: list[float] = []
    for _ in range(PROBES):
        started = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        status = connection.getresponse().status
        took_ms.append((time.perf_counter() - started) * 1000)
        connection.close()
        if status != 200:
            raise RuntimeError(f"{path}: status {status}")
        time.sleep(PROBE_INTERVAL_S)  # probes are no load of their own
    return statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]


class SlowClients:
    """Keeps slow clients connected, from one thread that hardly does anything.

    Args:
        port: On 127.0.0.1.
        kind: What the clients do. One that the server disconnects connects anew.
    """

    def __init__(self, port: int, kind: Kind) -> None:
        self._port = port
        self._kind = kind
        self._clients: list[tuple[socket.socket, float] | None] = [None] * CLIENTS
        self._stopped = threading.Event()
        self._started = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.cpu_s = 0.0

    def __enter__(self) -> SlowClients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for client in self._clients:
            if client is not None:
                client[0].close()

    @property
    def connected(self) -> int:
        """How many clients have connected."""
        return sum(client is not None for client in self._clients)

    def wait_until_connected(self) -> None:
        """Wait until all have connected, and then until the server has served what they sent."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while self.connected < CLIENTS:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {self.connected} clients could connect")
            time.sleep(0.1)  # until the next look
        time.sleep(SETTLE_S)  # the first bytes of all clients come at once, which is not what is measured

    def _run(self) -> None:
        share = round(CLIENTS * TICK_S / PACE_S)
        at = 0
        self._started = time.monotonic()
        while not self._stopped.wait(TICK_S):
            for number in range(at, at + share):
                self._turn(number % CLIENTS)
            at = (at + share) % CLIENTS
            self.cpu_s = time.thread_time()

    def _turn(self, number: int) -> None:
        client = self._clients[number]
        if client is None:
            if time.monotonic() - self._started >= self._kind.connect_within_s * number / CLIENTS:
                self._clients[number] = self._connect()
            return
        connection, since = client
        poll = select.poll()
        poll.register(connection, _CLOSED)
        if poll.poll(0):
            if time.monotonic() - since >= self._kind.reconnect_s:
                connection.close()
                self._clients[number] = self._connect()
        elif self._kind.then:
            with contextlib.suppress(OSError):
                connection.send(self._kind.then)

    def _connect(self) -> tuple[socket.socket, float] | None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.settimeout(1)
        try:
            connection.connect(("127.0.0.1", self._port))
            connection.sendall(self._kind.sent.encode())
        except OSError:
            connection.close()
            return None
        connection.settimeout(0)
        return connection, time.monotonic()
