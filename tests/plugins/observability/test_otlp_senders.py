"""OTLP/HTTP as OpenTelemetry's own exporter sends it, from applications of four frameworks that it instruments."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django
import django.http
import django.test
import django.urls
import falcon
import falcon.testing
import fastapi
import flask
import httpx
import pytest
from django.conf import settings as django_settings
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.falcon import FalconInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind

from kernel.testing import Client
from tests.conftest import Serve
from tests.contract.tree import DOCS
from tests.listening import listening
from tests.plugins.observability.events import create, listed, unique_service

# Sends a GET to a path of an application; ignores what it is answered.
Get = Callable[[str], object]


class BrokenError(Exception):
    """What the applications fail with."""


def answer(user_id: int) -> str:
    """Answer for ``/users/…``: one user breaks the application."""
    if user_id == 500:
        raise BrokenError
    return "a user"


@contextmanager
def flask_app(provider: TracerProvider) -> Iterator[Get]:
    app = flask.Flask("shop")
    app.add_url_rule("/users/<int:user_id>", view_func=answer)
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)  # type: ignore[no-untyped-call] # not typed
    yield app.test_client().get


@contextmanager
def fastapi_app(provider: TracerProvider) -> Iterator[Get]:
    app = fastapi.FastAPI()
    app.add_api_route("/users/{user_id}", answer)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)

    async def get(path: str) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await client.get(path)

    yield lambda path: asyncio.run(get(path))


@contextmanager
def falcon_app(provider: TracerProvider) -> Iterator[Get]:
    class Users:
        def on_get(self, _req: falcon.Request, resp: falcon.Response, user_id: int) -> None:
            resp.text = answer(user_id)

    # This replaces falcon.App meanwhile.
    FalconInstrumentor().instrument(tracer_provider=provider)
    try:
        app = falcon.App()
        app.add_route("/users/{user_id:int}", Users())
        yield falcon.testing.TestClient(app).simulate_get
    finally:
        FalconInstrumentor().uninstrument()


def django_view(_request: object, user_id: int) -> django.http.HttpResponse:
    return django.http.HttpResponse(answer(user_id))


urlpatterns = [django.urls.path("users/<int:user_id>", django_view)]


@contextmanager
def django_app(provider: TracerProvider) -> Iterator[Get]:
    if not django_settings.configured:
        django_settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
        django.setup()
    # Other tests of this process may have configured it for theirs.
    django_settings.ROOT_URLCONF = __name__
    django_settings.MIDDLEWARE = []
    django_settings.SECRET_KEY = "any"
    DjangoInstrumentor().instrument(tracer_provider=provider)
    try:
        yield django.test.Client(raise_request_exception=False).get
    finally:
        DjangoInstrumentor().uninstrument()


APPS = {"flask": flask_app, "fastapi": fastapi_app, "django": django_app, "falcon": falcon_app}
# As each framework writes it.
ROUTES = {
    "flask": "/users/<int:user_id>",
    "fastapi": "/users/{user_id}",
    "django": "users/<int:user_id>",
    "falcon": "/users/{user_id:int}",
}


@contextmanager
def sending(url: str, service: str, **given: Any) -> Iterator[TracerProvider]:
    """Send spans to a service until the block ends, then those that wait."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=Compression.Gzip, **given)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    try:
        yield provider
    finally:
        provider.shutdown()


@pytest.fixture(scope="module")
def url(shared: Client) -> Iterator[str]:
    """The address of a service."""
    with listening(shared.service) as address:
        yield address


@pytest.mark.parametrize("opt_in", ["http", "", "http/dup"])
@pytest.mark.parametrize("name", APPS)
def test_requests_to_an_instrumented_application_are_events(
    shared: Client, url: str, monkeypatch: pytest.MonkeyPatch, name: str, opt_in: str
) -> None:
    # The variable is read once in a process.
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    service = unique_service()

    with sending(url, service) as provider, APPS[name](provider) as get:
        for path in ("/users/42?token=hunter2", "/users/500", "/elsewhere/17"):
            get(path)

    events = listed(shared, f"service={service}&ordering=time")
    assert [(event["endpoint"], event["method"], event["status_code"]) for event in events] == [
        (ROUTES[name], "GET", 200),
        (ROUTES[name], "GET", 500),
        # Django's has no path, unless the server adds the target of the request to the environment of WSGI.
        ("(no route)" if (name, opt_in) == ("django", "http") else "/elsewhere/{id}", "GET", 404),
    ]
    assert all(0 <= event["latency_ms"] < 10_000 and len(event["trace_id"]) == 32 for event in events)
    assert "hunter2" not in str(events)
    assert events[0]["tags"]["telemetry.sdk.language"] == "python"


def test_a_batch_that_is_sent_again_after_a_503_is_stored_once(shared: Client) -> None:
    """The service stores it, and the answer is lost: a proxy makes a 503 of it."""
    service = unique_service()
    answers: list[str] = []

    def proxy(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(line: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            answers.append(line)
            if len(answers) == 1:
                line, headers = "503 Service Unavailable", [("Retry-After", "0"), ("Content-Length", "0")]
            return start_response(line, headers, *more)

        return shared.service(environ, start)

    attributes: dict[str, str | int] = {
        "http.request.method": "GET",
        "http.route": "/",
        "http.response.status_code": 200,
    }
    with listening(proxy) as address, sending(address, service) as provider:
        provider.get_tracer("test").start_span("GET /", kind=SpanKind.SERVER, attributes=attributes).end()

    assert answers == ["200 OK", "200 OK"]
    assert len(listed(shared, f"service={service}")) == 1


def test_a_tracer_of_everything_else_succeeds(url: str) -> None:
    """Spans that are no requests are no errors: the exporter would drop and log what is refused."""
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("test").start_as_current_span("work") as span:
        pass

    assert OTLPSpanExporter(f"{url}/v1/traces").export([span]) is SpanExportResult.SUCCESS  # type: ignore[list-item] # the SDK makes no other


def test_a_service_sends_its_own_spans_to_another_one(
    shared: Client, url: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unique_service()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", service)
    sender = serve()
    ignored = shared.service.shared.statistics["observability"]()["spans_ignored"]

    created = create(sender)
    statuses = [sender.get(path).status for path in (created, "/api/requests/nothing/", "/wp-login.php")]
    sender.service.stop()

    assert statuses == [200, 404, 404]
    events = listed(shared, f"service={service}&ordering=time")
    assert [(event["endpoint"], event["method"], event["status_code"]) for event in events] == [
        ("/api/requests", "POST", 201),
        ("/api/requests/{id}", "GET", 200),
        ("/api/requests/{id}", "GET", 404),
        ("/wp-login.php", "GET", 404),
    ]
    assert events[0]["tags"]["service.version"]
    # Spans of statements are none of requests.
    assert shared.service.shared.statistics["observability"]()["spans_ignored"] > ignored


def test_the_example_of_the_documentation_sends_its_requests(
    shared: Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "howto" / "opentelemetry.md").read_text()
    variables = dict(re.findall(r"^export (OTEL_\w+)='?([^'\n]*)'?$", page.partition("```python")[0], re.MULTILINE))
    service = unique_service()
    for name, value in {**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": service}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    [example] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    names: dict[str, Any] = {}
    exec(example, names)
    assert names["app"].test_client().get("/orders/17").status_code == 200
    names["provider"].shutdown()

    [event] = listed(shared, f"service={service}")
    assert event["endpoint"] == "/orders/<int:order_id>"
    assert len(variables) == 5
