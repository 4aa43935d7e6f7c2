"""Accounts: who may use the service, what is theirs, and how much they may use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kernel import Command, Job, Route, Services, hookimpl
from plugins.accounts.commands import make_commands
from plugins.accounts.container import make_container
from plugins.accounts.settings import AccountsSettings
from plugins.accounts.sign_in.commands import make_commands as make_sign_in_commands
from plugins.accounts.sign_in.routes import make_routes as make_sign_in_routes


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[accounts]``."""
    return AccountsSettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Authenticate all requests, and return the routes under ``/api/v1/``."""
    container = services.once(make_container)
    services.authenticate_with(container.authentication)
    return make_sign_in_routes(container, services)


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``accounts.send_reset``."""
    return [services.once(make_container).sign_in.resets.job()]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``keys``, ``users``, ``create-admin``, ``jwt-keys`` and ``first-key``."""
    container = services.once(make_container)
    return [*make_commands(container), *make_sign_in_commands(container, services)]
