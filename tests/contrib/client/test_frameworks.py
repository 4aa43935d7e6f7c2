"""The lines of the client's README, in real applications of the frameworks it names."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import django
import falcon
import falcon.asgi
import fastapi
import flask
import httpx
import pytest
import starlette.applications
from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path as django_path
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from kernel.testing import Client
from tests.contract.tree import ROOT
from tests.contrib.client.conftest import stored
from tests.contrib.client.front import Front
from tests.processes import eventually
from tiercel_client import TiercelASGI

README = (ROOT / "contrib" / "client" / "README.md").read_text()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
Call = Callable[[str, str], int]
# Method, path, and what is stored of the request: status and endpoint, in the words of most frameworks.
REQUESTS = [
    ("GET", "/orders/42", 200, "/orders/{number}"),
    ("HEAD", "/orders/43", 200, "/orders/{number}"),
    ("POST", "/orders/44", 405, None),
    ("GET", "/stream", 200, "/stream"),
    ("GET", "/fail", 500, "/fail"),
    ("GET", "/nothing/here", 404, "(no route)"),
    ("GET", "/healthz", 404, None),
]


def run_readme(title: str, front: Front, service: str, **names: Any) -> dict[str, Any]:
    """Run the Python of a section of the README, as it stands but for what is sent where."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    exec(block.replace("https://logs.example", front.url).replace('"shop"', f'"{service}"'), names)
    return names


def call_wsgi(app: Any) -> Call:
    """Return a client of a WSGI application, which checks that it keeps to PEP 3333."""
    checked = validator(app)

    def call(method: str, path: str) -> int:
        environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
        environ["HTTP_TRACEPARENT"] = HEADERS["traceparent"]
        setup_testing_defaults(environ)
        answered: list[str] = []
        body = checked(environ, lambda status, headers, exc_info=None: answered.append(status) or (lambda data: None))
        try:
            for _ in body:
                pass
        finally:
            body.close()
        return int(answered[0][:3])

    return call


def call_asgi(app: Any) -> Call:
    """Return a client of an ASGI application."""

    def call(method: str, path: str) -> int:
        async def send() -> int:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return (await client.request(method, path, headers=HEADERS)).status_code

        return asyncio.run(send())

    return call


def check(
    call: Call, store: Client, service: str, *, templates: dict[str, str], fails_with: type[Exception] | None
) -> None:
    """Send the requests, and compare what is stored with what was answered."""
    expected = []
    for method, path, status, endpoint in REQUESTS:
        if path == "/fail" and fails_with is not None:
            with pytest.raises(fails_with):
                call(method, path)
        else:
            assert call(method, path) == status
        if path != "/healthz":
            expected.append((method, status, templates.get(path, endpoint)))

    assert eventually(lambda: len(stored(store, service)) == len(expected))

    events = stored(store, service)
    assert [(event["method"], event["status_code"], event["endpoint"]) for event in events] == expected
    assert {event["trace_id"] for event in events} == {TRACE}
    assert all(0 <= event["latency_ms"] < 30_000 for event in events)
    # A stream lasts until its end.
    assert events[3]["latency_ms"] >= 40


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_CLIENT_FLUSH_INTERVAL_S", "0.02")


def drip() -> Iterator[bytes]:
    for _ in range(2):
        yield b"x"
        time.sleep(0.02)


async def drip_async() -> AsyncIterator[bytes]:
    for _ in range(2):
        yield b"x"
        await asyncio.sleep(0.02)


# --- WSGI -----------------------------------------------------------------------------------------------------------


def test_flask(front: Front, store: Client) -> None:
    app = flask.Flask("shop")
    app.testing = True  # exceptions propagate

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        return str(number)

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(drip())

    @app.get("/fail")
    def fail() -> str:
        raise LookupError

    run_readme("Flask", front, "flask", app=app)

    templates = {f"/orders/{number}": "/orders/<int:number>" for number in (42, 43)} | {"/orders/44": "(no route)"}
    check(call_wsgi(app), store, "flask", templates=templates, fails_with=LookupError)


