"""The order in which a request is checked, and that every response has the id of its request."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from kernel.contracts import Application, Route
from kernel.errors import UnavailableError
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.fakes import Boot, KeyAuthenticator, MakePlugin, make_identity

ID = "from-the-client"
IDENTITIES = {
    "nobody": make_identity(account=None, has_active_plan=False),
    "poor": make_identity(has_active_plan=False),
    "reader": make_identity("read"),
    "writer": make_identity("ingest"),
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
    return boot(plugin, auth="required", http={"allowed_hosts": ["127.0.0.1"], "max_body_bytes": 1024})


def test_each_check_is_made_before_the_next_and_every_response_has_the_request_id(client: Client) -> None:
    # Wrong in every respect, and then in one less each time.
    given: dict[str, Any] = {
        "method": "GET",
        "path": "/x/public/nobody/items/zero/?size=many",
        "content": b"x" * 1025,
        "headers": {
            "X-Request-ID": ID,
            "Host": "other.example",
            "Origin": "https://evil.example",
            "Content-Type": "text/plain",
        },
    }
    corrections: list[tuple[int, str, dict[str, Any], dict[str, str]]] = [
        (405, "method_not_allowed", {}, {}),
        (400, "malformed", {"method": "POST"}, {}),
        (401, "unauthorized", {}, {"Host": "127.0.0.1"}),
        (401, "unauthorized", {}, {"X-Key": "unknown"}),
        (403, "no_account", {}, {"X-Key": "nobody"}),
        (402, "plan_inactive", {}, {"X-Key": "poor"}),
        (403, "forbidden", {}, {"X-Key": "reader"}),
        (403, "cross_site", {}, {"X-Key": "writer"}),
        (415, "unsupported_media_type", {}, {"Origin": "http://127.0.0.1"}),
        (404, "not_found", {}, {"Content-Type": "text/csv"}),
        (404, "not_found", {"path": "/x/public/acme/items/zero/?size=many"}, {}),
        (400, "invalid", {"path": "/x/public/acme/items/1/?size=many"}, {}),
        (415, "unsupported_media_type", {"path": "/x/public/acme/items/1/?size=2"}, {}),
        (413, "too_large", {}, {"Content-Type": "application/json"}),
        (400, "malformed", {"content": b"{"}, {}),
        (400, "invalid", {"content": b"{}"}, {}),
        (503, "unavailable", {"content": b'{"name": "down"}'}, {}),
    ]
    for status, code, more, headers in corrections:
        given |= more
        given["headers"] |= headers

        answer = client.request(**given)

        assert (answer.status, answer.json()["code"]) == (status, code), answer.content
        assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (ID, ID)
    good = client.request(**{**given, "content": b'{"name": "up"}'})
    assert (good.status, good.json(), good.headers["x-request-id"]) == (200, "up", ID)
