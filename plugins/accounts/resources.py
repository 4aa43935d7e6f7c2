"""Accounts, plans, subscriptions, sites, sectors and users under ``/api/v1/``: who may read and change them.

Staff changes accounts, plans and subscriptions, and sees those of all accounts. Managers change what is inside their
account, and whoever may read sees its sites and sectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import msgspec
from psycopg import Connection

from kernel import (
    ConflictError,
    ForbiddenError,
    Identity,
    InvalidError,
    Services,
    load_queries,
)
from kernel.http import Action, Change, Edit, Reference, Resource
from kernel.identity import SYSTEM_ACCOUNT
from plugins.accounts.emails import normalize_email
from plugins.accounts.models import (
    Account,
    NewAccount,
    NewPlan,
    NewSector,
    NewSite,
    NewSiteAccess,
    NewSubscription,
    NewUser,
    Plan,
    Sector,
    Site,
    SiteAccess,
    Subscription,
    User,
)

QUERIES = load_queries(__package__)
OF_ACCOUNT = Reference("accounts.account", shares=(), label="name")
READING = frozenset({"list", "show"})
T = TypeVar("T", bound=msgspec.Struct)


def ensure_account_manager(identity: Identity) -> None:
    """Ensure that somebody manages a whole account, and not only some of its sites.

    Raises:
        ForbiddenError: They do not.
    """
    identity.ensure_manager()
    if identity.sites is not None:
        raise ForbiddenError(detail=f"{identity.name} sees some sites only; this concerns all of the account")


def is_unscoped_staff(identity: Identity) -> bool:
    """Tell whether somebody is staff, and acts for no other account with ``X-Account``."""
    return identity.is_staff and identity.account == SYSTEM_ACCOUNT


class _DecidesOnKeys(Resource[T]):
    """A resource whose changes decide what keys are good for.

    Args:
        services: Those of the plugin.
        forget_keys: Makes every process read keys anew, once a transaction is committed.
    """

    _DECISIVE: ClassVar[frozenset[str]] = frozenset({"delete"})

    def __init__(self, services: Services, forget_keys: Callable[[Connection[Any]], None]) -> None:
        super().__init__(services)
        self._forget_keys = forget_keys

    def on_change(self, connection: Connection[Any], change: Change) -> None:
        """Apply the change to keys at once."""
        if change.action in self._DECISIVE:
            self._forget_keys(connection)


class Accounts(_DecidesOnKeys[Account]):
    """``/api/v1/accounts/``."""

    path = "/api/v1/accounts/"
    table = "accounts.account"
    item = Account
    body = NewAccount
    search = ("slug", "name")
    account_column = "id"
    site_column = None
    # What managers change of their own account.
    _OF_MANAGERS: ClassVar[frozenset[str]] = frozenset({"name"})

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let managers read and rename their account, and staff everything."""
        ensure_account_manager(identity)
        if action in {"create", "replace", "delete"}:
            identity.ensure_scope("staff")
        if action == "create" and identity.account != SYSTEM_ACCOUNT:
            raise ForbiddenError(detail="an account is made by the system account; leave out X-Account")

    def account_of(self, identity: Identity) -> int | None:
        """Return None for staff, who sees all accounts unless it acts for one."""
        return None if is_unscoped_staff(identity) else super().account_of(identity)

    def clean(self, edit: Edit[Account]) -> dict[str, Any]:
        """Refuse what managers may not change."""
        if edit.current is not None and edit.identity is not None and not edit.identity.is_staff:
            before = msgspec.structs.asdict(edit.current)
            changed = {name for name, value in edit.values.items() if value != before[name]}
            if refused := sorted(changed - self._OF_MANAGERS):
                raise ForbiddenError(detail=f"only staff may change {', '.join(refused)}")
        return edit.values

    def before_delete(self, edit: Edit[Account]) -> None:
        """Refuse to delete the account that owns the service."""
        if edit.current is not None and edit.current.is_system:
            raise ForbiddenError("The system account cannot be deleted.")


class Plans(_DecidesOnKeys[Plan]):
    """``/api/v1/plans/``."""

    path = "/api/v1/plans/"
    table = "accounts.plan"
    item = Plan
    example: ClassVar = {"slug": "tiercel-example", "name": "Example", "requests_per_day": 100_000}
    _DECISIVE = frozenset({"update", "delete"})
    body = NewPlan
    search = ("slug", "name")
    account_column = None
    site_column = None

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let staff change plans."""
        if action not in READING:
            identity.ensure_scope("staff")

    def account_of(self, identity: Identity) -> int | None:
        """Return None for staff: whether a plan is in use, the subscriptions of all accounts say."""
        return None if identity.is_staff else super().account_of(identity)

    def before_delete(self, edit: Edit[Plan]) -> None:
        """Refuse to delete a plan that accounts have, or will have."""
        plan = edit.current
        if plan is None or edit.connection.execute(QUERIES["find_plan_use"], {"plan": plan.id}).fetchone() is not None:
            raise ConflictError("Accounts have this plan.", detail="deactivate it, or end their subscriptions first")


class Subscriptions(_DecidesOnKeys[Subscription]):
    """``/api/v1/subscriptions/``."""

    path = "/api/v1/subscriptions/"
    table = "accounts.subscription"
    item = Subscription
    _DECISIVE = frozenset({"create", "update", "delete"})
    body = NewSubscription
    ordering = ("-starts_at",)
    references: ClassVar = {
        "account": OF_ACCOUNT,
        "plan": Reference("accounts.plan", shares=(), label="name"),
    }
    site_column = None

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let managers read those of their account, and staff change all."""
        ensure_account_manager(identity)
        if action not in READING:
            identity.ensure_scope("staff")

    def account_of(self, identity: Identity) -> int | None:
        """Return None for staff, who sees those of all accounts unless it acts for one."""
        return None if is_unscoped_staff(identity) else super().account_of(identity)

    def clean(self, edit: Edit[Subscription]) -> dict[str, Any]:
        """Begin now by default, and end after the beginning."""
        values = edit.values
        if values.get("starts_at") is None:
            values = {name: value for name, value in values.items() if name != "starts_at"}
        starts_at, ends_at = values.get("starts_at"), values.get("ends_at")
        if starts_at is not None and ends_at is not None and ends_at <= starts_at:
            raise InvalidError(errors={"ends_at": ["It must be after starts_at."]})
        return values


