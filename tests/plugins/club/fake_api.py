"""A community API on real sockets, which behaves as badly as it is told."""

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


class Seen(msgspec.Struct):
    """A request as it came in."""

    path: str
    headers: dict[str, str]


class Call:
    """One request, and the means to answer it."""

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
        """Send a piece of the body."""
        self._handler.wfile.write(content)

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.head(status, {"Content-Length": str(len(content)), **(headers or {})})
        self.write(content)

    def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer of JSON."""
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def gzip(self, content: bytes) -> None:
        """Send bytes that are gzip already."""
        self.send(content, headers={"Content-Encoding": "gzip"})

    def hang(self) -> None:
        """Say nothing until the server ends."""
        self.api.ending.wait(30)


Behaviour = Callable[[Call], None]


class FakeApi:
    """The server. Behaviours are looked up by path; whatever has none is a 404."""

    def __init__(self) -> None:
        self.routes: dict[str, Behaviour] = {}
        self.seen: list[Seen] = []
        self.ending = threading.Event()
        self.most_at_once = 0
        self._now = 0
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def paths(self) -> list[str]:
        """Return what was asked for, in order."""
        return [seen.path for seen in self.seen]

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """End, and everything that hangs with it."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = urlsplit(handler.path).path
        with self._lock:
            self.seen.append(Seen(handler.path, {name.lower(): value for name, value in handler.headers.items()}))
            self._calls[path] += 1
            number = self._calls[path]
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            call = Call(handler, number, self)
            self.routes.get(path, missing)(call)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True  # the client had enough
        finally:
            with self._lock:
                self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            api.answer(self)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Say nothing."""

    return Handler


@contextmanager
def running_api() -> Iterator[FakeApi]:
    """Keep a fake API running."""
    api = FakeApi()
    api.start()
    try:
        yield api
    finally:
        api.stop()


def metric(name: str, value: Any = 1, **more: Any) -> dict[str, Any]:
    """Make a key figure as the API has it."""
    return {"metric": name, "value": value, **more}


def member(name: str, count: Any = 1, **more: Any) -> dict[str, Any]:
    """Make a member as the API has it."""
    return {"member": name, "count": count, **more}


def fixed(value: Any, **headers: str) -> Behaviour:
    """Answer the same JSON each time; underscores of header names stand for dashes."""
    return lambda call: call.json(value, headers={name.replace("_", "-"): text for name, text in headers.items()})


def versioned(value: Any, etag: str | None = None, last_modified: str | None = None) -> Behaviour:
    """Answer JSON with its version, and 304 to whoever has it."""
    sent = {name: text for name, text in (("ETag", etag), ("Last-Modified", last_modified)) if text}

    def behave(call: Call) -> None:
        asked = [call.headers.get("if-none-match") == etag] if etag else []
        asked += [call.headers.get("if-modified-since") == last_modified] if last_modified else []
        if all(asked):
            call.head(304, sent)
        else:
            call.json(value, headers=sent)

    return behave


def failing(times: int, status: int, then: Behaviour, **headers: str) -> Behaviour:
    """Fail some times, then do as told."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}

    def behave(call: Call) -> None:
        if call.number <= times:
            call.json({"error": "busy"}, status, sent)
        else:
            then(call)

    return behave


def paged(path: str, pages: list[list[Any]], *, validators: bool = False) -> Behaviour:
    """Serve pages that name the next one under ``links.next``."""

    def behave(call: Call) -> None:
        number = int(call.query.get("page", "1"))
        link = f"{call.api.url}{path}?page={number + 1}" if number < len(pages) else None
        value = {"data": {"members": pages[number - 1]}, "links": {"next": link}}
        etag = f'"{hash(json.dumps(value))}"'
        if validators:
            versioned(value, etag)(call)
        else:
            call.json(value)

    return behave


def missing(call: Call) -> None:
    """Know nothing of it."""
    call.json({"error": "not found"}, 404)


def redirect(location: str, status: int = 302) -> Behaviour:
    """Send somewhere else."""
    return lambda call: call.send(b"", status, {"Location": location})


def hanging(call: Call) -> None:
    """Take the request and say nothing."""
    call.hang()


def slow_body(call: Call) -> None:
    """Send a byte now and then, for ever."""
    call.head(headers={"Content-Length": "1000000"})
    while not call.api.ending.wait(0.02):
        call.write(b" ")


def cut(call: Call) -> None:
    """Close the connection in the middle of the body."""
    call.head(headers={"Content-Length": "1000", "Connection": "close"})
    call.write(b'[{"metric"')


def cut_gzip(call: Call) -> None:
    """Send half a gzip stream as if it were whole."""
    packed = gzip.compress(b"[" + b" " * 1000 + b"]")
    call.gzip(packed[: len(packed) // 2])


def endless(call: Call) -> None:
    """Send for ever."""
    call.head(headers={"Connection": "close"})
    while not call.api.ending.is_set():
        call.write(ENDLESS_CHUNK)


def bomb(call: Call) -> None:
    """Send little that stands for much."""
    call.gzip(gzip.compress(b"[" + b" " * 50_000_000 + b"]"))
