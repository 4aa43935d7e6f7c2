"""What is stored and shown of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from kernel.identity import Role, Scope

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
# What ``X-Account`` and ``X-Site`` take in place of a number, so it is none itself.
Slug = Annotated[str, msgspec.Meta(pattern=r"^(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z", max_length=100)]
# Without control characters, and those that change the direction of text: names are shown in lists.
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"
OptionalName = Annotated[str, msgspec.Meta(pattern=_PLAIN, max_length=NAME_MAX)]
Name = Annotated[str, msgspec.Meta(pattern=_PLAIN, min_length=1, max_length=NAME_MAX)]
Url = Annotated[str, msgspec.Meta(pattern=r"^(https?://[^\s\x00-\x1f\x7f-\x9f]+)?\Z", max_length=2000)]
Days = Annotated[int, msgspec.Meta(ge=0, le=36_500)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
# With an offset: nobody has to guess whose time it is.
Time = Annotated[datetime, msgspec.Meta(tz=True)]
SubscriptionStatus = Literal["trialing", "active", "past_due", "cancelled"]


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


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account as staff sets it; fields as of ``Account``."""

    slug: Slug
    name: Name
    retention_days: Days = 30


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account: a customer, to whom data belong.

    Args:
        id: Its number.
        slug: Its name in headers.
        name: For people.
        is_system: Whether it owns the service itself.
        retention_days: How long what is deleted is kept.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    slug: Slug
    name: Name
    is_system: bool
    retention_days: Days
    created_at: datetime
    updated_at: datetime


class NewPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as staff sets it; fields as of ``Plan``."""

    slug: Slug
    name: Name
    is_active: bool = True
    requests_per_day: Limit | None = None
    events_per_day: Limit | None = None
    bytes_per_day: Limit | None = None
    exports_per_day: Limit | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan: what an account may use a day, UTC; None for no limit.

    Args:
        id: Its number.
        slug: Its name in commands.
        name: For people.
        is_active: Whether it is in force; subscriptions to one that is not count for nothing.
        requests_per_day: Requests.
        events_per_day: Events that are stored.
        bytes_per_day: Bytes that are received.
        exports_per_day: Exports.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    slug: Slug
    name: Name
    is_active: bool
    requests_per_day: Limit | None
    events_per_day: Limit | None
    bytes_per_day: Limit | None
    exports_per_day: Limit | None
    created_at: datetime
    updated_at: datetime


class NewSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as staff sets it; fields as of ``Subscription``. It starts now by default."""

    account: Number
    plan: Number
    status: SubscriptionStatus = "active"
    starts_at: Time | None = None
    ends_at: Time | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """That an account has a plan for some time. In force is the latest one that has begun.

    Args:
        id: Its number.
        account: Number of the account.
        plan: Number of the plan.
        status: Only ``trialing`` and ``active`` ones give what the plan allows.
        starts_at: When it begins.
        ends_at: When it ends; None for no end.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    account: int
    plan: int
    status: SubscriptionStatus
    starts_at: datetime
    ends_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewSite(msgspec.Struct, frozen=True, kw_only=True):
    """A site as managers set it; fields as of ``Site``."""

    slug: Slug
    name: Name
    url: Url = ""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A site of an account.

    Args:
        id: Its number.
        account: Number of its account.
        slug: Its name in headers.
        name: For people.
        url: Where it is; may be empty.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    account: int
    slug: Slug
    name: Name
    url: Url
    created_at: datetime
    updated_at: datetime


class NewSector(msgspec.Struct, frozen=True, kw_only=True):
    """A sector as managers set it; fields as of ``Sector``."""

    site: Number | None = None
    slug: Slug
    name: Name


class Sector(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a site.

    Args:
        id: Its number.
        account: Number of its account.
        site: Number of its site.
        slug: Its name.
        name: For people.
        created_at: When it was created.
        updated_at: When it was last changed.
    """

    id: int
    account: int
    site: int
    slug: Slug
    name: Name
    created_at: datetime
    updated_at: datetime


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user as managers set it; fields as of ``User``."""

    email: Annotated[str, msgspec.Meta(max_length=1000)]
    name: OptionalName = ""
    role: Role | None = None
    is_active: bool = True


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person who acts for an account.

    Args:
        id: Their number.
        account: Number of their account.
        email: Their e-mail address, normalised; nobody else has it.
        name: For people; may be empty.
        role: In the whole account; None for somebody who has access to some sites only.
        is_active: Whether they may sign in.
        created_at: When they were created.
        updated_at: When they were last changed.
    """

    id: int
    account: int
    email: str
    name: str
    role: Role | None
    is_active: bool
    created_at: datetime
    updated_at: datetime


class NewSiteAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Access to a site as managers set it; fields as of ``SiteAccess``."""

    site: Number | None = None
    user_id: Number
    role: Role


class SiteAccess(msgspec.Struct, frozen=True, kw_only=True):
    """That a user without a role in the account has one in a site.

    Args:
        id: Its number.
        account: Number of the account.
        site: Number of the site.
        user_id: Number of the user.
        role: In that site.
        created_at: When it was given.
    """

    id: int
    account: int
    site: int
    user_id: int
    role: Role
    created_at: datetime
