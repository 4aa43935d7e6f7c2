"""Authenticate requests: the first scheme whose credentials a request has decides.

In this order: an API key (``Authorization: Api-Key``, ``X-API-Key``), an access token (``Authorization: Bearer``), the
cookie of a session, user and password (``Authorization: Basic``). What is wrong with the first one is an error,
whatever else there is: a request never falls back to credentials that its sender did not mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kernel import (
    Database,
    ForbiddenError,
    Identity,
    Request,
    UnauthorizedError,
    load_queries,
)
from kernel.http import Authenticator, make_cookie, named_account, read_cookies
from kernel.identity import acting_as
from kernel.metrics import Counter
from plugins.accounts.keys import ApiKeys
from plugins.accounts.models import ROLE_SCOPES
from plugins.accounts.sign_in.container import SignIn
from plugins.accounts.sign_in.sessions import Session

QUERIES = load_queries(__package__)
REALM = "tiercel"
_COOKIE = "tiercel_session"
# With TLS; see ``kernel.http.make_cookie``.
_SECURE_COOKIE = f"__Host-{_COOKIE}"
_API_KEY, _BEARER, _BASIC = "api-key", "bearer", "basic"


class Authentication(Authenticator):
    """The authenticator of the service.

    Args:
        db: Connection pool.
        keys: API keys.
        sign_in: What signs users in.
        refused: Counts requests whose credentials are wrong.
    """

    def __init__(self, db: Database, keys: ApiKeys, sign_in: SignIn, refused: Counter) -> None:
        self._db = db
        self._keys = keys
        self._sign_in = sign_in
        self._refused = refused

    def authenticate(self, request: Request) -> Identity | None:
        """Return who sends a request; see ``kernel.http.Authenticator``."""
        try:
            return self._authenticate(request)
        except UnauthorizedError:
            self._refused.inc()
            raise

    def _authenticate(self, request: Request) -> Identity | None:
        key = request.env.get("HTTP_X_API_KEY")
        if key is not None and "HTTP_AUTHORIZATION" not in request.env:
            return self._keys.authenticate(key.strip())
        scheme, credentials = _read_authorization(request)
        if scheme == _API_KEY and key is not None:
            raise UnauthorizedError(detail="the API key is malformed: there are two")
        if scheme == _API_KEY or key is not None:
            return self._keys.authenticate(credentials if key is None else key.strip())
        if scheme == _BEARER:
            return self._sign_in.access_tokens.authenticate(credentials)[1].identity("jwt")
        if (cookie := _read_cookie(request)) is not None:
            return self._sign_in.sessions.authenticate(cookie)[1].identity("session")
        if scheme == _BASIC:
            return self._sign_in.password_check.authenticate_basic(request, credentials).identity("basic")
        if scheme is not None:
            raise UnauthorizedError(detail="the scheme of Authorization is none of Api-Key, Bearer and Basic")
        return None

    def session_of(self, request: Request) -> Session | None:
        """Return the session that authenticates a request; None if it is authenticated otherwise."""
        scheme, credentials = _read_authorization(request)
        if scheme == _API_KEY or request.get_header("X-API-Key") is not None:
            return None
        if scheme == _BEARER:
            return self._sign_in.access_tokens.authenticate(credentials)[0]
        return self.cookie_session(request)

    def cookie_session(self, request: Request) -> Session | None:
        """Return the session of the cookie of a request; None if it has none that is good."""
        try:
            cookie = _read_cookie(request)
            return None if cookie is None else self._sign_in.sessions.authenticate(cookie)[0]
        except UnauthorizedError:
            return None

    def challenges(self) -> Sequence[str]:
        """Return the schemes that a request may use. There is none for cookies."""
        return (f'Api-Key realm="{REALM}"', f'Bearer realm="{REALM}"', f'Basic realm="{REALM}", charset="UTF-8"')

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the same for the OpenAPI document, and the cookie, in the order of precedence."""
        return {
            "apiKey": {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": "An API key: `Authorization: Api-Key tk_…`. Enter the scheme with the key.",
            },
            "apiKeyHeader": {
                "type": "apiKey",
                "in": "header",
                "name": "X-API-Key",
                "description": "An API key without a scheme: `X-API-Key: tk_…`.",
            },
            "accessToken": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "An access token from `POST /api/v1/auth/sign-in/`.",
            },
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": _SECURE_COOKIE,
                "description": f"The cookie of a browser that has signed in; without TLS it is `{_COOKIE}`.",
            },
            "password": {"type": "http", "scheme": "basic", "description": "E-mail address and password of a user."},
        }

    def select(self, request: Request, identity: Identity) -> Identity:
        """Return the identity for the account and the site that a request names; see ``kernel.http.Authenticator``."""
        if (named := named_account(request, identity)) is not None:
            identity = self.act_for(identity, named)
        if (named := request.get_header("X-Site")) is not None:
            identity = self._select_site(identity, named)
        return identity

    def act_for(self, identity: Identity, named: str) -> Identity:
        """Return the identity for another account.

        Args:
            identity: Who wants to act for it.
            named: Its number or slug.

        Raises:
            ForbiddenError: The identity may not, or there is no such account.
        """
        if not identity.is_staff:
            raise ForbiddenError(detail="only staff may name an account")
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_account"], {"account": named}).fetchone()
        if row is None:
            raise ForbiddenError(detail=f"there is no account {named!r:.80}")
        account, _, has_active_plan, limits, name = row
        return msgspec.structs.replace(
            identity,
            account=account,
            account_name=name,
            sites=None,
            has_active_plan=has_active_plan,
            limits={unit: number for unit, number in limits.items() if number is not None},
        )

    def _select_site(self, identity: Identity, named: str) -> Identity:
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_site"], {"account": identity.account, "site": named}).fetchone()
        if row is None or (identity.sites is not None and row[0] not in identity.sites):
            raise ForbiddenError(detail=f"site {named!r:.80} is none of those that {identity.name} may see")
        site = row[0]
        user = None if identity.user is None else self._sign_in.users.find(identity.user)
        if user is None or site not in user.site_roles:
            return msgspec.structs.replace(identity, sites=(site,))
        # On one site, a user may do what the role there allows, and not only what the roles on all of them do.
        return msgspec.structs.replace(
            identity, sites=(site,), scopes=identity.scopes | ROLE_SCOPES[user.site_roles[site]]
        )


def make_session_cookie(request: Request, value: str, max_age_s: int) -> str:
    """Return the header ``Set-Cookie`` that keeps a browser signed in; 0 seconds make it forget that."""
    return make_cookie(request, _COOKIE, value, max_age_s)


def _read_authorization(request: Request) -> tuple[str | None, str]:
    """Return the scheme in lower case, and the credentials; None without the header.

    Servers join headers of the same name with a comma, which no credentials contain: two of them are malformed.
    """
    header = request.get_header("Authorization")
    if header is None:
        return None, ""
    scheme, _, credentials = header.partition(" ")
    # ASCII alone: no other letter becomes one of these.
    return (scheme.lower() if scheme.isascii() else scheme), credentials.strip(" ")


def _read_cookie(request: Request) -> str | None:
    """Return the value of the session's cookie; None without one.

    Raises:
        UnauthorizedError: There are several, of which another host has set one.
    """
    values = read_cookies(request, _COOKIE)
    if len(values) > 1:
        raise UnauthorizedError(detail="the session is malformed: there are several cookies")
    return values[0] if values else None
