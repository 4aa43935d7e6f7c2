"""Who sends a request: an identity, the account whose data it sees, and what it may do.

A request has one identity from its authentication to its last byte, and everything that it does in the database is
scoped to the identity's account: see ``kernel.db.pool.Database``. Work outside requests has none, and sees everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import msgspec

from kernel.errors import ForbiddenError

# What plugins may import; the rest is for the kernel.
__all__ = ["SYSTEM_ACCOUNT", "Role", "Scope", "acting_as"]

# What an identity may do; the policy of a route that is not public names the one that is needed.
Scope = Literal["ingest", "read", "write", "staff"]
Role = Literal["owner", "admin", "developer", "viewer", "ingest"]
# How a request was authenticated; ``open`` is a service that authenticates nobody.
Scheme = Literal["open", "api_key", "jwt", "session", "basic", "job"]
ALL_SCOPES: frozenset[Scope] = frozenset({"ingest", "read", "write", "staff"})
# Owns what was stored before there were accounts, and all that a service in mode ``open`` stores.
SYSTEM_ACCOUNT = 0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends a request.

    Args:
        scheme: How it was authenticated.
        name: For people, logs and the audit log: ``key tk_4f8a (ingest of the shop)``. No secret.
        account: The account whose data it sees and writes; None if it has none.
        scopes: What it may do.
        own_account: The account that it belongs to, which differs where it named another one with ``X-Account``.
        account_name: Name of the account, where it differs.
        short_name: For pages, such as the address of a user; ``name`` if it is empty.
        role: Of a user; None for a key.
        user: Number of the user, if it is one.
        key: Number of the API key, if it is one.
        sites: The sites whose data it sees; None for all of the account. With several, or all, a request may name one
            of them with ``X-Site``, and then sees that one.
        services: The services whose request logs it sees and writes; None for all.
        applications: Slugs of the applications whose views it may read; None for all.
        has_active_plan: Whether the account has a plan that is in force.
        limits: What the plan allows the account a day, by unit: ``requests``, ``events``, ``bytes``, ``exports``. A
            unit that is missing is not limited.
    """

    scheme: Scheme
    name: str
    account: int | None
    scopes: frozenset[Scope]
    own_account: int | None = None
    account_name: str = ""
    short_name: str = ""
    role: Role | None = None
    user: int | None = None
    key: int | None = None
    sites: tuple[int, ...] | None = None
    services: frozenset[str] | None = None
    applications: frozenset[str] | None = None
    has_active_plan: bool = True
    limits: Mapping[str, int] = {}

    @property
    def is_staff(self) -> bool:
        """Whether it may see the service itself, not only its account."""
        return "staff" in self.scopes

    @property
    def is_manager(self) -> bool:
        """Whether it manages the users, keys and sites of its account."""
        return self.is_staff or self.role in {"owner", "admin"}

    @property
    def is_developer(self) -> bool:
        """Whether it may see how the service works on its requests: statements and times."""
        return self.is_manager or self.role == "developer"

    def ensure_manager(self) -> None:
        """Ensure that it manages its account.

        Raises:
            ForbiddenError: It does not.
        """
        if not self.is_manager:
            raise ForbiddenError(detail="an owner or administrator of the account is needed")

    def ensure_scope(self, scope: Scope) -> None:
        """Ensure that it may do something.

        Raises:
            ForbiddenError: It may not.
        """
        if scope not in self.scopes:
            raise ForbiddenError(detail=f"the scope {scope} is needed; {self.name} has {_listed(self.scopes)}")

    def may_read(self, application: str | None) -> bool:
        """Tell whether it may read the views of an application; with None, the view that no filter limits."""
        return self.applications is None or application in self.applications

    def ensure_application(self, slug: str | None) -> None:
        """Ensure that it may read the views of an application; with None, the view that no filter limits.

        Raises:
            ForbiddenError: It is limited to others.
        """
        if self.applications is not None and not self.may_read(slug):
            raise ForbiddenError(detail=f"{self.name} is limited to {_listed(self.applications)}")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# The identity of every request to a service in mode ``open``.
OPEN = Identity(
    scheme="open",
    name="everybody",
    account=SYSTEM_ACCOUNT,
    own_account=SYSTEM_ACCOUNT,
    scopes=ALL_SCOPES,
    role="owner",
)

_CURRENT: ContextVar[Identity | None] = ContextVar("identity", default=None)


def current_identity() -> Identity | None:
    """Return the identity of the request that this thread serves; None outside of requests and on public routes."""
    return _CURRENT.get()


def set_current_identity(identity: Identity | None) -> None:
    """Set the identity of this thread until the next call: a request is served by one thread, to its last byte."""
    if _CURRENT.get() is not identity:
        _CURRENT.set(identity)


@contextmanager
def acting_as(identity: Identity | None) -> Iterator[None]:
    """Act as another identity in a block: a job as the account that started it.

    With None, act for the service itself, which sees every account: to check a key, or to create a partition.
    """
    before = _CURRENT.set(identity)
    try:
        yield
    finally:
        _CURRENT.reset(before)
