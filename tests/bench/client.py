"""What it costs an application to report a request with contrib/client: the same application with and without it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any
from wsgiref.util import setup_testing_defaults

from tests.bench.figures import Figure, in_turn
from tests.contract.tree import ROOT

REQUESTS = 5_000
ROUNDS = 9
TARGET_US = 20.0
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
# Answers as the service does, in a process of its own, so that its time is not the application's.
SINK = """
import gzip, json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        count = len(json.loads(gzip.decompress(body) if self.headers["Content-Encoding"] else body))
        answer = json.dumps({"inserted": count, "duplicates": 0, "rejected": 0, "errors": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def sink() -> Iterator[str]:
    """Run a server that takes everything; yield its URL."""
    process = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def bare_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def call_wsgi(app: Any) -> None:
    """Send requests to a WSGI application as a server does."""
    base: dict[str, Any] = {"PATH_INFO": "/orders/42", "HTTP_TRACEPARENT": TRACEPARENT}
    setup_testing_defaults(base)
    for _ in range(REQUESTS):
        body = app(dict(base), lambda status, headers: None)
        for _part in body:
            pass
        if hasattr(body, "close"):
            body.close()


def call_asgi(app: Any) -> None:
    """Send requests to an ASGI application."""
    headers = [(b"host", b"test"), (b"traceparent", TRACEPARENT.encode())]

    async def send(message: Any) -> None: ...

    async def run() -> None:
        for _ in range(REQUESTS):
            scope = {"type": "http", "method": "GET", "path": "/orders/42", "headers": headers}
            await app(scope, send, send)

    asyncio.run(run())


def per_request_us(call: Callable[[Any], None], app: Any, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a measure of the time of a request, in µs."""

    def measure() -> float:
        started = clock()
        call(app)
        return (clock() - started) / REQUESTS * 1e6

    return measure


def figures(_full: bool) -> Iterator[Figure]:
    """Measure."""
    sys.path.insert(0, str(ROOT / "contrib" / "client"))
    from tiercel_client import Reporter, Tiercel, TiercelASGI

    unsent = {"flush_interval_s": 3600.0, "batch_max_events": 10**9, "batch_max_bytes": 2**25}
    unbounded = {"queue_max_events": 10**9, "queue_max_bytes": 2**40}
    with sink() as url:
        # In the thread of the request: nothing is sent meanwhile.
        waiting = Reporter(url, "tk_bench", "bench", **unsent, **unbounded)
        # All that the process does for it, encoding, compressing and sending included.
        sending = Reporter(url, "tk_bench", "bench", **unbounded)
        measured: list[tuple[str, Callable[[Any], None], Any, Any, Callable[[], float]]] = [
            ("WSGI", call_wsgi, Tiercel(bare_wsgi, reporter=waiting), bare_wsgi, time.thread_time),
            ("ASGI", call_asgi, TiercelASGI(bare_asgi, reporter=waiting), bare_asgi, time.thread_time),
            ("WSGI, with delivery", call_wsgi, Tiercel(bare_wsgi, reporter=sending), bare_wsgi, time.process_time),
        ]
        for name, call, app, bare, clock in measured:
            with_us, without_us = per_request_us(call, app, clock), per_request_us(call, bare, clock)
            _, reported_us, bare_us = in_turn(with_us, without_us, ROUNDS)
            detail = f"{reported_us:.1f} against {bare_us:.1f} µs"
            yield Figure(
                f"client: CPU a request is reported with, {name}",
                reported_us - bare_us,
                TARGET_US,
                "at most",
                "µs",
                detail,
            )
        sending.flush(30)
        counters = sending.counters()
        assert counters.accepted == counters.stored, json.dumps(counters.dropped)
        with redirect_stderr(StringIO()):  # that its events were not sent is no news
            waiting.close(0)
