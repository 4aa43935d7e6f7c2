"""``/api/v1/auth/``: sign in and out, refresh tokens, and change or reset a password."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from kernel import (
    ForbiddenError,
    Identity,
    Request,
    Response,
    Route,
    Services,
    UnauthorizedError,
    collect_routes,
    route,
)
from kernel.http import ACCOUNT_COOKIE, make_cookie, read_cookies
from kernel.identity import Role, Scope
from plugins.accounts.authentication import make_session_cookie
from plugins.accounts.container import Container, make_container
from plugins.accounts.emails import normalize_email
from plugins.accounts.sign_in.reset import JOB, ResetMail, own_words
from plugins.accounts.sign_in.sessions import Kind, Session
from plugins.accounts.sign_in.users import SignedInUser

_ROOT = "/api/v1/auth"
# Anybody may send them, and no address, password or token is longer.
BODY_MAX_BYTES = 16 * 1024
# What only its client may keep (RFC 6749, 5.1).
NO_STORE = {"Cache-Control": "no-store"}
# A browser that was challenged with Basic would ask for a password in a window of its own.
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tiercel"'}


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who wants to sign in.

    Args:
        email: Address of the user.
        password: Password of the user.
        cookie: Keep a browser signed in with a cookie, instead of returning tokens.
    """

    email: str
    password: str
    cookie: bool = False


class SignOutQuery(msgspec.Struct, frozen=True):
    """What to end.

    Args:
        everywhere: Not only the session of this request, but all of the user, with all tokens.
    """

    everywhere: bool = False


class RefreshToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A refresh token, which works once.

    Args:
        refresh_token: As it was returned last.
    """

    refresh_token: str


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new password for whoever sends the request.

    Args:
        password: The present one.
        new_password: The new one.
    """

    password: str
    new_password: str


class ResetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose password was forgotten.

    Args:
        email: Address of the user.
    """

    email: str


class ResetConfirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new password.

    Args:
        token: The token that was sent.
        password: The new password.
    """

    token: str
    password: str


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of a session (RFC 6749, 5.1).

    Args:
        access_token: For ``Authorization: Bearer``.
        token_type: ``Bearer``.
        expires_in: How many seconds the access token is good for.
        refresh_token: For the next tokens; works once.
    """

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str


class Me(msgspec.Struct, frozen=True):
    """Who sends a request.

    Args:
        scheme: How it was authenticated.
        name: For people.
        account: Number of the account whose data it sees.
        scopes: What it may do.
        role: Of a user in the whole account.
        user: Number of the user; None for a key.
        email: Address of the user.
        key: Number of the key; None for a user.
        sites: Numbers of the sites that it sees; None for all.
        services: The services whose request logs it sees; None for all.
        applications: The applications whose views it sees; None for all.
    """

    scheme: str
    name: str
    account: int | None
    scopes: Sequence[Scope]
    role: Role | None
    user: int | None
    email: str | None
    key: int | None
    sites: Sequence[int] | None
    services: Sequence[str] | None
    applications: Sequence[str] | None


class Accepted(msgspec.Struct, frozen=True):
    """The response to a request that is worked on later.

    Args:
        message: For people.
    """

    message: str


class AuthRoutes:
    """The handlers.

    Args:
        container: What they use.
        start_reset: Queues the job that sends a mail, for a request of an id.
    """

    def __init__(self, container: Container, start_reset: Callable[[ResetMail, str], object]) -> None:
        self._authentication = container.authentication
        sign_in = container.sign_in
        self._check = sign_in.password_check
        self._sessions = sign_in.sessions
        self._access_tokens = sign_in.access_tokens
        self._users = sign_in.users
        self._passwords = sign_in.passwords
        self._resets = sign_in.resets
        self._start_reset = start_reset

    @route(
        f"{_ROOT}/sign-in/",
        policy="public",
        method="POST",
        throttle="auth",
        errors=(401,),
        body_max_bytes=BODY_MAX_BYTES,
    )
    def sign_in(self, request: Request, body: Credentials) -> Response[Tokens | Me]:
        """Sign in with address and password: returns tokens, or sets a cookie.

        The session of a cookie that is sent along ends: nobody goes on with one that somebody else knows.
        """
        try:
            user, session, value = self.begin_session(
                request, body.email, body.password, "cookie" if body.cookie else "token"
            )
        except UnauthorizedError as ex:
            ex.headers.update(CHALLENGE)
            raise
        if not body.cookie:
            return Response(self._tokens(session, value), headers=NO_STORE)
        cookie = make_session_cookie(request, value, self._sessions.cookie_max_age_s)
        cookies = (cookie, *forget_account(request))
        return Response(_describe(user.identity("session"), user), 200, NO_STORE, cookies)

    @route(
        f"{_ROOT}/refresh/",
        policy="public",
        method="POST",
        throttle="auth",
        errors=(401,),
        body_max_bytes=BODY_MAX_BYTES,
    )
    def refresh(self, body: RefreshToken) -> Response[Tokens]:
        """Replace a refresh token by new tokens. One that is used again ends the session."""
        try:
            session, _, value = self._sessions.refresh(body.refresh_token)
        except UnauthorizedError as ex:
            ex.headers.update(CHALLENGE)
            raise
        return Response(self._tokens(session, value), headers=NO_STORE)

    @route(f"{_ROOT}/sign-out/", policy="authenticated", method="POST")
    def sign_out(self, request: Request, identity: Identity, query: SignOutQuery) -> Response[None]:
        """End the session of this request, or all sessions and tokens of its user."""
        self.end_session(request, identity, everywhere=query.everywhere)
        return Response(None, 204, NO_STORE, forget_browser(request))

    @route(f"{_ROOT}/me/", policy="authenticated", menu="who I am")
    def me(self, identity: Identity) -> Response[Me]:
        """Show who sends this request, and what it may do."""
        user = None if identity.user is None else self._users.find(identity.user)
        return Response(_describe(identity, user), headers=NO_STORE)

    @route(f"{_ROOT}/change/", policy="authenticated", method="POST", body_max_bytes=BODY_MAX_BYTES)
    def change(self, request: Request, identity: Identity, body: PasswordChange) -> Response[None]:
        """Change the password of whoever sends this request. All sessions and tokens of the user end."""
        self.change_password(request, identity, body.password, body.new_password)
        return Response(None, 204, NO_STORE, forget_browser(request))

    @route(
        f"{_ROOT}/reset/",
        policy="public",
        method="POST",
        throttle="auth",
        responses={202: Accepted},
        body_max_bytes=BODY_MAX_BYTES,
    )
    def request_reset(self, request: Request, body: ResetRequest) -> Response[Accepted]:
        """Send a token to reset a password, if the address is that of a user. Whether it is, is not told."""
        self.send_reset(request, body.email)
        return Response(Accepted("If there is a user with this address, a mail is on its way."), 202, NO_STORE)

    @route(f"{_ROOT}/reset/confirm/", policy="public", method="POST", throttle="auth", body_max_bytes=BODY_MAX_BYTES)
    def confirm_reset(self, request: Request, body: ResetConfirmation) -> Response[None]:
        """Set a new password with the token that was sent. All sessions and tokens of the user end."""
        self._resets.confirm(request, body.token, body.password)
        return Response(None, 204, NO_STORE)

    # --- what the pages do as well ------------------------------------------------------------------------------------

    def begin_session(
        self, request: Request, email: str, password: str, kind: Kind
    ) -> tuple[SignedInUser, Session, str]:
        """Begin a session of a user with the right password; return both, and what the client gets of the session.

        Raises:
            UnauthorizedError: Address or password is wrong.
            TooManyRequestsError: Too many attempts failed.
            UnavailableError: Too many passwords are checked at the moment.
        """
        user = self._check.verify(request, email, password)
        if (previous := self._authentication.cookie_session(request)) is not None:
            self._sessions.revoke(previous.id)
        return user, *self._sessions.begin(user, kind)

    def end_session(self, request: Request, identity: Identity, *, everywhere: bool) -> None:
        """End the session of a request, or all sessions and tokens of its user.

        Raises:
            ForbiddenError: All of them, and it is no user.
        """
        if everywhere:
            self._users.revoke_tokens(_user_number(identity))
        elif (session := self._authentication.session_of(request)) is not None:
            self._sessions.revoke(session.id)

    def change_password(self, request: Request, identity: Identity, password: str, new_password: str) -> None:
        """Change the password of whoever sends a request. All sessions and tokens of the user end.

        Raises:
            ForbiddenError: It is no user, or the present password is wrong.
            InvalidError: The new password is not acceptable.
            TooManyRequestsError: Too many attempts failed.
            UnauthorizedError: The user is gone.
            UnavailableError: Too many passwords are checked at the moment.
        """
        user = self._users.find(_user_number(identity))
        if user is None:
            raise UnauthorizedError(detail="the user is gone")
        try:
            self._check.verify(request, user.email, password)
        except UnauthorizedError:
            raise ForbiddenError("The password was not changed.", detail="the present password is wrong") from None
        self._passwords.ensure_acceptable(
            new_password, field="new_password", own_words=own_words(user.email, user.name)
        )
        self._users.set_password(user.id, self._passwords.hash(new_password))

    def send_reset(self, request: Request, address: str) -> None:
        """Start the job that sends a token to reset a password.

        Raises:
            TooManyRequestsError: Too many tokens were asked for from there.
        """
        self._resets.ensure_may_ask(request)
        try:
            email = normalize_email(address)
        except ValueError:
            email = ""
        # The same work for everybody: the job finds out whether there is such a user.
        self._start_reset(ResetMail(email), request.request_id)

    def _tokens(self, session: Session, refresh_token: str) -> Tokens:
        access_token, expires_in = self._access_tokens.issue(session)
        return Tokens(access_token, "Bearer", expires_in, refresh_token)


def forget_browser(request: Request) -> Sequence[str]:
    """Return the headers ``Set-Cookie`` that make a browser forget who has signed in, and for whom it acted."""
    return make_session_cookie(request, "", 0), *forget_account(request)


def forget_account(request: Request) -> Sequence[str]:
    """Return the header ``Set-Cookie`` that makes a browser act for its own account again; none if it does."""
    return [make_cookie(request, ACCOUNT_COOKIE, "", 0)] if read_cookies(request, ACCOUNT_COOKIE) else []


def _user_number(identity: Identity) -> int:
    """Return the number of the user who sends a request.

    Raises:
        ForbiddenError: It is no user.
    """
    if identity.user is None:
        raise ForbiddenError(detail=f"{identity.name} is no user")
    return identity.user


def _describe(identity: Identity, user: SignedInUser | None) -> Me:
    return Me(
        scheme=identity.scheme,
        name=identity.name,
        account=identity.account,
        scopes=sorted(identity.scopes),
        role=identity.role,
        user=identity.user,
        email=None if user is None else user.email,
        key=identity.key,
        sites=identity.sites,
        services=None if identity.services is None else sorted(identity.services),
        applications=None if identity.applications is None else sorted(identity.applications),
    )


def make_auth(services: Services) -> AuthRoutes:
    """Make the handlers. Called through ``services.once``."""
    container = services.once(make_container)
    return AuthRoutes(container, lambda mail, request_id: services.jobs.start(JOB, mail, request_id=request_id))


def make_routes(routes: AuthRoutes) -> Iterable[Route]:
    """Make the routes."""
    return collect_routes(
        routes.sign_in,
        routes.refresh,
        routes.sign_out,
        routes.me,
        routes.change,
        routes.request_reset,
        routes.confirm_reset,
    )
