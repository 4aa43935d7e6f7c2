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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from psycopg import Connection

from kernel import (
    Cache,
    Database,
    ForbiddenError,
    Identity,
    InvalidError,
    NotFoundError,
    Response,
    UnauthorizedError,
    UnavailableError,
    load_queries,
    notify,
    route,
)
from kernel.http import Action, Change, Edit, Example, Reference, Resource
from kernel.identity import SYSTEM_ACCOUNT, Scope, acting_as
from plugins.accounts.models import AccountState, ApiKey, Name, Number, Time

QUERIES = load_queries(__package__)
CHANNEL = "accounts_keys"
# In place of a prefix: what was notified concerns every key, such as the end of an account.
ALL_KEYS = "*"
_KEY = re.compile(r"tk_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PREFIX_LENGTH = 8
_SECRET_BYTES = 32
# How long a process believes what it has read of a key: a lost notification delays a revocation for this long.
BELIEVED_S = 4.0


_Listed = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...], msgspec.Meta(max_length=100)
]


class KeyFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as managers make it; fields as of ``ApiKey``."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=10)]
    site: Number | None = None
    services: _Listed | None = None
    applications: _Listed | None = None
    expires_at: Time | None = None


class NewKey(KeyFields, frozen=True, kw_only=True):
    """A key to create; fields as of ``ApiKey``."""

    account: int
    created_by: int | None = None


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

    def identity(self) -> Identity:
        """Return whom the key stands for."""
        scopes, account = frozenset(self.scopes), self.account
        return Identity(
            scheme="api_key",
            name=f"key tk_{self.prefix} ({self.name})",
            account=account.account,
            own_account=account.account,
            scopes=scopes if account.is_system else scopes - {"staff"},
            key=self.id,
            sites=None if self.site is None else (self.site,),
            services=None if self.services is None else frozenset(self.services),
            applications=None if self.applications is None else frozenset(self.applications),
            has_active_plan=account.has_active_plan,
            limits=account.limits,
        )


class _Read(msgspec.Struct, frozen=True):
    """What was read of a key.

    Args:
        at: When, of ``time.monotonic``.
        stored: The key; None if there is none.
        identity: Whom it stands for: made once, not for every request.
    """

    at: float
    stored: _StoredKey | None
    identity: Identity | None


class StoredKeys(Resource[ApiKey]):
    """The table of keys, as its routes show and change it; see ``ApiKeys`` for what makes and ends them."""

    path = "/api/v1/keys/"
    table = "accounts.api_key"
    item = ApiKey
    body = KeyFields
    search = ("name", "prefix")
    ordering = ("-id",)
    references: ClassVar = {
        "account": Reference("accounts.account", shares=(), label="name"),
        "site": Reference("accounts.site", label="name"),
    }
    keeps_deleted = False

    def authorize(self, action: Action, identity: Identity) -> None:
        """Let readers of the account read, and managers change."""
        if action not in {"list", "show"}:
            identity.ensure_manager()
        elif identity.sites is not None and not identity.is_manager:
            raise ForbiddenError(detail=f"{identity.name} sees some sites only; keys belong to all of the account")

    def clean(self, edit: Edit[ApiKey]) -> dict[str, Any]:
        """Refuse a key that could do more than who makes it."""
        key = edit.values
        if edit.current is None:
            key = key | {"scopes": tuple(dict.fromkeys(key["scopes"]))}
            if "staff" in key["scopes"] and key["account"] != SYSTEM_ACCOUNT:
                raise InvalidError(errors={"scopes": ["Only keys of the system account can have the scope staff."]})
            if edit.identity is not None:
                ensure_not_wider(edit.identity, key)
        return key

    def on_change(self, connection: Connection[Any], change: Change) -> None:
        """Let every process read the key anew."""
        if isinstance(change.before, ApiKey):
            notify(connection, CHANNEL, change.before.prefix)


