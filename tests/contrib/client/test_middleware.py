"""Middlewares pass on what an application does, and report each request once, whatever that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from tiercel_client import Accepted, Reporter, Tiercel, TiercelASGI
from tiercel_client.endpoints import ENDPOINT_KEY, Endpoints

UUID = "0192f7d2-7f6e-7cc3-98c4-dc0c0c07398f"


class Recorder(Reporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("", service="shop")
        self.events: list[dict[str, Any]] = []

    def report(self, **event: Any) -> Accepted:
        self.events.append(event)
        return Accepted.MEMORY

    @property
    def only(self) -> tuple[Any, ...]:
        (event,) = self.events
        return event["method"], event["endpoint"], event["status_code"]


# --- WSGI -----------------------------------------------------------------------------------------------------------


def environ_of(path: str, **values: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"PATH_INFO": path, **values}
    setup_testing_defaults(environ)
    return environ


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
    return lambda data: None


def answering(body: Any, status: str = "200 OK") -> Any:
    def app(environ: dict[str, Any], start: Any) -> Any:
        start(status, [])
        return body

    return app


def broken_body() -> Iterator[bytes]:
    yield b"x"
    raise LookupError


def test_an_exception_passes_through_as_500() -> None:
    def app(environ: Any, start: Any) -> Any:
        raise SystemExit

    recorder = Recorder()
    with pytest.raises(SystemExit):
        Tiercel(app, reporter=recorder)(environ_of("/orders/42"), start_response)

    assert recorder.only == ("GET", "/orders/{id}", 500)


def test_a_body_that_breaks_is_500_and_one_whose_client_has_gone_is_not() -> None:
    recorder = Recorder()
    body = Tiercel(answering(broken_body()), reporter=recorder)(environ_of("/a"), start_response)
    with pytest.raises(LookupError):
        list(body)
    body.close()  # type: ignore[attr-defined] # as servers do
    assert recorder.only == ("GET", "/a", 500)
    recorder.events.clear()

    body = Tiercel(answering(broken_body()), reporter=recorder)(environ_of("/b"), start_response)
    next(iter(body))
    body.close()  # type: ignore[attr-defined] # as servers do

    assert recorder.only == ("GET", "/b", 200)


def test_a_body_keeps_its_length_and_its_file(tmp_path: Any) -> None:
    recorder = Recorder()
    body: Any = Tiercel(answering([b"xy"]), reporter=recorder)(environ_of("/a"), start_response)
    assert (len(body), list(body)) == (1, [b"xy"])
    body.close()

    with (tmp_path / "file").open("w+b") as file:
        environ = environ_of("/file", **{"wsgi.file_wrapper": FileWrapper})
        sent: Any = Tiercel(answering(FileWrapper(file)), reporter=recorder)(environ, start_response)
        assert type(sent) is FileWrapper
        sent.close()
        assert file.closed

    assert [event["endpoint"] for event in recorder.events] == ["/a", "/file"]


def test_hooks_are_called_after_the_response_and_may_fail() -> None:
    recorder = Recorder()

    def app(environ: dict[str, Any], start: Any) -> Any:
        environ["user"] = "ada"
        environ["REQUEST_METHOD"] = "CHANGED"
        environ[ENDPOINT_KEY] = "/given/{name}"
        start("204 No Content", [])
        return []

    # A hook that raises, of the type of no hook.
    user, tags = (lambda environ: environ["user"]), (lambda environ: 1 / 0)
    wrapped = Tiercel(app, reporter=recorder, user=user, tags=tags)  # type: ignore[arg-type]
    body: Any = wrapped(
        environ_of("/x", SCRIPT_NAME="/base", HTTP_TRACEPARENT=f"00-{'0' * 32}-{'1' * 16}-01"), start_response
    )
    body.close()

    (event,) = recorder.events
    assert recorder.only == ("GET", "/base/given/{name}", 204)
    assert (event["user_ref"], event["tags"], event["trace_id"]) == ("ada", None, None)
    assert recorder.counters().hook_errors == 1


def test_ignored_paths_are_not_reported() -> None:
    recorder = Recorder()
    app = Tiercel(answering([]), reporter=recorder, ignore=["/metrics"])
    for path in ("/metrics", "/metrics/", "/healthz"):
        body: Any = app(environ_of(path), start_response)
        if hasattr(body, "close"):
            body.close()

    assert recorder.only == ("GET", "/healthz", 200)


# --- ASGI -----------------------------------------------------------------------------------------------------------


def run_asgi(app: Any, scope: dict[str, Any], messages: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    """Call an ASGI application, and return what it sends."""
    sent: list[dict[str, Any]] = []
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def http_scope(path: str = "/a") -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": []}


async def answer(send: Any, *bodies: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for body in bodies:
        await send({"type": "http.response.body", "body": b"x", **body})


def test_latency_lasts_until_the_last_part_of_the_body_not_until_the_work_after_it() -> None:
    recorder = Recorder()
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, {"more_body": True})
        await asyncio.sleep(0.05)
        seen.append(len(recorder.events))
        await send({"type": "http.response.body", "body": b""})
        seen.append(len(recorder.events))
        await asyncio.sleep(0.01)

    sent = run_asgi(TiercelASGI(app, reporter=recorder), http_scope())

    assert seen == [0, 1]
    assert len(sent) == 3
    assert recorder.only == ("GET", "/a", 200)
    assert recorder.events[0]["latency_ms"] >= 45


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ("raises", 500),
        ("raises after its body", 200),
        ("is cancelled", 499),
        ("gives up", 499),
        ("gives up within its body", 200),
    ],
)
def test_a_request_is_reported_however_it_ends(ends: str, status: int) -> None:
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if ends == "raises after its body":
            await answer(send, {})
        if ends == "gives up within its body":
            await answer(send, {"more_body": True})
        if ends.startswith("raises"):
            raise LookupError
        if ends == "is cancelled":
            raise asyncio.CancelledError

    try:
        run_asgi(TiercelASGI(app, reporter=recorder), http_scope())
    except (LookupError, asyncio.CancelledError):
        assert ends.startswith(("raises", "is cancelled"))

    assert recorder.only == ("GET", "/a", status)


def test_websockets_pass_through() -> None:
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(await receive())

    message = {"type": "websocket.connect"}

    assert run_asgi(TiercelASGI(app, reporter=recorder), {"type": "websocket", "path": "/a"}, (message,)) == [message]
    assert recorder.events == []


def test_the_end_of_the_lifespan_flushes_without_holding_up_the_loop() -> None:
    ticks: list[float] = []

    class Slow(Recorder):
        def flush(self, timeout_s: float = 5.0) -> bool:
            time.sleep(0.2)
            self.events.append({})
            return True

    recorder = Slow()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def tick() -> None:
            while True:
                ticks.append(time.monotonic())
                await asyncio.sleep(0.01)

        task = asyncio.create_task(tick())
        await send({"type": "lifespan.shutdown.complete"})
        task.cancel()

    sent = run_asgi(TiercelASGI(app, reporter=recorder), {"type": "lifespan"})

    assert sent == [{"type": "lifespan.shutdown.complete"}]
    assert len(recorder.events) == 1
    assert len(ticks) > 3


def test_a_spool_that_writes_within_the_loop_is_refused(tmp_path: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ValueError, match="spool_write"):
        TiercelASGI(app, "http://127.0.0.1:9", service="shop", spool_dir=str(tmp_path), spool_write="event")


# --- endpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/orders/42/items/7", "/orders/{id}/items/{id}"),
        (f"/users/{UUID}", "/users/{uuid}"),
        ("/blobs/9f86d081884c7d659a2feaa0c55ad015", "/blobs/{hash}"),
        ("/v2/top10/", "/v2/top10/"),
        ("//", "//"),
        ("/straße".encode().decode("latin-1"), "/straße"),
    ],
)
def test_identifiers_in_paths_become_templates(path: str, template: str) -> None:
    assert Endpoints().of_environ({"PATH_INFO": path}, 200) == template


class Routed:
    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize(
    ("path", "route", "parameters", "endpoint"),
    [
        ("/orders/42", "/orders/{id}", {"id": 42}, "/orders/{id}"),
        ("/v1/orders/42", "/orders/{id}", {"id": 42}, "/v1/orders/{id}"),
        ("/t/acme/orders/42", "/orders/{id}", {"id": 42, "tenant": "acme"}, "/t/{tenant}/orders/{id}"),
        ("/files/a/b/c", "/files/{rest:path}", {"rest": "a/b/c"}, "/files/{rest:path}"),
        ("/v1/files/a/b/c", "/files/{rest:path}", {"rest": "a/b/c"}, "/v1/files/{rest:path}"),
        ("/static/css/site.css", "/static", {}, "/static"),
        ("/", "/", {}, "/"),
        ("/sub/", "/", {}, "/sub/"),
    ],
)
def test_a_route_has_the_prefixes_of_its_routers(
    path: str, route: str, parameters: dict[str, Any], endpoint: str
) -> None:
    scope = {"route": Routed(route), "path_params": parameters}

    assert Endpoints().of_scope(scope, path, 200) == endpoint


def test_the_number_of_endpoints_is_bounded() -> None:
    endpoints = Endpoints(paths_max=3)

    found = [endpoints.of_environ({"PATH_INFO": f"/word-{letter}"}, 200) for letter in "abcdea"]

    assert found == ["/word-a", "/word-b", "/word-c", "(other)", "(other)", "/word-a"]
    assert endpoints.of_environ({"PATH_INFO": "/word-f"}, 404) == "(no route)"
