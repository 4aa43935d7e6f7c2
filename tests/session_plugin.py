"""A plugin for tests that authenticates people by a cookie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernel import Identity, Request, Response, Route, Services, collect_routes, hookimpl, route

COOKIE = "session=ada"
_ADA = Identity(scheme="session", name="ada", account=0, scopes=frozenset({"read", "write"}), role="developer")


class _Cookies:
    def authenticate(self, request: Request) -> Identity | None:
        return _ADA if request.get_header("Cookie") == COOKIE else None

    def select(self, request: Request, identity: Identity) -> Identity:
        return identity

    def challenges(self) -> Sequence[str]:
        return ("Session",)

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        return {"session": {"type": "apiKey", "in": "cookie", "name": "session"}}


@route("/session/", policy="read")
def show(identity: Identity) -> Response[str]:
    """Say who it is."""
    return Response(identity.name, headers={"ETag": '"ada"'})


@route("/session/", policy="write", method="PUT")
def change(identity: Identity) -> str:
    """Change something."""
    return identity.name


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    services.authenticate_with(_Cookies())
    return collect_routes(show, change)