def ensure_not_wider(identity: Identity, key: Mapping[str, Any]) -> None:
    """Ensure that a key can do nothing that an identity cannot do itself.

    Args:
        identity: Who is going to know the key.
        key: Its fields.

    Raises:
        ForbiddenError: It can.
    """
    for scope in key["scopes"]:
        identity.ensure_scope(scope)
    limits = {"services": identity.services, "applications": identity.applications, "site": identity.sites}
    for name, allowed in limits.items():
        wanted = key.get(name)
        if allowed is None:
            continue
        if wanted is None or not ({wanted} if name == "site" else set(wanted)) <= set(allowed):
            listed = ", ".join(sorted(map(str, allowed))) or "none"
            raise ForbiddenError(detail=f"{identity.name} is limited to the {name} {listed}; so must be its keys")


class ApiKeys:
    """The keys of all accounts.

    Args:
        db: Connection pool.
        cache: What a process has read of keys, by prefix.
        now: The clock.
        table: The table of keys.
    """

    def __init__(
        self,
        db: Database,
        cache: Cache[str, _Read],
        now: Callable[[], datetime],
        table: StoredKeys,
    ) -> None:
        self._db = db
        self._cache = cache
        self._now = now
        self._table = table

    def create(self, new: NewKey, identity: Identity | None = None) -> IssuedKey:
        """Create a key.

        Args:
            new: The key.
            identity: Who creates it; None for the service itself.

        Raises:
            InvalidError: There is no such account, or site in it.
            ForbiddenError: It could do more than who creates it.
        """
        with self._table.transaction(identity) as connection:
            return self._insert(connection, msgspec.structs.asdict(new), identity)

    def _insert(self, connection: Connection[Any], fields: dict[str, Any], identity: Identity | None) -> IssuedKey:
        prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
        secret = f"tk_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        made = {"prefix": prefix, "sha256": hash_key(secret)}
        return IssuedKey(self._table.insert(connection, fields | made, identity), secret)

    def list(self, account: int) -> Sequence[ApiKey]:
        """List the keys of an account, the newest first."""
        identity = account_itself(account)
        with self._table.transaction(identity) as connection:
            return self._table.select(connection, identity)

    def revoke(self, account: int, key_id: int, identity: Identity | None = None) -> None:
        """Make a key stop working, in every process.

        Args:
            account: Number of its account.
            key_id: Its number.
            identity: Who revokes it; None for the service itself.

        Raises:
            NotFoundError: The account has no such key.
        """
        identity = identity or account_itself(account)
        with self._table.transaction(identity) as connection:
            key = self._table.find(connection, key_id, identity, lock=True)
            if key.revoked_at is None:
                self._table.modify(connection, key_id, {"revoked_at": self._now()}, identity)
        self._cache.pop(key.prefix)

    def rotate(self, account: int, key_id: int, overlap: timedelta, identity: Identity | None = None) -> IssuedKey:
        """Create a key like another one, which works for a while yet.

        Args:
            account: The account.
            key_id: The key to replace.
            overlap: How long it still works.
            identity: Who rotates it; None for the service itself.

        Raises:
            NotFoundError: The account has no such key, or it does not work any more.
            ForbiddenError: It could do more than who rotates it.
        """
        identity = identity or account_itself(account)
        now = self._now()
        with self._table.transaction(identity) as connection:
            key = self._table.find(connection, key_id, identity, lock=True)
            is_over = key.expires_at is not None and key.expires_at <= now
            if key.revoked_at is not None or key.rotated_to is not None or is_over:
                raise NotFoundError(detail=f"there is no working key {key_id}")
            fields = {name: getattr(key, name) for name in KeyFields.__struct_fields__}
            issued = self._insert(connection, fields | {"account": account, "created_by": identity.user}, identity)
            ends_at = now + overlap if key.expires_at is None else min(key.expires_at, now + overlap)
            self._table.modify(connection, key_id, {"expires_at": ends_at, "rotated_to": issued.key.id}, identity)
        self._cache.pop(key.prefix)
        return issued

    def forget(self, prefixes: Sequence[str]) -> None:
        """Read keys anew when they are used next: another process changed them."""
        if ALL_KEYS in prefixes:
            self._cache.clear()
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
        read = self._read(found[1])
        stored, identity = read.stored, read.identity
        # Hashed and compared in any case: the time does not tell whether there is such a prefix.
        is_right = hmac.compare_digest(hash_key(text), stored.sha256 if stored is not None else bytes(32))
        if stored is None or identity is None or not is_right:
            raise UnauthorizedError(detail="the API key is unknown")
        if stored.revoked_at is not None:
            raise UnauthorizedError(detail="the API key is revoked")
        if stored.expires_at is not None and stored.expires_at <= self._now():
            raise UnauthorizedError(detail="the API key is expired")
        return identity

    def _read(self, prefix: str) -> _Read:
        cached = self._cache.get(prefix)
        if cached is not None and time.monotonic() - cached.at < BELIEVED_S:
            return cached
        read_at = time.monotonic()
        with acting_as(None), self._db.connection() as connection:
            row = connection.execute(QUERIES["find_key"], {"prefix": prefix}).fetchone()
        stored = None if row is None else _stored_key(row)
        if stored is not None:
            # On a server that is read-only at the moment, keys work all the same.
            with suppress(UnavailableError), acting_as(None), self._db.connection() as connection:
                connection.execute(QUERIES["note_key_use"], {"id": stored.id})
        read = _Read(read_at, stored, None if stored is None else stored.identity())
        self._cache.set(prefix, read)
        return read


