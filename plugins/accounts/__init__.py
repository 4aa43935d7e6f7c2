"""Accounts: who may use the service, what is theirs, and how much they may use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kernel import Command, Route, Services, collect_routes, hookimpl
from plugins.accounts.commands import make_commands
from plugins.accounts.commands_audit import make_audit_group
from plugins.accounts.container import make_container
from plugins.accounts.routes_audit import AuditRoutes
from plugins.accounts.settings import AccountsSettings


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[accounts]``."""
    return AccountsSettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Authenticate all requests, and return the routes under ``/api/v1/``."""
    container = services.once(make_container)
    services.authenticate_with(container.authentication)
    audit = AuditRoutes(container.audit, services)
    return collect_routes(audit.list, audit.export)


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``keys`` and ``audit``."""
    container = services.once(make_container)
    return [*make_commands(container), Command(command=make_audit_group(container.audit))]
