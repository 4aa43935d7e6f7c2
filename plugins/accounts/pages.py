"""Pages for people: sign in and out, see who one is, change or reset the password, and act for another account.

They do what ``/api/v1/auth/`` does, by the same services.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from kernel import (
    ApiError,
    ForbiddenError,
    Identity,
    InvalidError,
    NotFoundError,
    Request,
    Response,
    Route,
    Services,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    collect_routes,
    load_queries,
    route,
)
from kernel.http import (
    ACCOUNT_COOKIE,
    FormResponse,
    NoFields,
    Notice,
    Panel,
    Search,
    SearchResult,
    SignInPages,
    Submitted,
    TemplateResponse,
    is_own_path,
    make_cookie,
    make_form,
    page_link,
    redirect,
)
from kernel.identity import acting_as
from plugins.accounts.authentication import make_session_cookie
from plugins.accounts.container import make_container
from plugins.accounts.sign_in.reset import PAGE as CONFIRM
from plugins.accounts.sign_in.routes import (
    BODY_MAX_BYTES,
    CHALLENGE,
    NO_STORE,
    SignOutQuery,
    forget_account,
    forget_browser,
    make_auth,
)
from plugins.accounts.usage import UsageQuery

QUERIES = load_queries(__package__)
SIGN_IN = "/sign-in/"
PAGES = SignInPages(sign_in=SIGN_IN, sign_out="/sign-out/", account="/account/", switch="/account/switch/")
RESET = "/reset-password/"
# Of those that a person chooses from. Beyond, one enters the slug.
_ACCOUNTS_MAX = 200
# What the client of such a form may try again, or correct.
_FORM_ERRORS = (InvalidError, UnauthorizedError, ForbiddenError, TooManyRequestsError, UnavailableError)
_PASSWORD = {"format": "password", "autocomplete": "current-password"}
_NEW_PASSWORD = {"format": "password", "autocomplete": "new-password"}
Address = Annotated[
    str, msgspec.Meta(title="E-mail address", extra_json_schema={"format": "email", "autocomplete": "username"})
]

SIGNED_OUT = Notice("You are signed out.")
PASSWORD_SET = Notice("The password is changed, and all sessions have ended. Sign in with the new one.")
MAIL_SENT = Notice("If there is a user with this address, a mail is on its way.")


class SignInQuery(msgspec.Struct, frozen=True):
    """Parameters of the page for signing in.

    Args:
        next: Where to go afterwards: a path of this service. Anything else leads to the start page.
    """

    next: str = "/"


class SignInForm(msgspec.Struct, frozen=True):
    """Who wants to sign in."""

    email: Address
    password: Annotated[str, msgspec.Meta(extra_json_schema=_PASSWORD)]


class PasswordForm(msgspec.Struct, frozen=True):
    """A new password."""

    password: Annotated[str, msgspec.Meta(title="Present password", extra_json_schema=_PASSWORD)]
    new_password: Annotated[str, msgspec.Meta(extra_json_schema=_NEW_PASSWORD)]


class ResetRequestForm(msgspec.Struct, frozen=True):
    """Whose password was forgotten."""

    email: Address


class ResetQuery(msgspec.Struct, frozen=True):
    """Parameters of the page for a new password.

    Args:
        token: From the mail.
    """

    token: str = ""


class ResetForm(msgspec.Struct, frozen=True):
    """A new password.

    Args:
        token: From the mail.
    """

    token: Annotated[str, msgspec.Meta(extra_json_schema={"autocomplete": "one-time-code"})]
    password: Annotated[str, msgspec.Meta(title="New password", extra_json_schema=_NEW_PASSWORD)]


class AccountQuery(msgspec.Struct, frozen=True):
    """Parameters of the page about who is signed in.

    Args:
        account: The account to act for, as it is suggested.
    """

    account: str = ""


class SwitchForm(msgspec.Struct, frozen=True):
    """The account to act for.

    Args:
        account: Number or slug; the own account if it is empty.
        next: Where to go afterwards.
    """

    account: str = ""
    next: str = "/"


class AccountPages:
    """Handlers of the pages.

    Args:
        services: The audit log, and what the routes of the plugin use.
    """

    def __init__(self, services: Services) -> None:
        container = services.once(make_container)
        self._authentication = container.authentication
        self._sign_in = container.sign_in
        self._usage = container.usage
        self._auth = services.once(make_auth)
        self._db = services.db
        self._audit = services.audit

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return collect_routes(
            self.show_sign_in,
            self.sign_in,
            self.sign_out,
            self.show,
            self.change_password,
            self.switch,
            self.show_reset,
            self.request_reset,
            self.show_confirm,
            self.confirm_reset,
        )

    # --- signing in and out -------------------------------------------------------------------------------------------

    @route(SIGN_IN, policy="public")
    def show_sign_in(self, query: SignInQuery) -> TemplateResponse:  # noqa: ARG002 - the form is sent with it
        """Ask for address and password."""
        return TemplateResponse("accounts/sign_in.html", {"form": make_form(SignInForm)})

    @route(SIGN_IN, policy="public", method="POST", throttle="auth", body_max_bytes=BODY_MAX_BYTES)
    def sign_in(self, request: Request, query: SignInQuery, form: Submitted[SignInForm]) -> FormResponse:
        """Sign a browser in, and go on to where it wanted to."""
        try:
            entered = form.value()
            _, _, value = self._auth.begin_session(request, entered.email, entered.password, "cookie")
        except _FORM_ERRORS as ex:
            headers = {**NO_STORE, **ex.headers, **(CHALLENGE if isinstance(ex, UnauthorizedError) else {})}
            page = TemplateResponse("accounts/sign_in.html", {"form": form.again(ex)})
            return Response(page, ex.status, headers)
        cookie = make_session_cookie(request, value, self._sign_in.sessions.cookie_max_age_s)
        return redirect(_own(query.next), cookies=(cookie, *forget_account(request)))

    @route(PAGES.sign_out, policy="authenticated", method="POST")
    def sign_out(
        self, request: Request, identity: Identity, query: SignOutQuery, form: Submitted[NoFields]
    ) -> FormResponse:
        """End the session of the browser, or all of the user."""
        form.value()
        self._auth.end_session(request, identity, everywhere=query.everywhere)
        return redirect(SIGN_IN, SIGNED_OUT, forget_browser(request))

    # --- who is signed in ---------------------------------------------------------------------------------------------

    @route(PAGES.account, policy="authenticated")
    def show(self, identity: Identity, query: AccountQuery) -> TemplateResponse:
        """Show who is signed in, what that allows, and what it takes of the plan."""
        return self._account_page(identity, account=query.account)

    @route("/account/password/", policy="authenticated", method="POST", body_max_bytes=BODY_MAX_BYTES)
    def change_password(self, request: Request, identity: Identity, form: Submitted[PasswordForm]) -> FormResponse:
        """Change the password of whoever is signed in. All sessions and tokens of the user end."""
        try:
            entered = form.value()
            self._auth.change_password(request, identity, entered.password, entered.new_password)
        except _FORM_ERRORS as ex:
            return Response(self._account_page(identity, password_form=form.again(ex)), ex.status, ex.headers)
        return redirect(SIGN_IN, PASSWORD_SET, forget_browser(request))

    @route(PAGES.switch, policy="authenticated", method="POST")
    def switch(self, request: Request, identity: Identity, form: Submitted[SwitchForm]) -> FormResponse:
        """Let a browser act for another account, or for the own one again."""
        wanted = form.value()
        following = _own(wanted.next)
        if not wanted.account:
            return redirect(following, cookies=forget_account(request))
        try:
            other = self._authentication.act_for(identity, wanted.account)
        except ForbiddenError as ex:
            page = self._account_page(identity, account=wanted.account, switch_error=ex)
            return Response(page, ex.status, ex.headers)
        with acting_as(None), self._db.transaction() as connection:
            for account in {identity.account, other.account} - {None}:
                changes = {"account": (identity.account, other.account)}
                self._audit.record(
                    connection,
                    action="account.switch",
                    target=("account", other.account),
                    account=account,
                    identity=identity,
                    changes=changes,
                )
        return redirect(following, cookies=(make_cookie(request, ACCOUNT_COOKIE, str(other.account)),))

    def _account_page(
        self,
        identity: Identity,
        *,
        password_form: Any = None,
        account: str = "",
        switch_error: ApiError | None = None,
    ) -> TemplateResponse:
        user = None if identity.user is None else self._sign_in.users.find(identity.user)
        context = {
            "identity": identity,
            "user": user,
            "password_form": password_form or make_form(PasswordForm),
            "may_switch": _may_switch(identity),
            "accounts": self._list_accounts(identity, "", _ACCOUNTS_MAX),
            "account": account,
            "switch_error": switch_error,
        }
        panels = {"plan": Panel(lambda: self._load_plan(identity), "accounts/plan.html", "Account and plan")}
        return TemplateResponse("accounts/account.html", context, panels=panels)

    def _load_plan(self, identity: Identity) -> Mapping[str, Any]:
        if identity.account is None:
            return {"account": None}
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["describe_account"], {"account": identity.account}).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no account {identity.account}")
        slug, name, plan, status, ends_at = row
        return {
            "account": {"number": identity.account, "slug": slug, "name": name},
            "plan": plan,
            "status": status,
            "ends_at": ends_at,
            "is_needed": not identity.has_active_plan,
            "usage": self._usage.show(identity, UsageQuery()),
        }

    # --- accounts to act for ------------------------------------------------------------------------------------------

    def search(self) -> Search:
        """Return the search for accounts to act for."""

        def find(text: str, identity: Identity, limit: int) -> Sequence[SearchResult]:
            return [
                SearchResult(name, page_link(PAGES.account, account=slug) + "#act-for", f"act for {slug}")
                for slug, name in self._list_accounts(identity, text, limit)
            ]

        return Search(name="Accounts", find=find, policy="staff")

    def _list_accounts(self, identity: Identity, text: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return slugs and names of accounts other than the own one; none to those who cannot act for them."""
        if not _may_switch(identity):
            return []
        values = {"own": identity.own_account, "text": text, "limit": limit}
        with acting_as(None), self._db.connection() as connection:
            return connection.execute(QUERIES["list_accounts"], values).fetchall()

    # --- forgotten passwords ------------------------------------------------------------------------------------------

    @route(RESET, policy="public")
    def show_reset(self) -> TemplateResponse:
        """Ask for the address of whoever forgot the password."""
        return TemplateResponse("accounts/reset.html", {"form": make_form(ResetRequestForm)})

    @route(RESET, policy="public", method="POST", throttle="auth", body_max_bytes=BODY_MAX_BYTES)
    def request_reset(self, request: Request, form: Submitted[ResetRequestForm]) -> FormResponse:
        """Send a token to reset a password, if the address is that of a user. Whether it is, is not told."""
        try:
            self._auth.send_reset(request, form.value().email)
        except _FORM_ERRORS as ex:
            page = TemplateResponse("accounts/reset.html", {"form": form.again(ex)})
            return Response(page, ex.status, ex.headers)
        return redirect(CONFIRM, MAIL_SENT)

    @route(CONFIRM, policy="public")
    def show_confirm(self, query: ResetQuery) -> Response[TemplateResponse]:
        """Ask for a new password, with the token that was sent."""
        form = make_form(ResetForm, values={"token": query.token})
        return Response(TemplateResponse("accounts/confirm.html", {"form": form}), headers=NO_STORE)

    @route(CONFIRM, policy="public", method="POST", throttle="auth", body_max_bytes=BODY_MAX_BYTES)
    def confirm_reset(self, request: Request, query: ResetQuery, form: Submitted[ResetForm]) -> FormResponse:  # noqa: ARG002 - the page is sent with it
        """Set a new password with the token that was sent. All sessions and tokens of the user end."""
        try:
            entered = form.value()
            self._sign_in.resets.confirm(request, entered.token, entered.password)
        except _FORM_ERRORS as ex:
            page = TemplateResponse("accounts/confirm.html", {"form": form.again(ex)})
            return Response(page, ex.status, {**NO_STORE, **ex.headers})
        return redirect(SIGN_IN, PASSWORD_SET, forget_browser(request))


def _may_switch(identity: Identity) -> bool:
    # Whoever acts for an account sees that one alone, and goes back first.
    return identity.is_staff and identity.account == identity.own_account


def _own(path: str) -> str:
    """Return a path of this service: the start page in place of what leads elsewhere."""
    return path if is_own_path(path) else "/"
