"""Sessions: who signed in and stays so, with a cookie or with tokens, until it ends or somebody ends it.

A session is a row. What the client has of it, the value of a cookie or a refresh token, is the number of the session
and 32 random bytes, signed. The signature tells what this service has issued from what it has not, before the database
is asked; the row has the SHA-256 of the only value that is good. A refresh token that was issued but is not that one
has been used before: somebody has a copy, so the session ends (RFC 9700, 4.14.2).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from itsdangerous import BadSignature, Signer
from psycopg.rows import class_row

from kernel import (
    Cache,
    Database,
    UnauthorizedError,
    UnavailableError,
    load_queries,
    notify,
)
from kernel.audit import Audit
from kernel.identity import acting_as
from plugins.accounts.keys import BELIEVED_S
from plugins.accounts.sign_in.signing_keys import SigningKeys
from plugins.accounts.sign_in.users import SignedInUser, UserStore

QUERIES = load_queries(__package__)
CHANNEL = "accounts_sessions"
Kind = Literal["cookie", "token"]
# How errors call what the client has sent.
NAMES: dict[Kind, str] = {"cookie": "the session", "token": "the refresh token"}
_RANDOM_BYTES = 32
_VALUE_MAX = 200
# Of one user; a further one ends the one that was not used for longest.
SESSIONS_MAX = 100
_NOTE_USE_S = 60
# How long a session is kept that has expired, so that its client is told; and how many are removed with each new one.
_KEPT = timedelta(days=7)
_DELETED_MAX = 100


class Session(msgspec.Struct, frozen=True):
    """A session.

    Args:
        id: Its number.
        account: Number of the account.
        user_id: Number of the user.
        kind: Of a cookie, or of tokens.
        sha256: Of the only value that is good.
        token_version: Of the user when it began.
        used_at: When it was last used, to the minute; of tokens, when they were last refreshed.
        expires_at: When it ends, however much it is used.
        revoked_at: Since when it has ended.
    """

    id: int
    account: int
    user_id: int
    kind: Kind
    sha256: bytes
    token_version: int
    used_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class SessionLimits(msgspec.Struct, frozen=True):
    """How long sessions last, in seconds.

    Args:
        cookie_idle_s: Without a request, with a cookie.
        refresh_idle_s: Without a refresh, with tokens.
        max_s: In any case.
    """

    cookie_idle_s: int
    refresh_idle_s: int
    max_s: int

    def idle_s(self, kind: Kind) -> int:
        """Return how long a session of a kind lasts without being used."""
        return self.cookie_idle_s if kind == "cookie" else self.refresh_idle_s


class Sessions:
    """The sessions of all users.

    Args:
        db: Connection pool.
        cache: What a process has read of sessions, by number.
        keys: Sign what clients have of sessions.
        users: The users.
        limits: How long they last.
        audit: Records who signs in.
        now: The clock.
    """

    def __init__(
        self,
        db: Database,
        cache: Cache[int, tuple[float, Session | None]],
        keys: SigningKeys,
        users: UserStore,
        limits: SessionLimits,
        audit: Audit,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._audit = audit
        self._cache = cache
        self._keys = keys
        self._users = users
        self._limits = limits
        self._now = now

    @property
    def cookie_max_age_s(self) -> int:
        """How long a browser keeps a cookie, in seconds."""
        return self._limits.max_s

    def begin(self, user: SignedInUser, kind: Kind) -> tuple[Session, str]:
        """Begin a session; return it and what the client gets of it."""
        random = secrets.token_urlsafe(_RANDOM_BYTES)
        values = {
            "account": user.account.account,
            "user_id": user.id,
            "kind": kind,
            "sha256": _hash(random),
            "token_version": user.token_version,
            "now": self._now(),
            "expires_at": self._now() + timedelta(seconds=self._limits.max_s),
            "keep": SESSIONS_MAX,
        }
        with acting_as(None), self._db.transaction() as connection:
            with connection.cursor(row_factory=class_row(Session)) as cursor:
                session = cursor.execute(QUERIES["insert_session"], values).fetchone()
            assert session is not None  # noqa: S101 - an INSERT returns its row
            by = user.identity("session" if kind == "cookie" else "jwt")
            self._audit.record(
                connection, action="user.sign_in", target=("user", user.id), account=by.account, identity=by
            )
            connection.execute(QUERIES["delete_surplus_sessions"], values)
            connection.execute(QUERIES["delete_old_sessions"], {"before": self._now() - _KEPT, "most": _DELETED_MAX})
        return session, self._sign(session.id, random, kind)

    def authenticate(self, text: str) -> tuple[Session, SignedInUser]:
        """Return the session of a cookie, and its user.

        Raises:
            UnauthorizedError: It is malformed, expired or revoked.
        """
        session_id, random = self._unsign(text, "cookie")
        session = self._read(session_id)
        if session is None or session.kind != "cookie" or not hmac.compare_digest(session.sha256, _hash(random)):
            raise UnauthorizedError(detail="the session is revoked")
        return session, self._ensure_good(session, NAMES["cookie"])

    def find_good(self, session_id: int, name: str) -> tuple[Session, SignedInUser]:
        """Return the session of an access token, and its user.

        Args:
            session_id: Number of the session.
            name: How errors call the token.

        Raises:
            UnauthorizedError: It is expired or revoked.
        """
        session = self._read(session_id)
        if session is None or session.kind != "token":
            raise UnauthorizedError(detail=f"{name} is revoked")
        return session, self._ensure_good(session, name)

    def refresh(self, text: str) -> tuple[Session, SignedInUser, str]:
        """Replace a refresh token; return its session, the user and the new token.

        Raises:
            UnauthorizedError: It is malformed, expired, revoked, or was used before: then the session ends as well.
        """
        session_id, random = self._unsign(text, "token")
        new_random = secrets.token_urlsafe(_RANDOM_BYTES)
        values = {"id": session_id, "sha256": _hash(random), "new_sha256": _hash(new_random), "now": self._now()}
        # As it is now, not as it was seconds ago.
        self._cache.pop(session_id)
        session = self._read(session_id)
        if session is None or session.kind != "token":
            raise UnauthorizedError(detail="the refresh token is revoked")
        user = self._ensure_good(session, NAMES["token"])
        with acting_as(None), self._db.transaction() as connection:
            # Of two that present the same token at the same time, one finds it replaced.
            is_current = connection.execute(QUERIES["replace_refresh_token"], values).fetchone() is not None
            if not is_current:
                connection.execute(QUERIES["revoke_session"], values)
                notify(connection, CHANNEL, str(session_id))
        self._cache.pop(session_id)
        if not is_current:
            raise UnauthorizedError(detail="the refresh token was used before: its session is revoked")
        return session, user, self._sign(session_id, new_random, "token")

    def revoke(self, session_id: int) -> None:
        """End a session, in every process."""
        with acting_as(None), self._db.transaction() as connection:
            connection.execute(QUERIES["revoke_session"], {"id": session_id, "now": self._now()})
            notify(connection, CHANNEL, str(session_id))
        self._cache.pop(session_id)

    def forget(self, payloads: Sequence[str]) -> None:
        """Read sessions anew when they are used next: another process changed them."""
        for payload in payloads:
            self._cache.pop(int(payload))

    def _ensure_good(self, session: Session, name: str) -> SignedInUser:
        now = self._now()
        user = self._users.find(session.user_id)
        if (
            session.revoked_at is not None
            or user is None
            or not user.is_active
            or user.token_version != session.token_version
        ):
            raise UnauthorizedError(detail=f"{name} is revoked")
        idle_s = self._limits.idle_s(session.kind)
        if now >= session.expires_at or now >= session.used_at + timedelta(seconds=idle_s):
            raise UnauthorizedError(detail=f"{name} is expired")
        return user

    def _read(self, session_id: int) -> Session | None:
        cached = self._cache.get(session_id)
        if cached is not None and time.monotonic() - cached[0] < BELIEVED_S:
            return cached[1]
        read_at = time.monotonic()
        with (
            acting_as(None),
            self._db.connection() as connection,
            connection.cursor(row_factory=class_row(Session)) as cursor,
        ):
            session = cursor.execute(QUERIES["find_session"], {"id": session_id}).fetchone()
        if session is not None and session.kind == "cookie":
            self._note_use(session)
        self._cache.set(session_id, (read_at, session))
        return session

    def _note_use(self, session: Session) -> None:
        now = self._now()
        idle_end = session.used_at + timedelta(seconds=self._limits.cookie_idle_s)
        if session.used_at + timedelta(seconds=_NOTE_USE_S) <= now < idle_end:
            # On a server that is read-only at the moment, sessions work all the same.
            with suppress(UnavailableError), acting_as(None), self._db.connection() as connection:
                connection.execute(QUERIES["note_session_use"], {"id": session.id, "now": now})

    def _signer(self, kind: Kind) -> Signer:
        secret = self._keys.cookie_secret()
        return Signer(secret, salt=f"tiercel.{kind}".encode(), key_derivation="hmac", digest_method=hashlib.sha256)

    def _sign(self, session_id: int, random: str, kind: Kind) -> str:
        return self._signer(kind).sign(f"{session_id}.{random}").decode()

    def _unsign(self, text: str, kind: Kind) -> tuple[int, str]:
        malformed = UnauthorizedError(detail=f"{NAMES[kind]} is malformed")
        if not text.isascii() or len(text) > _VALUE_MAX:
            raise malformed
        try:
            session_id, _, random = self._signer(kind).unsign(text).decode().partition(".")
        except BadSignature:
            raise malformed from None
        return int(session_id), random


def _hash(random: str) -> bytes:
    return hashlib.sha256(random.encode()).digest()