def test_falcon(front: Front, store: Client) -> None:
    class Order:
        def on_get(self, req: falcon.Request, resp: falcon.Response, number: str) -> None:
            resp.text = number

        on_head = on_get

    class Stream:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            resp.stream = drip()

    class Fail:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            raise LookupError

    app = falcon.App()
    app.add_route("/orders/{number}", Order())
    app.add_route("/stream", Stream())
    app.add_route("/fail", Fail())

    app = run_readme("Falcon", front, "falcon", app=app)["app"]

    templates = {"/orders/44": "/orders/{number}"}
    check(call_wsgi(app), store, "falcon", templates=templates, fails_with=None)


# --- ASGI -----------------------------------------------------------------------------------------------------------


def test_falcon_asgi(front: Front, store: Client) -> None:
    class Order:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, number: str) -> None:
            resp.text = number

        on_head = on_get

    class Stream:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            resp.stream = drip_async()

    class Fail:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            raise LookupError

    app = falcon.asgi.App()
    app.add_route("/orders/{number}", Order())
    app.add_route("/stream", Stream())
    app.add_route("/fail", Fail())

    wrapped = TiercelASGI(app, front.url, "tk_test", "falcon-asgi")

    templates = {"/orders/44": "/orders/{number}"}
    check(call_asgi(wrapped), store, "falcon-asgi", templates=templates, fails_with=None)


def test_fastapi(front: Front, store: Client) -> None:
    app = fastapi.FastAPI()
    router = fastapi.APIRouter()

    @router.api_route("/{number}", methods=["GET", "HEAD"])
    async def order(number: int) -> int:
        return number

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(drip_async())

    @app.get("/fail")
    async def fail() -> None:
        raise LookupError

    # The prefix is not in the path of the route.
    app.include_router(router, prefix="/orders")
    run_readme("FastAPI", front, "fastapi", app=app)

    templates = {"/orders/44": "/orders/{number}"}
    check(call_asgi(app), store, "fastapi", templates=templates, fails_with=LookupError)


def test_starlette(front: Front, store: Client) -> None:
    async def order(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.path_params["number"])

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(drip_async())

    async def fail(request: Any) -> None:
        raise LookupError

    routes = [
        Mount("/orders", routes=[Route("/{number}", order)]),
        Route("/stream", stream),
        Route("/fail", fail),
    ]
    app = starlette.applications.Starlette(routes=routes)
    run_readme("Starlette", front, "starlette", app=app)

    templates = {"/orders/44": "/orders/{number}"}
    check(call_asgi(app), store, "starlette", templates=templates, fails_with=LookupError)


# --- Django ---------------------------------------------------------------------------------------------------------


def django_order(request: Any, number: int) -> HttpResponse:
    return HttpResponse(str(number), status=200 if request.method in ("GET", "HEAD") else 405)


def django_fail(request: Any) -> HttpResponse:
    raise LookupError


def django_stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(drip_async() if hasattr(request, "scope") else drip())


class DjangoUrls:
    urlpatterns = (
        django_path("orders/<int:number>", django_order),
        django_path("stream", django_stream),
        django_path("fail", django_fail),
    )


def configure_django(front: Front, service: str) -> None:
    found = run_readme("Django", front, service, MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
    if not django_settings.configured:
        django_settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
        django.setup()
    # Other tests of this process may have configured it for theirs.
    django_settings.ROOT_URLCONF = DjangoUrls
    django_settings.MIDDLEWARE = found["MIDDLEWARE"]
    django_settings.TIERCEL_CLIENT = found["TIERCEL_CLIENT"]


DJANGO_TEMPLATES = {f"/orders/{number}": "/orders/<int:number>" for number in (42, 43, 44)}


def test_django(front: Front, store: Client) -> None:
    configure_django(front, "django")

    check(call_wsgi(WSGIHandler()), store, "django", templates=DJANGO_TEMPLATES, fails_with=None)


def test_django_asgi(front: Front, store: Client) -> None:
    configure_django(front, "django-asgi")

    check(call_asgi(ASGIHandler()), store, "django-asgi", templates=DJANGO_TEMPLATES, fails_with=None)
