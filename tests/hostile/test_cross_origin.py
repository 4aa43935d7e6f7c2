"""Pages of other origins, as a browser sends their requests and hands them the responses, with real gunicorn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.hostile.raw_http import Answer, ask, exchange
from tests.processes import Service, copy_home, serving
from tests.session_plugin import COOKIE

pytestmark = pytest.mark.process

APP, EVIL = "https://app.example", "https://evil.example"
SESSION = "/session/"
# https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name, and what a preflight is not needed for.
SAFELISTED_RESPONSE_HEADERS = frozenset(
    {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
)
SAFELISTED_METHODS = frozenset({"GET", "HEAD", "POST"})
SAFELISTED_HEADERS = frozenset({"accept", "accept-language", "content-language"})
SECURITY_HEADERS = frozenset(
    {
        "content-security-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "referrer-policy",
        "x-content-type-options",
        "x-frame-options",
    }
)


class BlockedError(Exception):
    """The browser does not hand a response to the page."""


class Page(msgspec.Struct, frozen=True):
    """A page in a browser that has a session with the service.

    Args:
        port: Of the service.
        origin: Of the page.
    """

    port: int
    origin: str

    def fetch(self, method: str, path: str, **headers: str) -> Answer:
        """Do what ``fetch(..., {mode: "cors", credentials: "include"})`` does: ask first, and then send the cookie.

        Raises:
            BlockedError: The service does not allow the request, or the page to read the response.
        """
        names = sorted(name.lower().replace("_", "-") for name in headers)
        lines = [f"Origin: {self.origin}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors"]
        asked = [name for name in names if name not in SAFELISTED_HEADERS]
        if method not in SAFELISTED_METHODS or asked:
            preflight = [*lines, f"Access-Control-Request-Method: {method}"]
            if asked:
                preflight.append(f"Access-Control-Request-Headers: {','.join(asked)}")
            answer = ask(self.port, "OPTIONS", path, *preflight)
            allowed = answer.headers.get("access-control-allow-headers", "").lower().split(",")
            methods = answer.headers.get("access-control-allow-methods", "").split(", ")
            if not 200 <= answer.status < 300 or not self._is_shared(answer):
                raise BlockedError("preflight")
            if method not in {*SAFELISTED_METHODS, *methods} or not set(asked) <= set(allowed):
                raise BlockedError("not allowed")
        given = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        answer = ask(self.port, method, path, *lines, f"Cookie: {COOKIE}", *given)
        if not self._is_shared(answer):
            raise BlockedError(f"{answer.status}")
        exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
        readable = SAFELISTED_RESPONSE_HEADERS | exposed
        return Answer(
            answer.status, {name: value for name, value in answer.headers.items() if name in readable}, answer.content
        )

    def _is_shared(self, answer: Answer) -> bool:
        # With credentials, "*" counts for nothing.
        return (
            answer.headers.get("access-control-allow-origin") == self.origin
            and answer.headers.get("access-control-allow-credentials") == "true"
        )


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in mode ``required`` that knows a session, and lets pages of one site use it."""
    home = copy_home(initialised, tmp_path_factory.mktemp("origins"))
    own = {
        "TIERCEL_AUTH": "required",
        "TIERCEL_PLUGINS": "system,tests.session_plugin",
        "TIERCEL_HTTP__CORS_ORIGINS": f"{APP},https://*.example.org",
    }
    with serving(home, **own) as started:
        yield started


@pytest.mark.parametrize("origin", [APP, "https://any.example.org"])
def test_a_page_of_an_allowed_origin_uses_the_session_of_its_user(service: Service, origin: str) -> None:
    page = Page(service.port, origin)

    read = page.fetch("GET", SESSION, X_Debug_Resource_Tracking="true", X_Request_ID="mine")
    changed = page.fetch("PUT", SESSION, Content_Type="application/json")
    tracked = page.fetch("GET", f"/api/v1/resource-tracking/{read.headers['x-resource-tracking-id']}/")

    assert (read.status, read.json(), read.headers["x-request-id"]) == (200, "ada", "mine")
    assert read.headers.keys() >= {"etag", "traceparent", "server-timing", "x-resource-tracking-id", "x-request-id"}
    assert (changed.status, changed.json()) == (200, "ada")
    assert tracked.json()["data"]["request_id"] == "mine"


def test_a_page_of_an_allowed_origin_learns_why_its_request_fails(service: Service) -> None:
    page = Page(service.port, APP)
    large = "x" * 9000
    failures = [
        page.fetch("GET", "/nowhere/"),
        page.fetch("DELETE", SESSION),
        page.fetch("GET", f"{SESSION}?x=1"),
        page.fetch("POST", SESSION, Content_Type="text/plain"),
        # The server itself answers these.
        page.fetch("GET", f"/{large}"),
        page.fetch("GET", SESSION, Accept=large),
        page.fetch("GET", SESSION, X_Large=large, X_Request_ID="mine"),
    ]

    codes = [(each.status, each.json()["code"]) for each in failures]
    assert codes[:4] == [(404, "not_found"), (405, "method_not_allowed"), (400, "invalid"), (405, "method_not_allowed")]
    assert codes[4:] == [(414, "uri_too_long"), *[(431, "request_header_fields_too_large")] * 2]
    assert failures[-1].headers["x-request-id"] == "mine"
    assert all(each.headers["x-request-id"] == each.json()["request_id"] for each in failures)


def test_without_the_session_a_page_of_an_allowed_origin_is_told_to_authenticate(service: Service) -> None:
    answer = ask(service.port, "GET", SESSION, f"Origin: {APP}")

    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, APP)
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"].split(", ")


@pytest.mark.parametrize("origin", [EVIL, "null", "http://app.example", "http://localhost:3000"])
def test_a_page_of_another_origin_reads_and_changes_nothing(service: Service, origin: str) -> None:
    page = Page(service.port, origin)

    for method, headers in (
        ("GET", {}),
        ("GET", {"X_Debug_Resource_Tracking": "true"}),
        ("PUT", {"Content_Type": "application/json"}),
        ("POST", {"Content_Type": "text/plain"}),
    ):
        with pytest.raises(BlockedError):
            page.fetch(method, SESSION, **headers)
    forced = ask(service.port, "PUT", SESSION, f"Origin: {origin}", f"Cookie: {COOKIE}", "Sec-Fetch-Site: cross-site")
    assert (forced.status, forced.json()["code"]) == (403, "cross_site")


def test_what_the_server_answers_itself_has_the_headers_of_every_response(service: Service) -> None:
    wrong = [
        exchange(service.port, "GET\r\n\r\n"),
        exchange(service.port, "GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        exchange(service.port, f"GET /livez HTTP/1.1\r\nHost: a\r\nOrigin: {EVIL}\r\nA b: c\r\n\r\n"),
        exchange(service.port, f"GET /{'a' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]

    for [answer] in [*wrong, [ask(service.port, "GET", "/livez")], [ask(service.port, "GET", SESSION)]]:
        assert answer.headers.keys() >= SECURITY_HEADERS | {"x-request-id", "traceparent"}
        assert answer.headers["cache-control"] == "no-store"
        assert "Origin" in answer.headers["vary"].split(", ")
        assert "access-control-allow-origin" not in answer.headers