class Sites(_DecidesOnKeys[Site]):
    """``/api/v1/sites/``."""

    path = "/api/v1/sites/"
    table = "accounts.site"
    item = Site
    example: ClassVar = {"slug": "tiercel-example", "name": "Example", "url": "https://example.com"}
    body = NewSite
    search = ("slug", "name", "url")
    references: ClassVar = {"account": OF_ACCOUNT}
    site_column = "id"

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let readers read, and managers change; those of some sites only make and delete none."""
        if action in {"create", "delete"}:
            ensure_account_manager(identity)
        elif action not in READING:
            identity.ensure_manager()

    def on_change(self, connection: Connection[Any], change: Change) -> None:
        """Delete the sectors of a deleted site, and end the keys that are good for it alone."""
        if change.action == "delete":
            connection.execute(QUERIES["delete_sectors"], {"account": change.account, "site": change.id})
        super().on_change(connection, change)


class Sectors(Resource[Sector]):
    """``/api/v1/sectors/``."""

    path = "/api/v1/sectors/"
    table = "accounts.sector"
    item = Sector
    body = NewSector
    search = ("slug", "name")
    references: ClassVar = {"site": Reference("accounts.site", slug="slug", label="name")}

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let readers read, and managers change."""
        if action not in READING:
            identity.ensure_manager()


def _ensure_may_grant(identity: Identity | None, *roles: str | None) -> None:
    """Ensure that somebody may give or take roles: administrators make no owners, and unmake none.

    Raises:
        ForbiddenError: They may not.
    """
    if identity is not None and "owner" in roles and not identity.is_staff and identity.role != "owner":
        raise ForbiddenError(detail="only an owner may make an owner, or change one")


class Users(Resource[User]):
    """``/api/v1/users/``."""

    path = "/api/v1/users/"
    table = "accounts.user"
    item = User
    body = NewUser
    search = ("email", "name")
    references: ClassVar = {"account": OF_ACCOUNT}
    site_column = None

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let readers of the account read, and managers change."""
        if action not in READING:
            ensure_account_manager(identity)
        elif identity.sites is not None and not identity.is_manager:
            raise ForbiddenError(detail=f"{identity.name} sees some sites only; users belong to all of the account")

    def clean(self, edit: Edit[User]) -> dict[str, Any]:
        """Normalise the address, and keep an owner."""
        user, current = edit.values, edit.current
        try:
            user = user | {"email": normalize_email(user["email"])}
        except ValueError as ex:
            raise InvalidError("Some fields are wrong: email.", errors={"email": [str(ex)]}) from ex
        _ensure_may_grant(edit.identity, user["role"], None if current is None else current.role)
        if current is not None and (user["role"] != "owner" or not user["is_active"]):
            _ensure_other_owner(edit.connection, current)
        return user

    def before_delete(self, edit: Edit[User]) -> None:
        """Refuse to delete users of the system account, and the last owner of any other."""
        if edit.current is None:
            return
        if edit.current.account == SYSTEM_ACCOUNT:
            raise ForbiddenError("Users of the system account cannot be deleted.", detail="set is_active to false")
        _ensure_may_grant(edit.identity, edit.current.role)
        _ensure_other_owner(edit.connection, edit.current)


def _ensure_other_owner(connection: Connection[Any], owner: User) -> None:
    """Ensure that an account has another owner than one that is about to be no longer.

    Raises:
        ConflictError: It has not.
    """
    if owner.role != "owner" or not owner.is_active:
        return
    # One change of owners at a time: two could each rely on the owner that the other one removes.
    connection.execute(QUERIES["lock_account"], {"account": owner.account})
    if connection.execute(QUERIES["find_other_owner"], {"account": owner.account, "user": owner.id}).fetchone() is None:
        raise ConflictError("The account needs an owner.", detail=f"user {owner.id} is its only one that is active")


class SiteAccesses(Resource[SiteAccess]):
    """``/api/v1/site-access/``."""

    path = "/api/v1/site-access/"
    table = "accounts.site_user_access"
    item = SiteAccess
    body = NewSiteAccess
    references: ClassVar = {
        "site": Reference("accounts.site", label="name"),
        "user_id": Reference("accounts.user", label="email"),
    }
    keeps_deleted = False

    def authorize(self, action: Action, identity: Identity) -> None:  # noqa: ARG002 - of the base class
        """Let managers read and change."""
        identity.ensure_manager()

    def clean(self, edit: Edit[SiteAccess]) -> dict[str, Any]:
        """Let owners alone make owners."""
        _ensure_may_grant(edit.identity, edit.values["role"], None if edit.current is None else edit.current.role)
        return edit.values

    def before_delete(self, edit: Edit[SiteAccess]) -> None:
        """Let owners alone unmake owners."""
        _ensure_may_grant(edit.identity, None if edit.current is None else edit.current.role)
