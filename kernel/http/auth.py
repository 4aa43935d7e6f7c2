"""Who may come in: the policy of each route, checked before its handler."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Literal

from kernel.contracts import Policy
from kernel.errors import BootError, DuplicateError, MalformedError, UnauthorizedError, UnavailableError
from kernel.http.request import Request
from kernel.settings import Settings

# Raises UnauthorizedError or ForbiddenError; returns when the request may use a route of that policy.
Authenticator = Callable[[Request, Policy], None]
# Only a restart brings a quarantined plugin back.
_CLOSED_RETRY_AFTER_S = 60
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(bind: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only: ``127.0.0.1:8000``, ``unix:...``."""
    if "," in bind:
        # gunicorn listens on each of them.
        return all(is_loopback(part.strip()) for part in bind.split(","))
    if bind.startswith("unix:"):
        return True
    host = bind.rpartition(":")[0].strip("[]") or bind
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ensure_safe_bind(settings: Settings) -> None:
    """Refuse to serve without authentication where others can reach it.

    Raises:
        BootError: Mode ``open`` on an address beyond loopback, without ``insecure``.
    """
    if settings.auth == "open" and not settings.insecure and not is_loopback(settings.server.bind):
        raise BootError(
            f"auth is 'open' and {settings.server.bind} can be reached from other machines; "
            "set TIERCEL_AUTH=required, bind to 127.0.0.1, or pass --insecure if you mean it"
        )


class Authorizer:
    """Checks the policy of a route, and in mode ``open`` that the request was meant for this machine.

    Without a check of ``Host``, a web page could point a name of its own at 127.0.0.1 and read a local service.

    Args:
        settings: ``auth``, ``insecure`` and ``http.allowed_hosts`` count.
    """

    def __init__(self, settings: Settings) -> None:
        self._mode: Literal["open", "required"] = settings.auth
        named = frozenset(host.lower() for host in settings.http.allowed_hosts)
        local_only = settings.auth == "open" and not settings.insecure
        self._any_host = "*" in named or not (named or local_only)
        # Probes come from the machine itself; a web page of another site cannot use these names.
        self._hosts = named | _LOOPBACK_NAMES
        self._owner: str | None = None
        self._authenticate: Authenticator | None = None
        self._closed: dict[str, str] = {}

    def provide(self, owner: str, authenticate: Authenticator) -> None:
        """Take a plugin's way to authenticate; there is one for the whole service.

        Raises:
            DuplicateError: Another plugin provides one.
        """
        if self._owner is not None:
            raise DuplicateError("authentication", "authenticate", (self._owner, owner))
        self._owner, self._authenticate = owner, authenticate

    def withdraw(self, owner: str, reason: str) -> None:
        """Close the routes of a plugin and forget how it authenticates, because it is quarantined.

        Args:
            owner: The plugin.
            reason: What its routes answer from now on.
        """
        self._closed[owner] = reason
        if self._owner == owner:
            self._owner = self._authenticate = None

    def ensure_authenticator(self) -> None:
        """Refuse to start in mode ``required`` while nothing authenticates.

        Raises:
            BootError: That is so.
        """
        if self._mode == "required" and self._authenticate is None:
            raise BootError(
                "auth is 'required', but no plugin authenticates; enable one or use auth = 'open' on loopback"
            )

    def check(self, request: Request, owner: str, policy: Policy) -> None:
        """Let a request in or raise.

        Args:
            request: The request.
            owner: The plugin whose route it wants.
            policy: Of that route.

        Raises:
            MalformedError: The request names a host that this service is not.
            UnauthorizedError: The route needs authentication; so may the authenticator itself.
            UnavailableError: The plugin is quarantined.
        """
        if not self._any_host:
            self._check_host(request)
        if policy != "public" and self._mode == "required":
            if self._authenticate is None:
                raise UnauthorizedError
            self._authenticate(request, policy)
        if owner in self._closed:
            raise UnavailableError(self._closed[owner], retry_after_s=_CLOSED_RETRY_AFTER_S)

    def _check_host(self, request: Request) -> None:
        host: str = request.env.get("HTTP_HOST", "").lower()
        if host not in self._hosts and host.rpartition(":")[0] not in self._hosts:
            raise MalformedError("This service has another name.", detail=f"Host {host!r:.200} is not allowed")
