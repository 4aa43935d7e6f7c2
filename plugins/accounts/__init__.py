"""Accounts: who may use the service, what is theirs, and how much they may use."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kernel import Command, Route, Services, hookimpl
from plugins.accounts.commands import make_commands
from plugins.accounts.container import make_container
from plugins.accounts.settings import AccountsSettings


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[accounts]``."""
    return AccountsSettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Authenticate all requests, and return the routes under ``/api/v1/``."""
    services.authenticate_with(services.once(make_container).authentication)
    return []


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``keys``."""
    return make_commands(services.once(make_container))
