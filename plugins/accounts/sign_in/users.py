"""What authentication needs of users: who they are, what they may do, and whether what was issued to them is good."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from psycopg import Connection

from kernel import (
    Cache,
    ConflictError,
    Database,
    Identity,
    NotFoundError,
    load_queries,
)
from kernel.audit import Audit
from kernel.identity import Role, Scope, acting_as
from plugins.accounts.keys import BELIEVED_S
from plugins.accounts.models import ROLE_SCOPES, STAFF_ROLES, AccountState

QUERIES = load_queries(__package__)
# Triggers notify it of every change of a user, and of what sites a user has access to.
CHANNEL = "accounts_users"
ALL_USERS = "*"
UserScheme = Literal["jwt", "session", "basic"]


class SignedInUser(msgspec.Struct, frozen=True):
    """A user.

    Args:
        id: Number of the user.
        email: Normalised address.
        name: For people.
        role: In the whole account; None for access to some sites only.
        is_active: Whether the user may sign in.
        token_version: What sessions and tokens were issued for; those for another one are revoked.
        site_roles: Roles by the number of a site.
        account: The user's account.
    """

    id: int
    email: str
    name: str
    role: Role | None
    is_active: bool
    token_version: int
    site_roles: Mapping[int, Role]
    account: AccountState

    def identity(self, scheme: UserScheme) -> Identity:
        """Return the user's identity.

        Without a role in the account, it sees the sites that the user has access to, and may do what all roles there
        allow.
        """
        if self.role is not None:
            scopes: frozenset[Scope] = ROLE_SCOPES[self.role]
            if self.account.is_system and self.role in STAFF_ROLES:
                scopes |= {"staff"}
        else:
            allowed = [ROLE_SCOPES[role] for role in self.site_roles.values()]
            scopes = frozenset.intersection(*allowed) if allowed else frozenset()
        return Identity(
            scheme=scheme,
            name=f"user {self.id} ({self.email})",
            short_name=self.email,
            account=self.account.account,
            own_account=self.account.account,
            scopes=scopes,
            role=self.role,
            user=self.id,
            sites=None if self.role is not None else tuple(sorted(self.site_roles)),
            has_active_plan=self.account.has_active_plan,
            limits=self.account.limits,
        )


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user to create; fields as of ``SignedInUser``."""

    account: int
    email: str
    name: str = ""
    role: Role | None = None


class UserStore:
    """The users of all accounts.

    Args:
        db: Connection pool.
        cache: What a process has read of users, by number.
        audit: Records changes of passwords.
    """

    def __init__(self, db: Database, cache: Cache[int, tuple[float, SignedInUser | None]], audit: Audit) -> None:
        self._db = db
        self._audit = audit
        self._cache = cache

    def find(self, user: int) -> SignedInUser | None:
        """Return a user who may sign in, as it was a few seconds ago at most; None if there is none."""
        cached = self._cache.get(user)
        if cached is not None and time.monotonic() - cached[0] < BELIEVED_S:
            return cached[1]
        read_at = time.monotonic()
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_user"], {"id": user}).fetchone()
        found = None if row is None else _user_of(row)
        self._cache.set(user, (read_at, found))
        return found

    def forget(self, payloads: Sequence[str]) -> None:
        """Read users anew when they are needed next: they were changed.

        Args:
            payloads: Numbers of users, or ``*`` for all, where something changed that concerns many.
        """
        if ALL_USERS in payloads:
            self._cache.clear()
            return
        for payload in payloads:
            self._cache.pop(int(payload))

    def find_password(self, email: str) -> tuple[int, str | None] | None:
        """Return number and hashed password of a user who may sign in; None if there is none.

        Args:
            email: Normalised.
        """
        with acting_as(None), self._db.connection() as connection:
            return connection.execute(QUERIES["find_password"], {"email": email}).fetchone()

    def create(self, new: NewUser, password_hash: str) -> int:
        """Create a user with a password, and return its number.

        Raises:
            ConflictError: There is a user of this address.
        """
        with acting_as(None), self._db.transaction() as connection:
            row = connection.execute(QUERIES["insert_user"], msgspec.structs.asdict(new)).fetchone()
            if row is None:
                raise ConflictError(detail=f"there is a user {new.email}")
            self._store(connection, row[0], password_hash)
        return int(row[0])

    def set_password(self, user: int, password_hash: str, *, connection: Connection[Any] | None = None) -> None:
        """Give a user a new password: all sessions, tokens and pending resets of the user end.

        Args:
            user: Number of the user.
            password_hash: From ``Passwords.hash``.
            connection: In a transaction, of which it is a part.

        Raises:
            NotFoundError: There is no such user.
        """
        if connection is not None:
            self._store(connection, user, password_hash)
        else:
            with acting_as(None), self._db.transaction() as own_connection:
                self._store(own_connection, user, password_hash)
        self._cache.pop(user)

    def _store(self, connection: Connection[Any], user: int, password_hash: str) -> None:
        values = {"id": user, "hash": password_hash}
        row = connection.execute(QUERIES["set_password"], values).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no user {user}")
        self._audit.record(connection, action="user.set_password", target=("user", user), account=row[0])
        connection.execute(QUERIES["delete_resets"], values)

    def replace_hash(self, user: int, old_hash: str, new_hash: str) -> None:
        """Store the hash of the same password with other parameters."""
        values = {"id": user, "old_hash": old_hash, "hash": new_hash}
        with acting_as(None), self._db.connection() as connection:
            connection.execute(QUERIES["replace_hash"], values)

    def revoke_tokens(self, user: int) -> None:
        """End all sessions and tokens of a user."""
        with acting_as(None), self._db.connection() as connection:
            connection.execute(QUERIES["revoke_tokens"], {"id": user})
        self._cache.pop(user)


def _user_of(row: Sequence[Any]) -> SignedInUser:
    user, email, name, role, is_active, token_version, site_roles, account, is_system, has_active_plan, limits = row
    state = AccountState(account, is_system, has_active_plan, {unit: n for unit, n in limits.items() if n is not None})
    roles = {int(site): site_role for site, site_role in site_roles.items()}
    return SignedInUser(user, email, name, role, is_active, token_version, roles, state)
