"""API keys: made, stored as a hash, looked up, revoked and rotated.

A key is ``tk_``, eight characters that tell keys apart and are shown, ``_``, and 32 random bytes in base64url. The
random part cannot be guessed, so that SHA-256 is hash enough, which takes a microsecond.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

from kernel import (
    Cache,
    Database,
    Identity,
    NotFoundError,
    Scope,
    UnauthorizedError,
    UnavailableError,
    acting_as,
    load_queries,
    notify,
)
from kernel.audit import Audit, Changes, compare
from plugins.accounts.models import AccountState, ApiKey

QUERIES = load_queries(__package__)
CHANNEL = "accounts_keys"
_KEY = re.compile(r"tk_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PREFIX_LENGTH = 8
_SECRET_BYTES = 32
# How long a process believes what it has read of a key: a lost notification delays a revocation for this long.
BELIEVED_S = 4.0


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key to create; fields as of ``ApiKey``."""

    account: int
    name: str
    scopes: tuple[Scope, ...]
    site: int | None = None
    services: tuple[str, ...] | None = None
    applications: tuple[str, ...] | None = None
    created_by: int | None = None
    expires_at: datetime | None = None


class IssuedKey(msgspec.Struct, frozen=True):
    """A new key with its text, which is shown once.

    Args:
        key: What is stored of it.
        secret: The whole key, as clients send it.
    """

    key: ApiKey
    secret: str


class _StoredKey(msgspec.Struct, frozen=True):
    """What authentication needs of a key."""

    id: int
    name: str
    prefix: str
    sha256: bytes
    scopes: tuple[Scope, ...]
    site: int | None
    services: tuple[str, ...] | None
    applications: tuple[str, ...] | None
    expires_at: datetime | None
    revoked_at: datetime | None
    account: AccountState


