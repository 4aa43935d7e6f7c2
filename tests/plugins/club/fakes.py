"""A fake community API on a real socket, with behaviours for every kind of failure."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

ENDLESS_CHUNK = b"x" * 65536


class ReceivedRequest(msgspec.Struct):
    """A request that the server received."""

    path: str
    headers: dict[str, str]


class Exchange:
    """One request, and methods to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, number: int, api: FakeApi) -> None:
        self._handler = handler
        self.number = number
        self.api = api
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}

    def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send the status and headers."""
        self._handler.send_response(status)
        for name, value in (headers or {}).items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def write(self, content: bytes) -> None:
        """Send a part of the body."""
        self._handler.wfile.write(content)

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response."""
        self.head(status, {"Content-Length": str(len(content)), **(headers or {})})
        self.write(content)

    def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response of JSON."""
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def gzip(self, content: bytes) -> None:
        """Send content that is already compressed."""
        self.send(content, headers={"Content-Encoding": "gzip"})

    def hang(self) -> None:
        """Send nothing until the server stops."""
        self.api.ending.wait(30)


Behaviour = Callable[[Exchange], None]


class FakeApi:
    """The server. ``routes`` has the behaviour of each path; any other path is a 404."""

    def __init__(self) -> None:
        self.routes: dict[str, Behaviour] = {}
        self.received: list[ReceivedRequest] = []
        self.ending = threading.Event()
        self.concurrent_max = 0
        self._concurrent = 0
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def paths(self) -> list[str]:
        """Return the paths of all requests, in order."""
        return [request.path for request in self.received]

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop the server and all requests that hang."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = urlsplit(handler.path).path
        with self._lock:
            self.received.append(
                ReceivedRequest(handler.path, {name.lower(): value for name, value in handler.headers.items()})
            )
            self._calls[path] += 1
            number = self._calls[path]
            self._concurrent += 1
            self.concurrent_max = max(self.concurrent_max, self._concurrent)
        try:
            exchange = Exchange(handler, number, self)
            self.routes.get(path, missing)(exchange)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True  # the client closed the connection
        finally:
            with self._lock:
                self._concurrent -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            api.answer(self)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Log nothing."""

    return Handler


@contextmanager
def running_api() -> Iterator[FakeApi]:
    """Run a fake API for as long as the block lasts."""
    api = FakeApi()
    api.start()
    try:
        yield api
    finally:
        api.stop()


def metric(name: str, value: Any = 1, **more: Any) -> dict[str, Any]:
    """Make a key figure in the format of the API."""
    return {"metric": name, "value": value, **more}


def member(name: str, count: Any = 1, **more: Any) -> dict[str, Any]:
    """Make a member in the format of the API."""
    return {"member": name, "count": count, **more}


def fixed(value: Any, **headers: str) -> Behaviour:
    """Always send the same JSON; underscores in header names become dashes."""
    return lambda exchange: exchange.json(
        value, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def versioned(value: Any, etag: str | None = None, last_modified: str | None = None) -> Behaviour:
    """Send JSON with validators, and 304 to conditional requests with all of them."""
    sent = {name: text for name, text in (("ETag", etag), ("Last-Modified", last_modified)) if text}

    def behave(exchange: Exchange) -> None:
        asked = [exchange.headers.get("if-none-match") == etag] if etag else []
        asked += [exchange.headers.get("if-modified-since") == last_modified] if last_modified else []
        if all(asked):
            exchange.head(304, sent)
        else:
            exchange.json(value, headers=sent)

    return behave


def failing(times: int, status: int, then: Behaviour, **headers: str) -> Behaviour:
    """Answer an error for the first requests, then behave as ``then``."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}

    def behave(exchange: Exchange) -> None:
        if exchange.number <= times:
            exchange.json({"error": "busy"}, status, sent)
        else:
            then(exchange)

    return behave


def paged(path: str, pages: list[list[Any]], *, validators: bool = False) -> Behaviour:
    """Serve pages with the URL of the next page under ``links.next``."""

    def behave(exchange: Exchange) -> None:
        number = int(exchange.query.get("page", "1"))
        link = f"{exchange.api.url}{path}?page={number + 1}" if number < len(pages) else None
        value = {"data": {"members": pages[number - 1]}, "links": {"next": link}}
        etag = f'"{hash(json.dumps(value))}"'
        if validators:
            versioned(value, etag)(exchange)
        else:
            exchange.json(value)

    return behave


def missing(exchange: Exchange) -> None:
    """Answer 404."""
    exchange.json({"error": "not found"}, 404)


def redirect(location: str, status: int = 302) -> Behaviour:
    """Redirect to a location."""
    return lambda exchange: exchange.send(b"", status, {"Location": location})


def hanging(exchange: Exchange) -> None:
    """Accept the request and never answer."""
    exchange.hang()


def slow_body(exchange: Exchange) -> None:
    """Send a byte at a time, forever."""
    exchange.head(headers={"Content-Length": "1000000"})
    while not exchange.api.ending.wait(0.02):
        exchange.write(b" ")


def cut(exchange: Exchange) -> None:
    """Close the connection in the middle of the body."""
    exchange.head(headers={"Content-Length": "1000", "Connection": "close"})
    exchange.write(b'[{"metric"')


def cut_gzip(exchange: Exchange) -> None:
    """Send half a gzip stream as a complete response."""
    packed = gzip.compress(b"[" + b" " * 1000 + b"]")
    exchange.gzip(packed[: len(packed) // 2])


def endless(exchange: Exchange) -> None:
    """Send an endless body."""
    exchange.head(headers={"Connection": "close"})
    while not exchange.api.ending.is_set():
        exchange.write(ENDLESS_CHUNK)


def bomb(exchange: Exchange) -> None:
    """Send a decompression bomb: 50 kB of gzip that expand to 50 MB."""
    exchange.gzip(gzip.compress(b"[" + b" " * 50_000_000 + b"]"))
