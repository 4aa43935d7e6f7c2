"""Authorization: bind addresses, modes, hosts and policies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kernel.contracts import Policy, Route
from kernel.errors import BootError
from kernel.http.auth import is_loopback
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.fakes import Boot, KeyAuthenticator, MakePlugin, make_identity

Mount = Callable[..., Client]
POLICIES: list[Policy] = ["public", "authenticated", "ingest", "read", "write", "staff"]
LOOPBACK = ["127.0.0.1:8000", "127.9.9.9:80", "localhost:8000", "[::1]:8000", "unix:/run/t.sock", "127.0.0.1:1,[::1]:2"]
REACHABLE = [
    "0.0.0.0:8000",
    "[::]:8000",
    ":8000",
    "10.0.0.1:80",
    "example.com:80",
    "8000",
    "",
    "127.0.0.1:8000,0.0.0.0",
    "unix:/run/t.sock,0.0.0.0:80",
]


def hello() -> str:
    """Answer."""
    return "hello"


def routes() -> list[Route]:
    """Return one route for each policy."""
    return [Route(path=f"/{policy}/", handler=hello, policy=policy) for policy in POLICIES]


def make_authenticating_plugin(make_plugin: MakePlugin) -> str:
    """Make a plugin with an authenticator and a route for each policy."""

    def register_routes(services: Services) -> list[Route]:
        nobody = make_identity(account=None, has_active_plan=False)
        identities = {"k": make_identity("ingest", "read", "write"), "n": nobody}
        services.authenticate_with(KeyAuthenticator(identities))
        return routes()

    return make_plugin("keys", register_routes=register_routes)


@pytest.mark.parametrize(("bind", "expected"), [*((b, True) for b in LOOPBACK), *((b, False) for b in REACHABLE)])
def test_loopback_addresses_are_recognised(bind: str, expected: bool) -> None:
    assert is_loopback(bind) is expected


@pytest.mark.parametrize("bind", ["0.0.0.0:8000", "127.0.0.1:8000,0.0.0.0"])
def test_mode_open_is_refused_beyond_loopback(bind: str, boot: Boot) -> None:
    with pytest.raises(BootError, match=r"auth is 'open' and .* can be reached from other machines"):
        boot(server={"bind": bind}).service.ensure_safe()


@pytest.mark.parametrize("values", [{"insecure": True, "server": {"bind": "0.0.0.0:8000"}}, {}])
def test_mode_open_is_allowed_on_loopback_or_if_insecure_is_set(values: dict[str, object], boot: Boot) -> None:
    boot(**values).service.ensure_safe()


def test_mode_required_does_not_start_without_an_authenticator(boot: Boot) -> None:
    with pytest.raises(BootError, match="auth is 'required', but no plugin authenticates"):
        boot(auth="required").service.ensure_safe()


def test_mode_required_starts_on_any_address_with_an_authenticator(boot: Boot, make_plugin: MakePlugin) -> None:
    boot(make_authenticating_plugin(make_plugin), auth="required", server={"bind": "0.0.0.0:80"}).service.ensure_safe()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {"public": 200, "authenticated": 401, "ingest": 401, "read": 401, "write": 401, "staff": 401}),
        ({"X-Key": "k"}, {"public": 200, "authenticated": 200, "ingest": 200, "read": 200, "write": 200, "staff": 403}),
        # Without an account, a plan or a scope.
        ({"X-Key": "n"}, {"public": 200, "authenticated": 200, "ingest": 403, "read": 403, "write": 403, "staff": 403}),
    ],
)
def test_mode_required_authenticates_every_route_that_is_not_public(
    headers: dict[str, str], expected: dict[str, int], boot: Boot, make_plugin: MakePlugin
) -> None:
    client = boot(make_authenticating_plugin(make_plugin), auth="required")

    assert {policy: client.get(f"/{policy}/", headers=headers).status for policy in POLICIES} == expected


def test_mode_required_without_an_authenticator_serves_public_routes_only(mount: Mount) -> None:
    client = mount(*routes(), auth="required")

    assert [client.get(f"/{policy}/").status for policy in POLICIES] == [200, 401, 401, 401, 401, 401]


def test_mode_open_does_not_authenticate(boot: Boot, make_plugin: MakePlugin) -> None:
    client = boot(make_authenticating_plugin(make_plugin))

    assert {client.get(f"/{policy}/").status for policy in POLICIES} == {200}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8000", 200),
        ("LocalHost:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("localhost:1@evil.example", 400),
        ('localhost:"><script>', 400),
        ("localhost:65536", 400),
    ],
)
def test_mode_open_allows_loopback_hosts_only(host: str, status: int, mount: Mount) -> None:
    answer = mount(*routes()).get("/read/", headers={"Host": host})

    assert answer.status == status


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"http": {"allowed_hosts": ["api.example"]}}, 200),
        ({"http": {"allowed_hosts": ["API.example"]}}, 200),
        ({"http": {"allowed_hosts": ["*"]}}, 200),
        ({"insecure": True}, 200),
        ({"http": {"allowed_hosts": ["other.example"]}}, 400),
        ({"insecure": True, "http": {"allowed_hosts": ["other.example"]}}, 400),
        ({"auth": "required", "http": {"allowed_hosts": ["other.example"]}}, 400),
        ({"auth": "required"}, 200),
    ],
)
def test_allowed_hosts_decide_which_hosts_are_served(values: dict[str, object], status: int, mount: Mount) -> None:
    assert mount(*routes(), **values).get("/public/", headers={"Host": "api.example:443"}).status == status


def test_loopback_hosts_are_always_allowed(mount: Mount) -> None:
    client = mount(*routes(), insecure=True, http={"allowed_hosts": ["api.example"]})
    assert client.get("/public/", headers={"Host": "127.0.0.1:8000"}).status == 200
