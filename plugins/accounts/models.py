"""What is stored and shown of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from kernel import Role, Scope

# What a user with a role may do. Staff, which concerns the service itself, is for users of the system account only.
ROLE_SCOPES: Mapping[Role, frozenset[Scope]] = {
    "owner": frozenset({"ingest", "read", "write"}),
    "admin": frozenset({"ingest", "read", "write"}),
    "developer": frozenset({"ingest", "read", "write"}),
    "viewer": frozenset({"read"}),
    "ingest": frozenset({"ingest"}),
}
STAFF_ROLES: frozenset[Role] = frozenset({"owner", "admin", "developer"})
NAME_MAX = 200


class AccountState(msgspec.Struct, frozen=True):
    """What decides about the requests of an account.

    Args:
        account: Its number.
        is_system: Whether it owns the service itself.
        has_active_plan: Whether it has a plan that is in force.
        limits: What the plan allows a day, by unit; a unit that is missing is not limited.
    """

    account: int
    is_system: bool
    has_active_plan: bool
    limits: Mapping[str, int] = {}


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as it is shown: without its secret.

    Args:
        id: Number of the key.
        account: Number of its account.
        name: For people.
        prefix: What the key begins with.
        scopes: What it may do.
        site: The only site that it is good for; None for all.
        services: The services whose request logs it may write and read; None for all.
        applications: The applications whose views it may read; None for all.
        created_at: Since when there is the key.
        expires_at: Until when it works; None for no end.
        last_used_at: When it was last used, to the minute.
        revoked_at: Since when it does not work.
        rotated_to: The number of the key that replaces it.
    """

    id: int
    account: int
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    site: int | None = None
    services: tuple[str, ...] | None = None
    applications: tuple[str, ...] | None = None
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    rotated_to: int | None = None
