"""Pages for those who manage accounts: tables of what accounts have, under ``/admin/``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from psycopg import Connection

from kernel import (
    ConflictError,
    ForbiddenError,
    Identity,
    InvalidError,
    NotFoundError,
    Response,
    Route,
    Services,
    collect_routes,
    route,
)
from kernel.http import (
    Action,
    Choice,
    CsvFiles,
    FormResponse,
    NoFields,
    Notice,
    Resource,
    ResourcePages,
    Submitted,
    TemplateResponse,
    make_form,
    redirect,
)
from kernel.identity import SYSTEM_ACCOUNT
from plugins.accounts.container import Container
from plugins.accounts.keys import ApiKeys, IssuedKey, NewKey, Rotation, StoredKeys
from plugins.accounts.models import Account, ApiKey, User
from plugins.accounts.pages_audit import AuditPages
from plugins.accounts.pages_usage import UsagePages
from plugins.accounts.routes_audit import AuditRoutes

Pages = ResourcePages[Any]
REVOKED = Notice("API key revoked.")
_KEYS = "/admin/keys/"
# A key is never changed, and revoked rather than deleted.
_KEY_ACTIONS: tuple[Action, ...] = ("create",)


def _is_manager(identity: Identity) -> bool:
    return identity.is_manager


def _is_staff(identity: Identity) -> bool:
    return identity.is_staff


class AccountTable(ResourcePages[Account]):
    """Pages of accounts."""

    def fields(self, identity: Identity) -> Collection[str]:
        """Return what managers may change of their own account, and all for staff."""
        return super().fields(identity) if identity.is_staff else ("name",)

    def is_deletable(self, row: Account) -> bool:
        """Tell whether it is not the account that owns the service."""
        return not row.is_system


class UserTable(ResourcePages[User]):
    """Pages of users."""

    def is_deletable(self, row: User) -> bool:
        """Tell whether it is not one of the account that owns the service."""
        return row.account != SYSTEM_ACCOUNT


class KeyTable(ResourcePages[ApiKey]):
    """Pages of API keys: made and shown once, rotated and revoked, but never changed.

    Args:
        services: Those of the plugin.
        keys: The keys.
        table: The table of keys.
    """

    row_template = "accounts/key.html"

    def __init__(self, services: Services, keys: ApiKeys, table: StoredKeys) -> None:
        super().__init__(
            services,
            table,
            _KEYS,
            menu="API keys",
            one="API key",
            columns=("name", "prefix", "scopes", "site", "last_used_at", "expires_at", "revoked_at"),
            actions=_KEY_ACTIONS,
            in_menu=_is_manager,
        )
        self._keys = keys
        self._now = services.clock.now

    def choices(self, connection: Connection[Any], identity: Identity) -> Mapping[str, Sequence[Choice]]:
        """Return, besides sites, the scopes that a key of an identity may have."""
        scopes = sorted(identity.scopes if identity.account == SYSTEM_ACCOUNT else identity.scopes - {"staff"})
        return {**super().choices(connection, identity), "scopes": [Choice(scope, scope) for scope in scopes]}

    def store(self, value: Any, identity: Identity) -> FormResponse:
        """Create a key, and show it this once."""
        account = SYSTEM_ACCOUNT if identity.account is None else identity.account
        new = NewKey(**msgspec.structs.asdict(value), account=account, created_by=identity.user)
        return self._show_once(self._keys.create(new, identity))

    def row_context(self, row: ApiKey, identity: Identity) -> Mapping[str, Any]:
        """Return what may be done with a key that works."""
        works = row.revoked_at is None and (row.expires_at is None or row.expires_at > self._now())
        may_change = works and self.may("create", identity)
        return {
            "rotation": make_form(Rotation) if may_change and row.rotated_to is None else None,
            "may_revoke": may_change,
            "works": works,
        }

    @route(f"{_KEYS}{{id}}/rotate/", policy="write", method="POST")
    def rotate(self, id: int, form: Submitted[Rotation], identity: Identity) -> FormResponse:  # noqa: A002 - the name in the path
        """Replace a key by a new one, which is shown this once."""
        self.resource.authorize("create", identity)
        try:
            overlap = timedelta(hours=form.value().overlap_h)
            issued = self._keys.rotate(identity.account or SYSTEM_ACCOUNT, id, overlap, identity)
        except (InvalidError, ConflictError, ForbiddenError, NotFoundError) as ex:
            page = self.show(id, identity)
            context = {**page.context, "rotation": form.again(ex)}
            return Response(msgspec.structs.replace(page, context=context), ex.status)
        return self._show_once(issued)

    @route(f"{_KEYS}{{id}}/revoke/", policy="write", method="POST")
    def revoke(self, id: int, form: Submitted[NoFields], identity: Identity) -> FormResponse:  # noqa: A002 - the name in the path
        """Make a key stop working."""
        self.resource.authorize("delete", identity)
        form.value()
        self._keys.revoke(identity.account or SYSTEM_ACCOUNT, id, identity)
        return redirect(f"{_KEYS}{id}/", REVOKED)

    def _show_once(self, issued: IssuedKey) -> Response[TemplateResponse]:
        context = {"issued": issued, "path": _KEYS}
        return Response(TemplateResponse("accounts/new_key.html", context), 201, {"Cache-Control": "no-store"})


def make_tables(container: Container, audit: AuditRoutes, services: Services) -> Sequence[Route]:
    """Make the routes of all pages."""

    keys = KeyTable(services, container.keys, container.stored_keys)

    def managed(resource: Resource[Any], path: str, menu: str, files: CsvFiles[Any] | None = None) -> Pages:
        return ResourcePages(services, resource, path, menu=menu, files=files, in_menu=_is_manager)

    pages: Sequence[Pages] = (
        AccountTable(services, container.accounts, "/admin/accounts/", menu="Accounts", in_menu=_is_manager),
        UserTable(services, container.users, "/admin/users/", menu="Users", in_menu=_is_manager),
        keys,
        managed(container.sites, "/admin/sites/", "Sites", container.site_files),
        managed(container.sectors, "/admin/sectors/", "Sectors", container.sector_files),
        managed(container.site_accesses, "/admin/site-access/", "Site access"),
        ResourcePages(services, container.plans, "/admin/plans/", menu="Plans", in_menu=_is_staff),
        managed(container.subscriptions, "/admin/subscriptions/", "Subscriptions"),
    )
    usage = UsagePages(services.usage, container.usage, services.clock.now)
    log = AuditPages(audit, container.audit, services)
    others = collect_routes(keys.rotate, keys.revoke, usage.show, log.show)
    return [*(each for page in pages for each in page.routes()), *others]
