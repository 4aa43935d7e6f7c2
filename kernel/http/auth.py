"""Authorize requests: who sends them, whether they may use a route, and what a browser says of them.

A browser sends requests for any web page that is open in it, also to a service that only this machine can reach. Pages
of other sites must neither read from the service (``Host``, against DNS rebinding) nor change anything in it
(``ensure_same_origin``), except those of the origins that the operator allows (``kernel.http.cors``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import msgspec

from kernel.contracts import Policy
from kernel.errors import (
    ApiError,
    BootError,
    CrossSiteError,
    DuplicateError,
    ForbiddenError,
    MalformedError,
    NoAccountError,
    NoPlanError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.http.cookies import read_cookies
from kernel.http.cors import AllowedOrigins
from kernel.http.host import parse_host
from kernel.http.pages import page_link
from kernel.http.request import FORM_TYPES, Request, media_type
from kernel.identity import OPEN, Identity, Scheme
from kernel.settings import Settings

# Only a restart brings a quarantined plugin back.
_QUARANTINE_RETRY_AFTER_S = 60
# Headers that name another account, or one of the sites of an account.
_SELECTORS = frozenset({"HTTP_X_ACCOUNT", "HTTP_X_SITE"})
# The same of a browser, which sends no headers of its own with what a person opens.
ACCOUNT_COOKIE = "tiercel_account"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


# Methods that change nothing (RFC 9110, 9.2.1), of those that routes can have.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser sends for the service's own pages, and for what a person entered or opened.
_OWN_SITES = frozenset({"same-origin", "none"})
# A browser adds their credentials to every request for the service, whatever page asks for it.
_AMBIENT_SCHEMES: frozenset[Scheme] = frozenset({"session", "basic"})
_COOKIE_SCHEMES: frozenset[Scheme] = _AMBIENT_SCHEMES | {"open"}


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


def ensure_same_origin(
    request: Request, identity: Identity | None, origins: AllowedOrigins, *, takes_form: bool = False
) -> None:
    """Ensure that a request was not sent by a page of another site, unless that may use the service.

    Concerned are requests that may change something, and those of scripts that read with credentials which the browser
    added by itself, whatever page asked for it.

    Programs other than browsers send neither ``Sec-Fetch-Site`` nor ``Origin``, and are not concerned. Another port of
    the same machine is another origin, but the same site, so ``same-site`` is not enough.

    A cookie is sent by the browser on its own, so a request that it authenticates needs one of the two headers: an old
    browser, or an extension that removes them, is not taken for a program.

    Args:
        request: The request.
        identity: Who sends it.
        origins: Those that may use the service, besides its own.
        takes_form: Whether the route takes forms, which only the service's own pages may send.

    Raises:
        CrossSiteError: A browser says that it was, or says nothing although a cookie authenticates the request, or it
            is a form.
        UnsupportedMediaError: The body is declared as one of those that forms of any page can send.
    """
    origin = request.env.get("HTTP_ORIGIN")
    if request.method in SAFE_METHODS:
        if origin is not None and identity is not None and identity.scheme in _AMBIENT_SCHEMES:
            _ensure_own_or_allowed(request, origin, origins)
        return
    is_session = identity is not None and identity.scheme == "session"
    if is_session and origin is None and "HTTP_SEC_FETCH_SITE" not in request.env:
        raise CrossSiteError(detail="a request with a session cookie needs Sec-Fetch-Site or Origin")
    _ensure_own_or_allowed(request, origin, origins)
    kind = media_type(request)
    if takes_form:
        _ensure_own(request, origin)
    elif kind in FORM_TYPES:
        raise UnsupportedMediaError(detail=f"expected application/json, got {kind}")


def _ensure_own(request: Request, origin: str | None) -> None:
    """Ensure that a browser says of a request that a page of the service itself sent it.

    Also without credentials: a form of any page could fill in those of its own, or change a service that needs none.
    """
    site = request.env.get("HTTP_SEC_FETCH_SITE")
    if site is None and origin is None:
        raise CrossSiteError(detail="a form needs Sec-Fetch-Site or Origin")
    if site != "same-origin" and (site is not None or not _is_host(request, origin)):
        raise CrossSiteError(detail=f"a form of another origin: Sec-Fetch-Site {site!r:.80}, Origin {origin!r:.200}")


def _is_host(request: Request, origin: str | None) -> bool:
    """Tell whether an origin is the ``Host`` of a request, whose scheme a proxy may have changed."""
    return origin is not None and origin.lower().partition("://")[2] == request.netloc.lower()


def _ensure_own_or_allowed(request: Request, origin: str | None, origins: AllowedOrigins) -> None:
    if origin is not None and origin in origins:
        return
    site = request.env.get("HTTP_SEC_FETCH_SITE")
    if site is not None and site not in _OWN_SITES:
        raise CrossSiteError(detail=f"Sec-Fetch-Site is {site!r:.80}, expected same-origin or none")
    # Any page can have the origin null.
    if origin == "null" or (site is None and origin is not None and not _is_host(request, origin)):
        raise CrossSiteError(detail=f"Origin {origin!r:.200} is not the Host of the request, {request.netloc!r:.200}")


class SignInPages(msgspec.Struct, frozen=True):
    """The pages with which people sign in: their paths, of which pages of the whole service make links and forms.

    Args:
        sign_in: Takes the parameter ``next``, where to go afterwards.
        sign_out: Takes a form without fields.
        account: Shows who is signed in.
        switch: Takes a form with the fields ``account``, which is empty to act for the own account, and ``next``.
    """

    sign_in: str
    sign_out: str
    account: str
    switch: str


def named_account(request: Request, identity: Identity) -> str | None:
    """Return the account that a request names, by number or slug; None if it names none.

    The header ``X-Account`` precedes the cookie, which only goes with what a browser authenticates by itself: a program
    that has a key says for whom it acts.

    Raises:
        ForbiddenError: There are several cookies, of which another host has set one.
    """
    header: str | None = request.get_header("X-Account")
    if header is not None or identity.scheme not in _COOKIE_SCHEMES:
        return header
    values = read_cookies(request, ACCOUNT_COOKIE)
    if len(values) > 1:
        raise ForbiddenError(detail="several cookies name an account")
    return values[0] or None if values else None


class Authenticator(Protocol):
    """What a plugin does to authenticate requests; see ``Services.authenticate_with``."""

    def authenticate(self, request: Request) -> Identity | None:
        """Return who sends a request; None if it has no credentials.

        Raises:
            UnauthorizedError: Its credentials are wrong; the first that are present decide. Says which and why, but
                not whether there is such a user.
        """

    def select(self, request: Request, identity: Identity) -> Identity:
        """Return the identity for the account and the site that a request names in ``X-Account`` and ``X-Site``.

        A browser names the account with a cookie: see ``named_account``.

        Raises:
            ForbiddenError: The identity may not act for them, or there are none; it is not told which.
        """

    def challenges(self) -> Sequence[str]:
        """Return the schemes that a request may use, as values of ``WWW-Authenticate`` (RFC 9110, 11.6.1)."""

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the same for the OpenAPI document: Security Scheme Objects by name, in the order of precedence.

        Source: https://spec.openapis.org/oas/v3.1.1.html#security-scheme-object
        """


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
        self._authenticator: Authenticator | None = None
        self._pages: SignInPages | None = None
        self._quarantined: dict[str, str] = {}

    def set_authenticator(self, owner: str, authenticator: Authenticator, pages: SignInPages | None = None) -> None:
        """Set how requests are authenticated; one plugin does it for the whole service.

        Args:
            owner: The plugin.
            authenticator: Authenticates requests.
            pages: Where people sign in; None if they cannot.

        Raises:
            DuplicateError: Another plugin does it already.
        """
        if self._owner is not None:
            raise DuplicateError("authentication", "authenticate", (self._owner, owner))
        self._owner, self._authenticator, self._pages = owner, authenticator, pages

    @property
    def pages(self) -> SignInPages | None:
        """The pages with which people sign in; None without."""
        return self._pages

    def sign_in_link(self, request: Request) -> str | None:
        """Return a link to the page for signing in, which leads back to the page of a request; None without one."""
        if self._mode == "open" or self._pages is None:
            return None
        # What takes a form shows nothing.
        here = request.link if request.method in SAFE_METHODS else None
        return page_link(self._pages.sign_in, next=here)

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return how requests are authenticated, as of ``Authenticator``; in mode ``open`` they are not."""
        if self._mode == "open" or self._authenticator is None:
            return {}
        return self._authenticator.security_schemes()

    def quarantine(self, owner: str, reason: str) -> None:
        """Refuse every request for the routes of a plugin, and no longer authenticate with it.

        Args:
            owner: The plugin.
            reason: What clients are told.
        """
        self._quarantined[owner] = reason
        if self._owner == owner:
            self._owner = self._authenticator = self._pages = None

    def ensure_authenticator(self) -> None:
        """Ensure that a plugin authenticates, in mode ``required``.

        Raises:
            BootError: No plugin does.
        """
        if self._mode == "required" and self._authenticator is None:
            raise BootError(
                "auth is 'required', but no plugin authenticates; enable one or use auth = 'open' on loopback"
            )

    def ensure_allowed_host(self, request: Request) -> None:
        """Ensure that a request is meant for this service.

        Raises:
            MalformedError: ``Host`` is none of the names of this service.
        """
        if self._any_host:
            return
        host: str = request.env.get("HTTP_HOST", "")
        # An allowed host may have a port.
        if not host or (parse_host(host).name not in self._hosts and host.lower() not in self._hosts):
            raise MalformedError("This host is not allowed.", detail=f"Host {host!r:.200} is not allowed")

    def ensure_not_quarantined(self, owner: str) -> None:
        """Ensure that the plugin which owns a route works.

        Raises:
            UnavailableError: It is quarantined.
        """
        if owner in self._quarantined:
            raise UnavailableError(self._quarantined[owner], retry_after_s=_QUARANTINE_RETRY_AFTER_S)

    def authenticate(self, request: Request, policy: Policy) -> Identity | None:
        """Return who sends a request; None on a public route.

        Raises:
            UnauthorizedError: It has no credentials, or wrong ones.
        """
        if policy == "public":
            return None
        context = request.log_context
        # What the page of an error shows, if one of the next two fails.
        context.requester = None
        context.requester = OPEN if self._mode == "open" else self._identify(request)
        context.requester = self._select(request, context.requester)
        return context.requester

    def identify(self, request: Request) -> Identity | None:
        """Return who sends a request to a public route, where nobody has to be authenticated; None if it does not say.

        Raises:
            UnauthorizedError: Its credentials are wrong.
        """
        if self._mode == "open":
            return OPEN
        return None if self._authenticator is None else self._authenticator.authenticate(request)

    def requester(self, request: Request) -> Identity | None:
        """Return who sends a request to any route, for a page to show; None if that is not known, or cannot be.

        It decides nothing. Credentials may be wrong on a public route, and the database may be away.
        """
        context = request.log_context
        if context.requester is msgspec.UNSET:
            context.requester = None
            with suppress(ApiError):
                context.requester = self.identify(request)
                if context.requester is not None:
                    context.requester = self._select(request, context.requester)
        return context.requester

    def _select(self, request: Request, identity: Identity) -> Identity:
        if _SELECTORS.isdisjoint(request.env) and not self._has_account_cookie(request, identity):
            return identity
        if self._authenticator is None:
            raise ForbiddenError(detail="no plugin knows accounts and sites, which X-Account and X-Site name")
        return self._authenticator.select(request, identity)

    def _has_account_cookie(self, request: Request, identity: Identity) -> bool:
        # Whoever may not act for that account any more comes back to the own one, or signs out.
        pages = self._pages
        if pages is None or request.path in (pages.switch.rstrip("/"), pages.sign_out.rstrip("/")):
            return False
        return named_account(request, identity) is not None

    def _identify(self, request: Request) -> Identity:
        authenticator = self._authenticator
        if authenticator is None:
            raise UnauthorizedError
        challenges = {"WWW-Authenticate": ", ".join(authenticator.challenges())}
        try:
            identity = authenticator.authenticate(request)
        except UnauthorizedError as ex:
            ex.headers = challenges | ex.headers
            raise
        if identity is None:
            raise UnauthorizedError(detail="the request has no credentials", headers=challenges)
        return identity


def ensure_policy(identity: Identity, policy: Policy) -> None:
    """Ensure that an identity may use routes of a policy.

    Raises:
        NoAccountError: It has no account.
        NoPlanError: Its account has no plan that is in force.
        ForbiddenError: It has not the scope.
    """
    if policy == "public" or policy == "authenticated":
        return
    if identity.account is None:
        raise NoAccountError(detail=f"{identity.name} belongs to no account")
    if not identity.has_active_plan:
        raise NoPlanError(detail=f"account {identity.account} has no active plan")
    identity.ensure_scope(policy)


def may_use(identity: Identity | None, policy: Policy) -> bool:
    """Tell whether an identity, or None for nobody who is known, may use routes of a policy."""
    if identity is None:
        return policy == "public"
    try:
        ensure_policy(identity, policy)
    except ApiError:
        return False
    return True
