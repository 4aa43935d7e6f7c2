"""What signs access tokens, cookies and refresh tokens: kept in the database, and rotated while processes run."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

from kernel import (
    Database,
    Secret,
    load_queries,
    notify,
)
from kernel.identity import acting_as
from plugins.accounts.keys import BELIEVED_S

QUERIES = load_queries(__package__)
CHANNEL = "accounts_signing_keys"
Purpose = Literal["jwt", "cookie"]
_SECRET_BYTES = 32
_KID_BYTES = 8
# An unknown key may be newer than what this process has read, but guessed ones must not cost a query each.
_READ_AGAIN_S = 0.2


class SigningKey(msgspec.Struct, frozen=True):
    """A key.

    Args:
        kid: What tokens name it by.
        purpose: What it signs.
        secret: 32 random bytes. Its representation is that of the Struct: do not print it.
        created_at: Since when it signs.
        retired_at: Since when it only verifies.
    """

    kid: str
    purpose: Purpose
    secret: bytes
    created_at: datetime
    retired_at: datetime | None

    def __repr__(self) -> str:
        return f"SigningKey({self.kid!r}, {self.purpose!r})"


class SigningKeys:
    """The keys of the service, made when they are first needed.

    Args:
        db: Connection pool.
        now: The clock.
        verifies_s: How long a key that signs nothing more still verifies: as long as what it signed is good.
        secret_key: The setting, which signs cookies in place of a key of the database.
    """

    def __init__(self, db: Database, now: Callable[[], datetime], verifies_s: float, secret_key: Secret | None) -> None:
        self._db = db
        self._now = now
        self._verifies_s = verifies_s
        self._secret_key = secret_key
        self._keys: tuple[SigningKey, ...] = ()
        self._read_at = float("-inf")
        self._read_again_at = float("-inf")
        self._lock = threading.Lock()

    def cookie_secret(self) -> bytes:
        """Return what signs cookies and refresh tokens."""
        if self._secret_key is not None:
            return self._secret_key.reveal().encode()
        return self._current("cookie").secret

    def current_jwt(self) -> SigningKey:
        """Return the key that signs access tokens."""
        return self._current("jwt")

    def find_jwt(self, kid: str) -> SigningKey | None:
        """Return a key that verifies access tokens; None if there is none, or it was retired long ago."""
        found = _find(self._read(BELIEVED_S), kid) or _find(self._read_again(), kid)
        if found is None or found.retired_at is None:
            return found
        return found if self._now() < found.retired_at + timedelta(seconds=self._verifies_s) else None

    def list_jwt(self) -> Sequence[SigningKey]:
        """Return the keys of access tokens, the newest first."""
        return [key for key in self._read(0) if key.purpose == "jwt"]

    def rotate_jwt(self, *, at_once: bool = False) -> SigningKey:
        """Make a new key that signs access tokens, in every process.

        Args:
            at_once: Forget all others, and with them every access token; refresh tokens are still good.
        """
        with acting_as(None), self._db.transaction() as connection:
            values = {
                "purpose": "jwt",
                "now": self._now(),
                "ended_at": self._now() - timedelta(seconds=self._verifies_s),
            }
            connection.execute(QUERIES["retire_signing_keys"], values)
            connection.execute(QUERIES["delete_signing_keys"], {**values, "at_once": at_once})
            key = self._insert(connection, "jwt")
            notify(connection, CHANNEL)
        self.forget()
        return key

    def forget(self, _payloads: Sequence[str] = ()) -> None:
        """Read the keys anew when one is needed next: another process changed them."""
        self._read_at = float("-inf")

    def _current(self, purpose: Purpose) -> SigningKey:
        for key in self._read(BELIEVED_S):
            if key.purpose == purpose and key.retired_at is None:
                return key
        with acting_as(None), self._db.transaction() as connection:
            key = self._insert(connection, purpose)
        self.forget()
        return key

    def _insert(self, connection: Connection[Any], purpose: Purpose) -> SigningKey:
        """Insert a key, unless another process has just done so; return the one that is there."""
        values = {
            "kid": secrets.token_hex(_KID_BYTES),
            "purpose": purpose,
            "secret": secrets.token_bytes(_SECRET_BYTES),
            "now": self._now(),
        }
        connection.execute(QUERIES["insert_signing_key"], values)
        with connection.cursor(row_factory=class_row(SigningKey)) as cursor:
            row = cursor.execute(QUERIES["find_signing_key"], values).fetchone()
        assert row is not None  # noqa: S101 - inserted just now, or there before
        return row

    def _read_again(self) -> tuple[SigningKey, ...]:
        """Return the keys as they are now, unless that was asked just before: for a key that is not known."""
        asked_at = time.monotonic()
        if asked_at - self._read_again_at < _READ_AGAIN_S:
            return self._keys
        self._read_again_at = asked_at
        return self._read(0)

    def _read(self, believed_s: float) -> tuple[SigningKey, ...]:
        """Return the keys, from memory unless they were read longer ago."""
        if time.monotonic() - self._read_at < believed_s:
            return self._keys
        with self._lock:
            read_at = time.monotonic()
            if read_at - self._read_at < believed_s:
                return self._keys
            with (
                acting_as(None),
                self._db.connection() as connection,
                connection.cursor(row_factory=class_row(SigningKey)) as cursor,
            ):
                self._keys = tuple(cursor.execute(QUERIES["list_signing_keys"]).fetchall())
            self._read_at = read_at
            return self._keys


def _find(keys: Sequence[SigningKey], kid: str) -> SigningKey | None:
    return next((key for key in keys if key.purpose == "jwt" and key.kid == kid), None)
