"""The headers that every response has: for browsers, and for caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kernel.contracts import Method, Policy, Route
from kernel.errors import NotFoundError
from kernel.http.response import PreparedResponse, Response, StreamingResponse
from kernel.http.response_headers import page_policy
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.fakes import Boot, KeyAuthenticator, MakePlugin, make_identity, raise_oops

Mount = Callable[..., Client]
IDENTITY = "Authorization, Cookie, X-API-Key, X-Account, X-Site"
TLS = {"http": {"trusted_proxies": ["unix"]}}


def raise_not_found() -> None:
    """Find nothing."""
    raise NotFoundError


def answering(path: str, headers: Mapping[str, str] = {}, method: Method = "GET", policy: Policy = "public") -> Route:
    """Return a route that answers with some headers."""
    return Route(path=path, handler=lambda: Response("hello", headers=headers), policy=policy, method=method)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/plain/", 200), ("/prepared/", 304), ("/stream/", 200), ("/gone/", 404), ("/oops/", 500), ("/nowhere/", 404)],
)
def test_every_response_tells_browsers_to_be_careful(path: str, status: int, mount: Mount) -> None:
    prepared = PreparedResponse("304 Not Modified", {"etag": '"a"'}, None)
    client = mount(
        answering("/plain/"),
        Route(path="/prepared/", handler=lambda: prepared, policy="public"),
        Route(path="/stream/", handler=lambda: StreamingResponse([b"x"], "text/csv"), policy="public"),
        Route(path="/gone/", handler=raise_not_found, policy="public"),
        Route(path="/oops/", handler=raise_oops, policy="public"),
    )

    answer = client.get(path)

    assert answer.status == status
    found = {
        name: answer.headers[name]
        for name in (
            "x-content-type-options",
            "x-frame-options",
            "content-security-policy",
            "referrer-policy",
            "cross-origin-resource-policy",
            "cross-origin-opener-policy",
        )
    }
    assert found == {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "referrer-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }
    assert "strict-transport-security" not in answer.headers
    # What it prepared may be sent again.
    assert prepared.headers == {"etag": '"a"'}


def test_a_page_may_load_what_the_service_has_and_what_a_handler_sets_stays(mount: Mount) -> None:
    own_headers = {"Content-Security-Policy": "frame-ancestors https://a.example", "Referrer-Policy": "origin"}
    client = mount(
        Route(path="/page/", handler=lambda: StreamingResponse([b"<p>"], "text/html; charset=utf-8"), policy="public"),
        answering("/own/", own_headers),
    )

    page, own = client.get("/page/").headers, client.get("/own/").headers

    assert page["content-security-policy"] == page_policy()
    assert page["cache-control"] == "no-cache"
    assert (own["content-security-policy"], own["referrer-policy"]) == ("frame-ancestors https://a.example", "origin")


@pytest.mark.parametrize(
    ("values", "scheme", "expected"),
    [
        (TLS, "https", "max-age=31536000"),
        (TLS, "http", None),
        ({}, "https", None),
        ({"http": {**TLS["http"], "hsts_max_age_s": 60}}, "https", "max-age=60"),
        ({"http": {**TLS["http"], "hsts_max_age_s": 0}}, "https", None),
    ],
)
def test_hsts_is_sent_behind_tls_only(values: dict[str, Any], scheme: str, expected: str | None, mount: Mount) -> None:
    client = mount(answering("/plain/"), **values)

    for path in ("/plain/", "/nowhere/"):
        answer = client.get(path, headers={"X-Forwarded-Proto": scheme})
        assert answer.headers.get("strict-transport-security") == expected


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(boot: Boot, make_plugin: MakePlugin) -> Client:
    """A service in mode ``required`` with routes that set some ``Cache-Control``, or none."""
    given: dict[str, dict[str, str]] = {
        "none": {},
        "etag": {"ETag": '"a"'},
        "public": {
            "Cache-Control": "public, max-age=60, s-maxage=600, stale-if-error=86400",
            "Vary": "Accept-Encoding",
        },
        "shared": {"Cache-Control": "max-age=60", "Vary": "cookie"},
        "private": {"Cache-Control": "private, max-age=60"},
        "stored": {"Cache-Control": "no-store"},
    }

    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(KeyAuthenticator({"k": make_identity("read", "ingest")}))
        return [
            *(answering(f"/read/{name}/", headers, policy="read") for name, headers in given.items()),
            *(answering(f"/public/{name}/", headers) for name, headers in given.items()),
            answering("/write/", method="POST", policy="ingest"),
            answering("/login/", method="POST"),
            Route(path="/gone/", handler=raise_not_found, policy="public"),
            Route(path="/oops/", handler=raise_oops, policy="read"),
        ]

    return boot(make_plugin("alpha", register_routes=register_routes), auth="required")


@pytest.mark.parametrize(
    ("name", "headers", "status", "cache_control", "vary"),
    [
        ("none", {}, 200, "no-store", None),
        ("etag", {}, 200, "private, no-cache", IDENTITY),
        ("etag", {"If-None-Match": '"a"'}, 304, "private, no-cache", IDENTITY),
        ("etag", {"If-Match": '"b"'}, 412, "no-store", "Accept"),
        ("public", {}, 200, "private, max-age=60, stale-if-error=86400", f"Accept-Encoding, {IDENTITY}"),
        ("shared", {}, 200, "private, max-age=60", "cookie, Authorization, X-API-Key, X-Account, X-Site"),
        ("private", {}, 200, "private, max-age=60", IDENTITY),
        ("stored", {}, 200, "no-store", None),
    ],
)
def test_what_is_authenticated_is_not_for_shared_caches(
    name: str, headers: dict[str, str], status: int, cache_control: str, vary: str | None, client: Client
) -> None:
    answer = client.get(f"/read/{name}/", headers={"X-Key": "k", **headers})

    assert (answer.status, answer.headers["cache-control"], answer.headers.get("vary")) == (status, cache_control, vary)


@pytest.mark.parametrize(
    ("name", "cache_control"),
    [
        ("none", None),
        ("etag", None),
        ("public", "public, max-age=60, s-maxage=600, stale-if-error=86400"),
        ("stored", "no-store"),
    ],
)
def test_what_is_public_is_cached_as_its_handler_says(name: str, cache_control: str | None, client: Client) -> None:
    answer = client.get(f"/public/{name}/", headers={"X-Key": "k"})

    assert (answer.headers.get("cache-control"), IDENTITY in answer.headers.get("vary", "")) == (cache_control, False)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/gone/", 404),
        ("GET", "/nowhere/", 404),
        ("GET", "/read/public/", 401),
        ("GET", "/oops/", 500),
        ("DELETE", "/gone/", 405),
        ("POST", "/write/", 200),
        ("POST", "/login/", 200),
    ],
)
def test_errors_and_what_changes_something_are_not_stored(method: str, path: str, status: int, client: Client) -> None:
    headers = {} if status == 401 else {"X-Key": "k"}

    answer = client.request(method, path, headers=headers)

    assert (answer.status, answer.headers["cache-control"]) == (status, "no-store")


def test_in_mode_open_the_same_routes_are_private(mount: Mount) -> None:
    client = mount(answering("/read/", {"ETag": '"a"'}, policy="read"), http={"cors_local_ports": []})

    answer = client.get("/read/")

    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("private, no-cache", IDENTITY)
