"""Which pages of other origins may use the service, and what browsers are told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kernel.contracts import Route
from kernel.errors import ConfigError
from kernel.http.cors import EXPOSED_HEADERS, AllowedOrigins
from kernel.http.response import Response
from kernel.services import Services
from kernel.testing import Client, Result, make_configuration
from tests.kernel.fakes import Boot, KeyAuthenticator, MakePlugin, make_identity

Mount = Callable[..., Client]
APP = "https://app.example"
REQUIRED = {"auth": "required", "http": {"cors_origins": [APP, "https://*.example.org"]}}
PREFLIGHT = {"Access-Control-Request-Method": "PATCH"}


def origins_of(**values: Any) -> AllowedOrigins:
    """Return the allowed origins of a configuration."""
    return AllowedOrigins(make_configuration(**values).settings)


def allowed(answer: Result) -> tuple[str | None, str | None]:
    """Return the origin that a response is for, and whether it may be read with credentials."""
    names = ("access-control-allow-origin", "access-control-allow-credentials")
    first, second = (answer.headers.get(name) for name in names)
    return first, second


def read() -> Response[str]:
    """Answer with a validator."""
    return Response("hello", headers={"ETag": '"a"', "Cache-Control": "public, max-age=60"})


def write() -> str:
    """Answer."""
    return "written"


class Options:
    """A Falcon resource that answers OPTIONS itself."""

    def on_options(self, _request: object, response: Any) -> None:
        """Answer."""
        response.set_header("Allow", "OPTIONS")


ROUTES = [
    Route(path="/public/", handler=read, policy="public"),
    Route(path="/things/", handler=read, policy="read"),
    Route(path="/things/", handler=write, policy="ingest", method="POST"),
    Route(path="/options/", handler=Options(), policy="read", method=None),
]


@pytest.fixture
def client(boot: Boot, make_plugin: MakePlugin) -> Client:
    """A service in mode ``required`` that pages of two sites may use."""
    identities = {
        "program": make_identity("read", "ingest"),
        "person": make_identity("read", "ingest", scheme="session"),
        "basic": make_identity("read", "ingest", scheme="basic"),
    }

    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(KeyAuthenticator(identities))
        return ROUTES

    return boot(make_plugin("alpha", register_routes=register_routes), **REQUIRED)


# --- which origins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "same", "others"),
    [
        ("https://app.example", ["https://app.example"], ["http://app.example", "https://app.example:8443"]),
        ("HTTPS://App.Example", ["https://app.example"], []),
        ("http://[::1]:3000", ["http://[::1]:3000"], ["http://[::1]"]),
        ("tauri://localhost", ["tauri://localhost"], ["http://localhost"]),
        (
            "https://*.example.com",
            ["https://app.example.com", "https://a-b.example.com"],
            [
                "https://example.com",
                "https://a.b.example.com",
                "https://.example.com",
                "http://app.example.com",
                "https://app.example.com:8443",
                "https://evil-example.com",
                "https://app.example.com.evil.example",
                "https://evil.example/.example.com",
                "https://evil.example:1.example.com",
                "https://evil@x.example.com",
                "https://*.example.com",
                "https://app.example.com\n",
            ],
        ),
        ("https://*.example.com:8443", ["https://app.example.com:8443"], ["https://app.example.com"]),
    ],
)
def test_an_origin_is_allowed_as_a_browser_writes_it(configured: str, same: list[str], others: list[str]) -> None:
    origins = origins_of(auth="required", http={"cors_origins": [configured]})

    assert [origin in origins for origin in [*same, *others]] == [True] * len(same) + [False] * len(others)
    assert "null" not in origins
    assert "" not in origins


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example",
        "https://app.example/",
        "https://app.example:443",
        "http://app.example:80",
        "https://user@app.example",
        "https://*",
        "https://*.example",
        "http://*.example.com",
        "https://a*.example.com",
        "https://*.*.example.com",
        "https://.*",
        "",
    ],
)
def test_what_is_no_origin_or_too_many_stops_the_boot(origin: str) -> None:
    with pytest.raises(ConfigError, match="cors_origins: Expected origins"):
        make_configuration(http={"cors_origins": [origin]}).settings  # noqa: B018 - it is decoded when it is read


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"insecure": True}, False),
        ({"auth": "required"}, False),
        ({"auth": "required", "http": {"cors_local_ports": [5173]}}, True),
        ({"http": {"cors_local_ports": []}}, False),
    ],
)
def test_development_servers_of_this_machine_are_allowed_in_mode_open(values: dict[str, Any], expected: bool) -> None:
    origins = origins_of(**values)

    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert (f"http://{host}:5173" in origins) is expected
    assert bool(origins) is expected
    assert "http://localhost:5174" not in origins
    assert "http://localhost.evil.example:5173" not in origins


# --- what browsers are told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [APP, "https://any.example.org"])
def test_a_response_may_be_read_by_pages_of_allowed_origins(client: Client, origin: str) -> None:
    answers = [
        client.get("/public/", headers={"Origin": origin}),
        client.get("/public/", headers={"Origin": origin, "If-None-Match": '"a"'}),
        client.get("/nowhere/", headers={"Origin": origin}),
        client.get("/things/", headers={"Origin": origin}),
        client.get("/things/?x=1", headers={"Origin": origin, "X-Key": "program"}),
        client.request("DELETE", "/things/", headers={"Origin": origin}),
        client.get("/public/", headers={"Origin": origin, "Host": "a b"}),
    ]

    assert [answer.status for answer in answers] == [200, 304, 404, 401, 400, 405, 400]
    for answer in answers:
        assert allowed(answer) == (origin, "true")
        assert "Origin" in answer.headers["vary"].split(", ")
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert set(exposed) >= {"X-Request-ID", "X-Resource-Tracking-ID", "traceparent", "Server-Timing", "ETag"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "https://app.example.evil.example", "*"])
def test_a_response_to_any_other_origin_may_not_be_read_and_varies_all_the_same(client: Client, origin: str) -> None:
    for headers in ({"Origin": origin}, {}):
        answer = client.get("/public/", headers=headers)

        assert (answer.status, allowed(answer)) == (200, (None, None))
        # Else a cache would keep it for pages of allowed origins.
        assert answer.headers["vary"] == "Origin"


def test_without_allowed_origins_a_response_does_not_vary(mount: Mount) -> None:
    answer = mount(*ROUTES, http={"cors_local_ports": []}).get("/public/", headers={"Origin": APP})

    assert "vary" not in answer.headers


@pytest.mark.parametrize("path", ["/public/", "/things/", "/options/", "/nowhere/"])
def test_a_preflight_is_answered_without_authentication_wherever_it_asks(client: Client, path: str) -> None:
    asked = {"Origin": APP, **PREFLIGHT, "Access-Control-Request-Headers": "authorization,x-account"}

    answer = client.request("OPTIONS", path, headers=asked)

    assert (answer.status, answer.content, allowed(answer)) == (204, b"", (APP, "true"))
    methods = answer.headers["access-control-allow-methods"].split(", ")
    assert set(methods) == {"HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"}
    assert answer.headers["access-control-allow-headers"] == "authorization,x-account"
    assert answer.headers["access-control-max-age"] == "600"
    assert answer.headers["x-request-id"]


def test_a_preflight_for_another_origin_allows_nothing(client: Client) -> None:
    for path, status in {"/things/": 200, "/options/": 401}.items():
        answer = client.request("OPTIONS", path, headers={"Origin": "https://evil.example", **PREFLIGHT})

        assert (answer.status, allowed(answer)) == (status, (None, None))
        assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("headers", ["a b", "a,,b", "a,", "ä", "*;x", ""])
def test_a_preflight_gets_only_names_of_headers_back(client: Client, headers: str) -> None:
    asked = {"Origin": APP, **PREFLIGHT, "Access-Control-Request-Headers": headers}

    assert "access-control-allow-headers" not in client.request("OPTIONS", "/things/", headers=asked).headers


def test_options_without_a_preflight_are_those_of_the_resource(client: Client) -> None:
    assert client.request("OPTIONS", "/things/", headers={"Origin": APP}).headers["allow"] == "GET, HEAD, POST"


def test_the_exposed_headers_are_sorted_and_each_is_named_once() -> None:
    assert list(EXPOSED_HEADERS) == sorted(set(EXPOSED_HEADERS), key=str.lower)


# --- what pages may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": APP, "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://any.example.org", "Sec-Fetch-Site": "same-site"}, 200),
        ({"Origin": APP}, 200),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize("key", ["program", "person", "basic"])
def test_pages_of_allowed_origins_may_change_something(
    client: Client, key: str, headers: dict[str, str], status: int
) -> None:
    answer = client.post("/things/", headers={"X-Key": key, **headers})

    assert answer.status == status, answer.content


@pytest.mark.parametrize(("key", "status"), [("person", 403), ("basic", 200), ("program", 200)])
def test_a_request_that_says_nothing_of_its_page_needs_credentials_that_are_no_cookie(
    client: Client, key: str, status: int
) -> None:
    assert client.post("/things/", headers={"X-Key": key}).status == status


def test_forms_of_allowed_origins_change_nothing(client: Client) -> None:
    sent = {"X-Key": "person", "Origin": APP, "Content-Type": "text/plain"}

    assert client.post("/things/", headers=sent, content=b"{}").status == 415


@pytest.mark.parametrize(("key", "status"), [("person", 403), ("basic", 403), ("program", 200)])
def test_pages_of_other_origins_read_nothing_with_what_the_browser_adds(client: Client, key: str, status: int) -> None:
    evil, own, linked = (
        client.get("/things/", headers={"X-Key": key, **headers})
        for headers in (
            {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://127.0.0.1"},
            {"Sec-Fetch-Site": "cross-site"},
        )
    )

    assert [evil.status, own.status, linked.status] == [status, 200, 200]