class ApiKeys:
    """The keys of all accounts.

    Args:
        db: Connection pool.
        cache: What a process has read of keys, by prefix.
        audit: Records what is done with keys.
        now: The clock.
    """

    def __init__(
        self,
        db: Database,
        cache: Cache[str, tuple[float, _StoredKey | None]],
        audit: Audit,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._cache = cache
        self._audit = audit
        self._now = now

    def create(self, new: NewKey) -> IssuedKey:
        """Create a key.

        Raises:
            NotFoundError: There is no such account.
        """
        with self._db.transaction() as connection:
            return self._insert(connection, new)

    def _insert(self, connection: Connection[Any], new: NewKey) -> IssuedKey:
        prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
        secret = f"tk_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        values = msgspec.structs.asdict(new) | {
            "prefix": prefix,
            "sha256": hash_key(secret),
            "scopes": list(new.scopes),
            "services": None if new.services is None else list(new.services),
            "applications": None if new.applications is None else list(new.applications),
        }
        with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
            row = cursor.execute(QUERIES["insert_key"], values).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no account {new.account}")
        self._record(connection, "create", row.account, row.id, compare(None, row))
        return IssuedKey(row, secret)

    def list(self, account: int) -> Sequence[ApiKey]:
        """List the keys of an account, the newest first."""
        with self._db.connection() as connection, connection.cursor(row_factory=class_row(ApiKey)) as cursor:
            return cursor.execute(QUERIES["list_keys"], {"account": account}).fetchall()

    def revoke(self, account: int, key_id: int) -> None:
        """Make a key stop working, in every process.

        Raises:
            NotFoundError: The account has no such key.
        """
        with self._db.transaction() as connection:
            row = connection.execute(QUERIES["revoke_key"], {"account": account, "id": key_id}).fetchone()
            if row is None:
                raise NotFoundError(detail=f"there is no key {key_id}")
            prefix, revoked_before, revoked_at = row
            changes = {} if revoked_before else {"revoked_at": (None, revoked_at)}
            self._record(connection, "revoke", account, key_id, changes)
            notify(connection, CHANNEL, prefix)
        self._cache.pop(prefix)

    def rotate(self, account: int, key_id: int, overlap: timedelta) -> IssuedKey:
        """Create a key like another one, which works for a while yet.

        Args:
            account: The account.
            key_id: The key to replace.
            overlap: How long it still works.

        Raises:
            NotFoundError: The account has no such key, or it does not work any more.
        """
        with self._db.transaction() as connection:
            values = {"account": account, "id": key_id}
            row = connection.execute(QUERIES["lock_key"], values).fetchone()
            if row is None:
                raise NotFoundError(detail=f"there is no working key {key_id}")
            name, scopes, site, services, applications, created_by, expires_at, prefix = row
            issued = self._insert(
                connection,
                NewKey(
                    account=account,
                    name=name,
                    scopes=tuple(scopes),
                    site=site,
                    services=None if services is None else tuple(services),
                    applications=None if applications is None else tuple(applications),
                    created_by=created_by,
                    expires_at=expires_at,
                ),
            )
            ends_at = self._now() + overlap
            connection.execute(QUERIES["retire_key"], {**values, "ends_at": ends_at, "rotated_to": issued.key.id})
            ends_at = ends_at if expires_at is None else min(expires_at, ends_at)
            changes = {"rotated_to": (None, issued.key.id), "expires_at": (expires_at, ends_at)}
            self._record(connection, "rotate", account, key_id, changes)
            notify(connection, CHANNEL, prefix)
        self._cache.pop(prefix)
        return issued

    def _record(self, connection: Connection[Any], verb: str, account: int, key_id: int, changes: Changes) -> None:
        target = ("api_key", key_id)
        self._audit.record(connection, action=f"api_key.{verb}", target=target, changes=changes, account=account)

    def forget(self, prefixes: Sequence[str]) -> None:
        """Read keys anew when they are used next: another process changed them."""
        for prefix in prefixes:
            self._cache.pop(prefix)

    def authenticate(self, text: str) -> Identity:
        """Return the identity of a key.

        Args:
            text: As the client sent it.

        Raises:
            UnauthorizedError: It is malformed, unknown, revoked or expired.
        """
        found = _KEY.fullmatch(text)
        if found is None:
            raise UnauthorizedError(detail="the API key is malformed")
        stored = self._read(found[1])
        # Hashed and compared in any case: the time does not tell whether there is such a prefix.
        is_right = hmac.compare_digest(hash_key(text), stored.sha256 if stored is not None else bytes(32))
        if stored is None or not is_right:
            raise UnauthorizedError(detail="the API key is unknown")
        if stored.revoked_at is not None:
            raise UnauthorizedError(detail="the API key is revoked")
        if stored.expires_at is not None and stored.expires_at <= self._now():
            raise UnauthorizedError(detail="the API key is expired")
        return _identity_of(stored)

    def _read(self, prefix: str) -> _StoredKey | None:
        cached = self._cache.get(prefix)
        if cached is not None and time.monotonic() - cached[0] < BELIEVED_S:
            return cached[1]
        read_at = time.monotonic()
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_key"], {"prefix": prefix}).fetchone()
            stored = None if row is None else _stored_key(row)
            if stored is not None:
                # On a server that is read-only at the moment, keys work all the same.
                with suppress(UnavailableError):
                    connection.execute(QUERIES["note_key_use"], {"id": stored.id})
        self._cache.set(prefix, (read_at, stored))
        return stored


def hash_key(text: str) -> bytes:
    """Return the hash of a key: SHA-256 of its text, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def _stored_key(row: Sequence[Any]) -> _StoredKey:
    *fields, account, is_system, has_active_plan, limits = row
    state = AccountState(account, is_system, has_active_plan, {unit: n for unit, n in limits.items() if n is not None})
    return msgspec.convert(dict(zip(_StoredKey.__struct_fields__, (*fields, state), strict=True)), _StoredKey)


def _identity_of(stored: _StoredKey) -> Identity:
    scopes = frozenset(stored.scopes)
    account = stored.account
    return Identity(
        scheme="api_key",
        name=f"key tk_{stored.prefix} ({stored.name})",
        account=account.account,
        own_account=account.account,
        scopes=scopes if account.is_system else scopes - {"staff"},
        key=stored.id,
        sites=None if stored.site is None else (stored.site,),
        services=None if stored.services is None else frozenset(stored.services),
        applications=None if stored.applications is None else frozenset(stored.applications),
        has_active_plan=account.has_active_plan,
        limits=account.limits,
    )
