"""Accounts: who may use the service, what is theirs, and how much they may use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kernel import Command, Job, Route, Services, collect_routes, hookimpl
from kernel.http import Search
from plugins.accounts.commands import make_commands
from plugins.accounts.commands_audit import make_audit_group
from plugins.accounts.container import make_container
from plugins.accounts.jobs import make_jobs
from plugins.accounts.keys import KeyRoutes
from plugins.accounts.pages import PAGES, AccountPages
from plugins.accounts.pages_tables import make_tables
from plugins.accounts.routes_audit import AuditRoutes
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in.commands import make_commands as make_sign_in_commands
from plugins.accounts.sign_in.routes import make_auth
from plugins.accounts.sign_in.routes import make_routes as make_sign_in_routes
from plugins.accounts.usage import make_usage_command


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[accounts]``."""
    return AccountsSettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Authenticate all requests, and return the routes under ``/api/v1/``."""
    container = services.once(make_container)
    services.authenticate_with(container.authentication, PAGES)
    audit = AuditRoutes(container.audit, services)
    keys = KeyRoutes(container.keys, container.stored_keys)
    return [
        *make_sign_in_routes(services.once(make_auth)),
        *services.once(AccountPages).routes(),
        *container.accounts.routes(),
        *container.plans.routes(),
        *container.subscriptions.routes(),
        *container.sites.routes(),
        *container.site_files.routes(),
        *container.sectors.routes(),
        *container.sector_files.routes(),
        *container.users.routes(),
        *container.site_accesses.routes(),
        *container.stored_keys.routes("list", "show"),
        *make_tables(container, audit, services),
        *collect_routes(keys.create, keys.revoke, keys.rotate, audit.list, audit.export, container.usage.show),
    ]


@hookimpl
def register_searches(services: Services) -> Iterable[Search]:
    """Return what staff finds of accounts to act for."""
    return [services.once(AccountPages).search()]


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``accounts.purge`` and ``accounts.send_reset``."""
    container = services.once(make_container)
    return [*make_jobs(container), container.sign_in.resets.job()]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return the commands for everything that accounts have, for the audit log, and for what users sign in with."""
    container = services.once(make_container)
    return [
        *make_commands(container),
        *make_sign_in_commands(container, services),
        Command(command=make_audit_group(container.audit)),
        Command(command=make_usage_command(container.usage)),
    ]
