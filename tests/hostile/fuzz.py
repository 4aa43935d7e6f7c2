"""A fuzzer that knows the routes: requests are made of the types of their parameters and bodies, and then spoilt.

Each request has a number, and is made of the seed and its number alone, but for the ids of stored things, which are
those that the service has mentioned.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID

import msgspec
from msgspec import inspect

from kernel.app import Tiercel
from kernel.contracts import Handler
from kernel.http.request import RawBody, StreamBody
from kernel.http.routing import MountedRoute, methods_of
from kernel.signatures import parameter_types
from kernel.testing import make_configuration
from plugins.observability.models import EventIn
from tests.processes import slowdown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# A response may have this many bytes, unless it is an export; no more are read of any.
RESPONSE_MAX_BYTES = 16 * 1024 * 1024
READ_MAX_BYTES = 64 * 1024 * 1024
# Statuses of the server that say what they mean: a method or version that there is not, and a limit or a lack.
EXPECTED_FAILURES = frozenset({501, 503, 505})
CONNECTION_TIMEOUT_S = 60.0
# A body may be sent, decoded and stored at this rate, whatever else runs on the machine; the time limit is extended.
_BODY_RATE_BYTES = 1024 * 1024
# About a third of what ingest takes, 64 MiB; three times as much is near the limit.
_BODY_BYTES = 21 * 1024 * 1024
# Some seconds of a stream that ends when its job does.
ENDLESS_TIMEOUT_S = 0.3

_TEXTS = (
    "", "a", "GET", "shop", "/orders/{id}", "skyflow", "nexus", "trace.features", "-time", "name", "*", "%", "_" * 255,
    "%00", "\0", "' OR 1=1 --", "\\", '"', "\r\nX: y", "../../etc/passwd", "null", "true", "NaN", "-1", "0", "1e400",
    "9" * 400, "\u202e", "\U0001f4a9" * 60, "é" * 200, "x" * 5000, "2026-11-28", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z", "2026-02-30T25:61:61Z", "eyJ2IjpbMV19", "[" * 500, "{}", "a,b,,c", " ", "\ufeff",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 7, 99, 100, 200, 599, 600, 2**15, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308)
_TOKENS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r\n", b"\\", b"\\u0000",
    b"\\ud800", b"1e400", b"-", b"null", b"NaN", b"9" * 300, b"[" * 2000, b"\n" * 5000, b'{"a":' * 1500,
    b"0." + b"1" * 17_000,
)  # fmt: skip
_HEADERS: dict[str, Sequence[str]] = {
    "Accept": ("*/*", "application/json", "application/problem+json", "text/html", ";;q=x"),
    "Accept-Encoding": ("gzip", "zstd", "identity;q=0", "gzip;q=0.5, *;q=0", "x" * 3000),
    "If-None-Match": ("*", '"a"', 'W/"a", "b"', '"' * 500),
    "If-Modified-Since": ("Sat, 28 Nov 2026 12:00:00 GMT", "yesterday"),
    "Idempotency-Key": ("key", "é", "k" * 5000, " "),
    "X-Request-ID": ("id", "x" * 5000, "\u00ff"),
    "traceparent": ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-zz"),
    "Range": ("bytes=0-1", "bytes=-"),
    "Expect": (*["100-continue"] * 9, "miracles"),
    "X-Notion-Signature": ("sha256=00", "é"),
    "Last-Event-ID": ("1", "-1", "x"),
    "Origin": ("null", "http://127.0.0.1", "https://evil.example", "é", "x" * 5000, " "),
    "Authorization": ("Basic Og==", "Bearer x.y.z", "Api-Key é", "Basic " + "A" * 5000, "x"),
    "Cookie": ("tiercel_session=x", "tiercel_session=é; tiercel_session=x", ";" * 3000, "=", "a"),
    "Host": ("127.0.0.1", "localhost", "evil.example", "a" * 300, ""),
    "Connection": ("close", "keep-alive", "upgrade"),
}
_MEDIA_TYPES = (
    "application/json", "application/x-ndjson", "application/json; charset=utf-16", "text/plain",
    "multipart/form-data; boundary=x", "", "é",
)  # fmt: skip
_CODERS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": lambda content: gzip.compress(content, 1),
    "zstd": zstd.compress,
    "br": bytes,
}
# Values of parameters in paths, by their names. All others are ids.
_SEGMENTS = {
    "application": ("skyflow", "nexus"),
    "name": ("trace.features", "trace.tags", "club.hero_metrics"),
    "slug": ("free", "guest", "api", "open", "beacon-alerts"),
    "feature": ("beacon", "flow", "grid"),
    "trace_id": ("ada", "t1"),
}
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Attempt(msgspec.Struct, frozen=True):
    """A request.

    Args:
        number: Of the request.
        route: That it was made for.
        method: HTTP method.
        content: All that is sent.
        size_bytes: Of the body before it was compressed.
        is_complete: Whether the server can tell where the request ends.
    """

    number: int
    route: MountedRoute
    method: str
    content: bytes
    size_bytes: int
    is_complete: bool


class Finding(msgspec.Struct, frozen=True):
    """What should not have happened."""

    problem: str
    number: int
    template: str
    request: bytes
    response: bytes


class Outcome(msgspec.Struct):
    """The outcome of a run: responses by status, 0 for none, and what was found."""

    statuses: Counter[int] = msgspec.field(default_factory=Counter)
    unavailable: Counter[str] = msgspec.field(default_factory=Counter)
    findings: list[Finding] = []
    slowest_s: float = 0.0
    slowest: str = ""


def argument_types(mounted: MountedRoute) -> Mapping[str, Any]:
    """Return the types of what the handler of a route takes, by name; of several handlers none."""
    return parameter_types(cast("Handler", mounted.route.handler)) if mounted.route.method else {}


def known_routes() -> list[MountedRoute]:
    """Return the routes of a service with all plugins."""
    return list(Tiercel(make_configuration(log={"level": "error"})).shared.routes)


class Fuzzer:
    """Makes requests and sends them.

    Args:
        routes: What there is.
        port: Of the service, on this machine.
        seed: Repeats the requests.
        time_limit_s: A response may take so long, and a second more for each MiB of the body.
    """

    def __init__(self, routes: Sequence[MountedRoute], port: int, seed: int, time_limit_s: float) -> None:
        self._routes = [
            (route, method, argument_types(route)) for route in routes for method in methods_of(route.route)
        ]
        # Reading a body is most of what there is to attack.
        self._routes += [each for each in self._routes if each[1] != "GET"] * 4
        self._port = port
        self._seed = seed
        self._time_limit_s = time_limit_s
        self._ids: deque[str] = deque(["01997a5e-0000-7000-8000-000000000000", "1"], maxlen=200)
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def run(self, requests: int, connections: int) -> Outcome:
        """Send so many requests over so many connections at a time."""
        numbers = iter(range(requests))

        def send_all() -> None:
            client = _Client(self._port)
            while True:
                with self._lock:
                    number = next(numbers, None)
                if number is None:
                    return client.close()
                self._send(client, self.make(number))

        with ThreadPoolExecutor(connections) as pool:
            for each in [pool.submit(send_all) for _ in range(connections)]:
                each.result()
        return self.outcome

    def make(self, number: int) -> Attempt:
        """Make a request."""
        draw = random.Random(f"{self._seed}:{number}")
        route, method, types = draw.choice(self._routes)
        path = re.sub(r"\{([a-z_]+)\}", lambda found: self._segment(draw, found[1]), route.template)
        query = make_query(draw, route.route.query or types.get("query"))
        if draw.random() < 0.02:
            method = draw.choice(["HEAD", "OPTIONS", "PUT", "TRACE", "BREW", "get"])
        headers = {name: draw.choice(values) for name, values in _HEADERS.items() if draw.random() < 0.06}
        headers.setdefault("Host", "127.0.0.1")
        body = b""
        if "body" in types or draw.random() < 0.03:
            body = _body(draw, types.get("body"), headers)
        size_bytes = len(body)
        framed, is_complete = _frame(draw, body, headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if "\r" not in value)
        slash = draw.choice(["/", ""])
        head = f"{method} {path}{slash}{query} HTTP/1.1\r\n{lines}\r\n".encode()
        return Attempt(number, route, method, head + framed, size_bytes, is_complete)

    def _segment(self, draw: random.Random, name: str) -> str:
        """Return the segment of a path that is a parameter: mostly one that there is."""
        known = _SEGMENTS.get(name) or tuple(self._ids)
        text = draw.choice(known) if draw.random() < 0.8 else draw.choice(_TEXTS) or "x"
        return quote(text, safe="" if draw.random() < 0.9 else "/")

    def _send(self, client: _Client, attempt: Attempt) -> None:
        started = time.monotonic()
        problem, status, received = None, 0, b""
        try:
            status, size_bytes, received = client.exchange(attempt)
        except (TimeoutError, http.client.HTTPException) as ex:
            # A body that never ends is waited for until its time limit, and then answered.
            problem = f"no response: {ex!r}" if attempt.is_complete else None
            client.close()
        except OSError:
            client.close()
        else:
            if status >= 500 and status not in EXPECTED_FAILURES:
                problem = f"status {status}"
            if size_bytes > RESPONSE_MAX_BYTES and not attempt.route.template.endswith("/export"):
                problem = f"{size_bytes} bytes"
        took_s = time.monotonic() - started
        limit_s = self._time_limit_s + attempt.size_bytes / _BODY_RATE_BYTES
        if took_s > limit_s and attempt.is_complete and took_s > limit_s * slowdown():
            problem = problem or f"took {took_s:.1f} s"
        with self._lock:
            self.outcome.statuses[status] += 1
            if status == 503:
                self.outcome.unavailable[attempt.route.template] += 1
            if took_s > self.outcome.slowest_s:
                self.outcome.slowest_s = took_s
                self.outcome.slowest = f"{attempt.method} {attempt.route.template}, {attempt.size_bytes} bytes"
            self._ids.extend(found.decode() for found in _UUID.findall(received[:4096])[:3])
            if problem is not None:
                template = f"{attempt.method} {attempt.route.template}"
                found = Finding(problem, attempt.number, template, attempt.content[:3000], received[:500])
                self.outcome.findings.append(found)


class _Client:
    """A connection that is opened anew whenever it broke."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def exchange(self, attempt: Attempt) -> tuple[int, int, bytes]:
        """Send a request; return status, length of the body and its first bytes."""
        if self._socket is not None:
            # A server may close a connection that is kept alive at any time: that is no response to this request.
            with contextlib.suppress(ConnectionError):
                return self._exchange(attempt)
            self.close()
        return self._exchange(attempt)

    def _exchange(self, attempt: Attempt) -> tuple[int, int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=CONNECTION_TIMEOUT_S)
        connection = self._socket
        is_endless = attempt.route.template.endswith(("/events", "/live"))
        connection.settimeout(CONNECTION_TIMEOUT_S)
        # The server may have answered, and closed its side, before it read everything.
        with contextlib.suppress(OSError):
            connection.sendall(attempt.content)
        if not attempt.is_complete:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection, method=attempt.method)
        response.begin()
        if is_endless:
            connection.settimeout(ENDLESS_TIMEOUT_S)
        size_bytes, first = 0, b""
        try:
            while size_bytes < READ_MAX_BYTES and (part := response.read1(256 * 1024)):
                size_bytes += len(part)
                first = first or part
        except TimeoutError:
            if not is_endless:
                raise
        if response.will_close or size_bytes >= READ_MAX_BYTES or is_endless or not attempt.is_complete:
            self.close()
        return response.status, size_bytes, first

    def close(self) -> None:
        """Close the connection; the next exchange opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


# --- parts of requests ------------------------------------------------------------------------------------------------


@cache
def type_info(kind: Any) -> inspect.Type:
    """Return what msgspec knows of a type, which takes as long as half a request."""
    return inspect.type_info(kind)


def make_query(draw: random.Random, kind: Any) -> str:
    if draw.random() < 0.03:
        return "?" + draw.choice(["&" * 300, "a=" + "b" * 7000, "%", "%ff=%00", "=", "a=1&a=2", ";"])
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return ""
    fields = type_info(kind)
    assert isinstance(fields, inspect.StructType)
    given = {field.encode_name: make_value(draw, field.type) for field in fields.fields if draw.random() < 0.12}
    pairs = [f"{name}={quote(_as_text(value), errors='replace')}" for name, value in given.items()]
    return "?" + "&".join(pairs) if pairs else ""


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def _body(draw: random.Random, kind: Any, headers: dict[str, str]) -> bytes:
    """Return a body, spoilt or not, and set its media type."""
    headers["Content-Type"] = "application/json"
    if kind is StreamBody or kind is RawBody:
        content = _events(draw, headers)
    else:
        content = json.dumps(make_value(draw, type_info(kind)) if kind is not None else {}).encode()
    if draw.random() < 0.4:
        content = _spoil(draw, content)
    if draw.random() < 0.05:
        headers["Content-Type"] = draw.choice(_MEDIA_TYPES)
    return content


def _events(draw: random.Random, headers: dict[str, str]) -> bytes:
    kind = type_info(EventIn)
    count = draw.choice([0, 1, 1, 2, 5, 30])
    events = [json.dumps(make_value(draw, kind)).encode() for _ in range(count)]
    if draw.random() < 0.01:
        events *= draw.choice([100, 2000])
    elif events and draw.random() < 0.006:
        # Up to the limits on bodies and on events in one, and beyond them.
        events *= draw.choice([_BODY_BYTES, _BODY_BYTES * 3]) // sum(map(len, events)) + 1
    form = draw.choice(["one", "list", "object", "lines"])
    if form == "one" and events:
        return events[0]
    if form == "lines":
        headers["Content-Type"] = "application/x-ndjson"
        return draw.choice([b"\n", b"\n\n", b"\r\n"]).join(events)
    array = b"[" + b",".join(events) + b"]"
    return array if form == "list" else b'{"events":' + array + b"}"


def _spoil(draw: random.Random, content: bytes) -> bytes:
    """Return content with some bytes changed, removed, repeated or added."""
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.choice([1, 1, 10, 1000]))
        replaced = draw.choice([b"", content[at:end] * 2, draw.choice(_TOKENS), bytes([draw.randrange(256)])])
        content = content[:at] + replaced + content[end if draw.random() < 0.5 else at :]
    return content


def _frame(draw: random.Random, body: bytes, headers: dict[str, str]) -> tuple[bytes, bool]:
    """Return a body as it is sent, compressed and chunked or not, and whether its end can be told; set its headers."""
    if body and draw.random() < 0.3:
        coding = draw.choice(list(_CODERS)) if draw.random() < 0.1 else draw.choice(["gzip", "zstd"])
        headers["Content-Encoding"] = coding
        body = _CODERS[coding](body)
        if draw.random() < 0.2:
            body = draw.choice([_spoil(draw, body), body * 2, body + _CODERS[coding](b"") * 300])
    if body and draw.random() < 0.2:
        headers["Transfer-Encoding"] = "chunked"
        step = draw.choice([1, 7, 1000, 100_000]) if len(body) < 20_000 else 100_000
        parts = [body[at : at + step] for at in range(0, len(body), step)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        spoilt = draw.random() < 0.1
        return (_spoil(draw, framed) if spoilt else framed), not spoilt
    if body or draw.random() < 0.5:
        wrong = draw.random() < 0.02
        headers["Content-Length"] = str(len(body) + draw.choice([1, 10**6, 10**12]) if wrong else len(body))
        return body, not wrong
    return body, True


def make_value(draw: random.Random, kind: inspect.Type) -> Any:  # noqa: C901 - a case for each type
    """Make a value of a type; now and then one that is not."""
    if draw.random() < 0.03:
        return draw.choice(
            [draw.choice(_TEXTS), draw.choice(_NUMBERS), None, True, [], {}, [[]], {"a": [1, {"b": "c"}]}]
        )
    match kind:
        case inspect.Metadata() | inspect.UnionType():
            inner = kind.type if isinstance(kind, inspect.Metadata) else draw.choice(kind.types)
            return make_value(draw, inner)
        case inspect.LiteralType():
            return draw.choice(kind.values)
        case inspect.BoolType():
            return draw.random() < 0.5
        case inspect.IntType() | inspect.FloatType():
            low, high = kind.ge or 0, kind.le or kind.lt or 1000
            return draw.choice(
                [low, draw.randint(int(low), int(max(low, high))), draw.randint(0, 300), draw.choice(_NUMBERS)]
            )
        case inspect.DateTimeType():
            now = datetime(2026, 11, 28, 12, tzinfo=UTC)
            return (now - timedelta(hours=draw.uniform(-20, 24 * 30))).isoformat()
        case inspect.StrType():
            text = draw.choice(_TEXTS) if draw.random() < 0.15 else draw.choice(["shop", "billing", "/a", "GET", "ada"])
            return text[: kind.max_length] if kind.max_length and draw.random() < 0.9 else text
        case inspect.UUIDType():
            return str(UUID(int=draw.getrandbits(128)))
        case inspect.StructType():
            left_out = 0.02
            return {
                field.encode_name: make_value(draw, field.type)
                for field in kind.fields
                if draw.random() > (left_out if field.required else 0.6)
            }
        case inspect.ListType() | inspect.VarTupleType():
            return [make_value(draw, kind.item_type) for _ in range(draw.choice([0, 1, 3]))]
        case _:
            return {draw.choice(_TEXTS): draw.choice([draw.choice(_TEXTS), draw.choice(_NUMBERS), {"a": [1]}])}
