"""Authorize requests: before a handler, the policy of its route is checked, and what a browser says of the request.

A browser sends requests for any web page that is open in it, also to a service that only this machine can reach. Pages
of other sites must neither read from the service (``Host``, against DNS rebinding) nor change anything in it
(``ensure_same_origin``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Literal

from kernel.contracts import Policy
from kernel.errors import (
    BootError,
    CrossSiteError,
    DuplicateError,
    MalformedError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.http.host import parse_host
from kernel.http.request import Request, media_type
from kernel.settings import Settings

# Returns if the request may use a route of that policy; raises UnauthorizedError or ForbiddenError if not.
Authenticator = Callable[[Request, Policy], None]
# Only a restart brings a quarantined plugin back.
_QUARANTINE_RETRY_AFTER_S = 60
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


# Methods that change nothing (RFC 9110, 9.2.1), of those that routes can have.
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser sends for the service's own pages, and for what a person entered or opened.
_OWN_SITES = frozenset({"same-origin", "none"})
# A page can have these sent to any other site, without asking that site first (https://fetch.spec.whatwg.org/#cors).
_FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})


def is_loopback(bind: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only: ``127.0.0.1:8000``, ``unix:...``.

    Args:
        bind: As gunicorn takes it; several addresses are separated by commas.
    """
    if "," in bind:
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
    """Ensure that a service without authentication can be reached from this machine only.

    Raises:
        BootError: Mode ``open`` on an address beyond loopback, without ``insecure``.
    """
    if settings.auth == "open" and not settings.insecure and not is_loopback(settings.server.bind):
        raise BootError(
            f"auth is 'open' and {settings.server.bind} can be reached from other machines; "
            "set TIERCEL_AUTH=required, bind to 127.0.0.1, or pass --insecure if you mean it"
        )


def ensure_safe_sockets(settings: Settings, sockets: Iterable[socket.socket]) -> None:
    """Ensure the same of the sockets that are listened on, whoever opened them.

    Raises:
        BootError: Mode ``open`` on a socket beyond loopback, without ``insecure``.
    """
    if settings.auth != "open" or settings.insecure:
        return
    for each in sockets:
        if not _is_local(each):
            raise BootError(
                f"auth is 'open' and the socket {each.getsockname()!r} can be reached from other machines; "
                "set TIERCEL_AUTH=required, listen on 127.0.0.1, or set TIERCEL_INSECURE=true if you mean it"
            )


def _is_local(listening: socket.socket) -> bool:
    if listening.family == socket.AF_UNIX:
        return True
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def ensure_same_origin(request: Request) -> None:
    """Ensure that a request which may change something was not sent by a page of another site.

    Programs other than browsers send neither ``Sec-Fetch-Site`` nor ``Origin``, and are not concerned. Another port of
    the same machine is another origin, but the same site, so ``same-site`` is not enough.

    Raises:
        ForbiddenError: A browser says that it was.
        UnsupportedMediaError: The body is declared as one of those that forms of any page can send.
    """
    if request.method in _SAFE_METHODS:
        return
    env = request.env
    site, origin = env.get("HTTP_SEC_FETCH_SITE"), env.get("HTTP_ORIGIN")
    if site is not None:
        if site not in _OWN_SITES:
            raise CrossSiteError(detail=f"Sec-Fetch-Site is {site!r:.80}, expected same-origin or none")
    # Without its scheme, which a proxy may have changed.
    elif origin is not None and origin.lower().partition("://")[2] != request.netloc.lower():
        raise CrossSiteError(detail=f"Origin {origin!r:.200} is not the Host of the request, {request.netloc!r:.200}")
    kind = media_type(request)
    if kind in _FORM_TYPES:
        raise UnsupportedMediaError(detail=f"expected application/json, got {kind}")


class Authorizer:
    """Authorizes requests: mode ``open`` allows all that are meant for this machine, ``required`` authenticates them.

    ``Host`` is checked against DNS rebinding: a web page could resolve a name of its own to 127.0.0.1, and so make a
    browser read a local service.

    Args:
        settings: Of these, ``auth``, ``insecure`` and ``http.allowed_hosts``.
    """

    def __init__(self, settings: Settings) -> None:
        self._mode: Literal["open", "required"] = settings.auth
        allowed = frozenset(host.lower() for host in settings.http.allowed_hosts)
        local_only = settings.auth == "open" and not settings.insecure
        self._any_host = "*" in allowed or not (allowed or local_only)
        # For probes from the machine itself; the page of another site cannot have these names.
        self._hosts = allowed | _LOOPBACK_NAMES
        self._owner: str | None = None
        self._authenticate: Authenticator | None = None
        self._quarantined: dict[str, str] = {}

    def set_authenticator(self, owner: str, authenticate: Authenticator) -> None:
        """Set how requests are authenticated; one plugin does it for the whole service.

        Raises:
            DuplicateError: Another plugin does it already.
        """
        if self._owner is not None:
            raise DuplicateError("authentication", "authenticate", (self._owner, owner))
        self._owner, self._authenticate = owner, authenticate

    def quarantine(self, owner: str, reason: str) -> None:
        """Refuse every request for the routes of a plugin, and no longer authenticate with it.

        Args:
            owner: The plugin.
            reason: What clients are told.
        """
        self._quarantined[owner] = reason
        if self._owner == owner:
            self._owner = self._authenticate = None

    def ensure_authenticator(self) -> None:
        """Ensure that a plugin authenticates, in mode ``required``.

        Raises:
            BootError: No plugin does.
        """
        if self._mode == "required" and self._authenticate is None:
            raise BootError(
                "auth is 'required', but no plugin authenticates; enable one or use auth = 'open' on loopback"
            )

    def authorize(self, request: Request, owner: str, policy: Policy) -> None:
        """Return if a request may use a route, else raise.

        Args:
            request: The request.
            owner: The plugin that owns the route.
            policy: The policy of the route.

        Raises:
            MalformedError: ``Host`` is none of the names of this service.
            UnauthorizedError: The request is not authenticated; also raised by the authenticator.
            ForbiddenError: Raised by the authenticator.
            UnavailableError: The plugin is quarantined.
        """
        if not self._any_host:
            self._ensure_allowed_host(request)
        if policy != "public" and self._mode == "required":
            if self._authenticate is None:
                raise UnauthorizedError
            self._authenticate(request, policy)
        if owner in self._quarantined:
            raise UnavailableError(self._quarantined[owner], retry_after_s=_QUARANTINE_RETRY_AFTER_S)

    def _ensure_allowed_host(self, request: Request) -> None:
        host: str = request.env.get("HTTP_HOST", "")
        # An allowed host may have a port.
        if not host or (parse_host(host).name not in self._hosts and host.lower() not in self._hosts):
            raise MalformedError("This host is not allowed.", detail=f"Host {host!r:.200} is not allowed")
