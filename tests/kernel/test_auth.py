"""Who may come in: addresses, modes, hosts and policies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kernel.contracts import Policy, Route
from kernel.errors import BootError, ForbiddenError, UnauthorizedError
from kernel.http.auth import Authenticator, is_loopback
from kernel.http.request import Request
from kernel.services import Services
from kernel.testing import Client
from tests.kernel.fakes import Boot, MakePlugin

Mount = Callable[..., Client]
POLICIES: list[Policy] = ["public", "ingest", "read", "write", "staff"]
LOOPBACK = ["127.0.0.1:8000", "127.9.9.9:80", "localhost:8000", "[::1]:8000", "unix:/run/t.sock", "127.0.0.1:1,[::1]:2"]
BEYOND = [
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


def by_key(request: Request, policy: Policy) -> None:
    """Let keys in, but not staff."""
    if request.get_header("X-Key") is None:
        raise UnauthorizedError
    if policy == "staff":
        raise ForbiddenError


def authenticating(make_plugin: MakePlugin, authenticate: Authenticator = by_key) -> str:
    """Make a plugin that authenticates."""

    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(authenticate)
        return routes()

    return make_plugin("keys", register_routes=register_routes)


@pytest.mark.parametrize(("bind", "expected"), [*((b, True) for b in LOOPBACK), *((b, False) for b in BEYOND)])
def test_loopback_is_what_other_machines_cannot_reach(bind: str, expected: bool) -> None:
    assert is_loopback(bind) is expected


@pytest.mark.parametrize("bind", ["0.0.0.0:8000", "127.0.0.1:8000,0.0.0.0"])
def test_open_beyond_loopback_is_refused(bind: str, boot: Boot) -> None:
    with pytest.raises(BootError, match=r"auth is 'open' and .* can be reached from other machines"):
        boot(server={"bind": bind}).service.ensure_safe()


@pytest.mark.parametrize("values", [{"insecure": True, "server": {"bind": "0.0.0.0:8000"}}, {}])
def test_open_is_fine_on_loopback_or_where_it_is_meant(values: dict[str, object], boot: Boot) -> None:
    boot(**values).service.ensure_safe()


def test_required_refuses_to_start_while_nothing_authenticates(boot: Boot) -> None:
    with pytest.raises(BootError, match="auth is 'required', but no plugin authenticates"):
        boot(auth="required").service.ensure_safe()


def test_required_starts_anywhere_with_a_plugin_that_authenticates(boot: Boot, make_plugin: MakePlugin) -> None:
    boot(authenticating(make_plugin), auth="required", server={"bind": "0.0.0.0:80"}).service.ensure_safe()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {"public": 200, "ingest": 401, "read": 401, "write": 401, "staff": 401}),
        ({"X-Key": "k"}, {"public": 200, "ingest": 200, "read": 200, "write": 200, "staff": 403}),
    ],
)
def test_required_asks_the_authenticator_for_every_route_that_is_not_public(
    headers: dict[str, str], expected: dict[str, int], boot: Boot, make_plugin: MakePlugin
) -> None:
    client = boot(authenticating(make_plugin), auth="required")

    assert {policy: client.get(f"/{policy}/", headers=headers).status for policy in POLICIES} == expected


def test_required_lets_nobody_in_while_nothing_authenticates(mount: Mount) -> None:
    client = mount(*routes(), auth="required")

    assert [client.get(f"/{policy}/").status for policy in POLICIES] == [200, 401, 401, 401, 401]


def test_open_asks_nobody(boot: Boot, make_plugin: MakePlugin) -> None:
    client = boot(authenticating(make_plugin))

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
    ],
)
def test_open_answers_only_to_names_of_this_machine(host: str, status: int, mount: Mount) -> None:
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
def test_allowed_hosts_say_which_names_this_service_has(values: dict[str, object], status: int, mount: Mount) -> None:
    assert mount(*routes(), **values).get("/public/", headers={"Host": "api.example:443"}).status == status


def test_probes_from_the_machine_itself_need_no_allowed_host(mount: Mount) -> None:
    client = mount(*routes(), insecure=True, http={"allowed_hosts": ["api.example"]})
    assert client.get("/public/", headers={"Host": "127.0.0.1:8000"}).status == 200