def account_itself(account: int) -> Identity:
    """Return the identity of a command, which does anything in an account."""
    scopes: frozenset[Scope] = frozenset({"ingest", "read", "write", "staff"})
    return Identity(scheme="job", name="the command line", account=account, scopes=scopes, role="owner")


def hash_key(text: str) -> bytes:
    """Return the hash of a key: SHA-256 of its text, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def _stored_key(row: Sequence[Any]) -> _StoredKey:
    *fields, account, is_system, has_active_plan, limits = row
    state = AccountState(account, is_system, has_active_plan, {unit: n for unit, n in limits.items() if n is not None})
    return msgspec.convert(dict(zip(_StoredKey.__struct_fields__, (*fields, state), strict=True)), _StoredKey)


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``rotate/``.

    Args:
        overlap_h: How many hours the old key still works.
    """

    overlap_h: Annotated[float, msgspec.Meta(ge=0, le=24 * 90)] = 24.0


class KeyRoutes:
    """What makes and ends keys; ``StoredKeys`` lists and shows them.

    Args:
        keys: The keys.
        table: Says who may.
    """

    def __init__(self, keys: ApiKeys, table: StoredKeys) -> None:
        self._keys = keys
        self._table = table

    @route(
        "/api/v1/keys/",
        policy="write",
        method="POST",
        responses={201: IssuedKey},
        examples=(Example(summary="A key that reads", body={"name": "example", "scopes": ["read"]}),),
    )
    def create(self, body: KeyFields, identity: Identity) -> Response[IssuedKey]:
        """Create a key. Its secret is shown this once."""
        self._table.authorize("create", identity)
        fields = msgspec.structs.asdict(body)
        new = NewKey(**fields, account=identity.account or SYSTEM_ACCOUNT, created_by=identity.user)
        return _shown_once(self._keys.create(new, identity), 201)

    @route("/api/v1/keys/{id}/", policy="write", method="DELETE")
    def revoke(self, id: int, identity: Identity) -> Response[None]:  # noqa: A002 - the name in the path
        """Make a key stop working, everywhere."""
        self._table.authorize("delete", identity)
        self._keys.revoke(identity.account or SYSTEM_ACCOUNT, id, identity)
        return Response(None, 204)

    @route(
        "/api/v1/keys/{id}/rotate/",
        policy="write",
        method="POST",
        responses={201: IssuedKey},
    )
    def rotate(self, id: int, body: Rotation, identity: Identity) -> Response[IssuedKey]:  # noqa: A002 - the name in the path
        """Replace a key by a new one, whose secret is shown this once. The old one still works for a while."""
        self._table.authorize("create", identity)
        return _shown_once(
            self._keys.rotate(identity.account or SYSTEM_ACCOUNT, id, timedelta(hours=body.overlap_h), identity), 201
        )


def _shown_once(issued: IssuedKey, status: int) -> Response[IssuedKey]:
    return Response(issued, status, {"Cache-Control": "no-store"})
