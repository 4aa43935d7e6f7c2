"""The order of the way in: request id, security headers, CORS, authentication, account, plan, throttle, resource
tracking, parameters, handler.

The first three wrap the rest, so that whatever refuses a request, its response has their headers.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from kernel.contracts import Application, Route
from kernel.errors import UnavailableError
from kernel.services import Services
from kernel.testing import Client, Result
from tests.kernel.fakes import Boot, KeyAuthenticator, MakePlugin, make_identity

ID = "from-the-client"
APP = "https://app.example"
TRACKED = "resource tracking"
IDENTITIES = {
    "nobody": make_identity(account=None, has_active_plan=False),
    "poor": make_identity(has_active_plan=False),
    "reader": make_identity("read"),
    "busy": make_identity("ingest", key=1),
    "writer": make_identity("ingest", role="developer"),
}


class Query(msgspec.Struct, frozen=True):
    size: int = 1


class Body(msgspec.Struct, frozen=True):
    name: str


def handle(
    application: Application | None, number: Annotated[int, msgspec.Meta(ge=1)], query: Query, body: Body
) -> str:
    """Answer, unless the body says otherwise."""
    if body.name == "down":
        raise UnavailableError("down")
    return body.name


@pytest.fixture
def client(boot: Boot, make_plugin: MakePlugin) -> Client:
    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(KeyAuthenticator(IDENTITIES))
        path = "/x/public/items/{number}/"
        return [Route(path=path, handler=handle, policy="ingest", method="POST", per_application=True)]

    acme = Application(slug="acme", name="Acme")
    plugin = make_plugin("alpha", register_routes=register_routes, register_applications=lambda: [acme])
    http = {"allowed_hosts": ["127.0.0.1"], "max_body_bytes": 1024, "cors_origins": [APP]}
    client = boot(plugin, auth="required", http=http, throttle={"backend": "memory", "rates": {"ingest": "100/day"}})
    throttles = client.service.shared.throttles
    throttles.open()
    for _ in range(100):
        throttles.hit("ingest", "key 1")
    return client


def test_each_step_of_the_way_in_comes_before_the_next(client: Client) -> None:
    # Wrong in every respect, and then in one less each time: what is answered is what is checked first.
    given: dict[str, Any] = {
        "method": "GET",
        "path": "/x/public/nobody/items/zero/?size=many",
        "content": b"x" * 1025,
        "headers": {
            "X-Request-ID": ID,
            "X-Debug-Resource-Tracking": "true",
            "Host": "a b",
            "Origin": "https://evil.example",
            "Content-Type": "text/plain",
        },
    }
    steps: list[tuple[str, int, str, dict[str, Any], dict[str, str]]] = [
        ("host", 400, "malformed", {}, {}),
        ("route", 405, "method_not_allowed", {}, {"Host": "other.example"}),
        ("allowed host", 400, "malformed", {"method": "POST"}, {}),
        ("authentication", 401, "unauthorized", {}, {"Host": "127.0.0.1"}),
        ("authentication", 401, "unauthorized", {}, {"X-Key": "unknown"}),
        ("origin", 403, "cross_site", {}, {"X-Key": "nobody"}),
        ("media type", 415, "unsupported_media_type", {}, {"Origin": APP}),
        ("account", 403, "no_account", {}, {"Content-Type": "text/csv"}),
        ("plan", 402, "plan_inactive", {}, {"X-Key": "poor"}),
        ("scope", 403, "forbidden", {}, {"X-Key": "reader"}),
        # After all that says who it is and what the plan allows, before any work.
        ("throttle", 429, "throttled", {}, {"X-Key": "busy"}),
        (TRACKED, 404, "not_found", {}, {"X-Key": "writer"}),  # of the application, which comes next
        ("path", 404, "not_found", {"path": "/x/public/acme/items/zero/?size=many"}, {}),
        ("query", 400, "invalid", {"path": "/x/public/acme/items/1/?size=many"}, {}),
        ("body", 415, "unsupported_media_type", {"path": "/x/public/acme/items/1/?size=2"}, {}),
        ("body", 413, "too_large", {}, {"Content-Type": "application/json"}),
        ("body", 400, "malformed", {"content": b"{"}, {}),
        ("body", 400, "invalid", {"content": b"{}"}, {}),
        ("handler", 503, "unavailable", {"content": b'{"name": "down"}'}, {}),
    ]
    passed: list[str] = []
    for step, status, code, more, headers in steps:
        given |= more
        given["headers"] |= headers
        passed.append(step)

        answer = client.request(**given)

        assert (answer.status, answer.json()["code"]) == (status, code), (step, answer.content)
        assert answer.json()["request_id"] == ID
        assert_outer_steps(answer, given["headers"]["Origin"], is_tracked=TRACKED in passed)
    good = client.request(**{**given, "content": b'{"name": "up"}'})
    assert (good.status, good.json()) == (200, "up")
    assert_outer_steps(good, APP, is_tracked=True)


def assert_outer_steps(answer: Result, origin: str, *, is_tracked: bool) -> None:
    """Ensure that a response passed what every one does, whatever refused the request."""
    assert answer.headers["x-request-id"] == ID
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers.get("access-control-allow-origin") == (APP if origin == APP else None)
    assert answer.headers["cache-control"] == "no-store"
    assert ("x-resource-tracking-id" in answer.headers) is is_tracked


def test_a_preflight_comes_before_all_that_looks_at_the_request(client: Client) -> None:
    answer = client.request(
        "OPTIONS",
        "/x/public/nobody/items/zero/",
        headers={"Origin": APP, "Access-Control-Request-Method": "POST", "X-Request-ID": ID, "X-Key": "unknown"},
    )

    assert (answer.status, answer.headers["x-request-id"]) == (204, ID)
    assert answer.headers["x-content-type-options"] == "nosniff"
