"""Check addresses and passwords: to begin a session, or for a single request (Basic)."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
import time

import msgspec

from kernel import Cache, Request, TooManyRequestsError, UnauthorizedError
from kernel.http import network_of
from kernel.metrics import Counter
from plugins.accounts.emails import normalize_email
from plugins.accounts.sign_in.attempts import Attempts
from plugins.accounts.sign_in.passwords import Passwords
from plugins.accounts.sign_in.users import SignedInUser, UserStore

WRONG = "the e-mail address or the password is wrong"
# How long a user and a password that were right are believed, unless the user changes. A hash takes 30 ms.
BASIC_BELIEVED_S = 60.0
# So that requests with the same password, of which the first is being checked, wait for its result.
_LOCKS = 64


class _Believed(msgspec.Struct, frozen=True):
    until: float
    user: int
    token_version: int


class PasswordCheck:
    """Checks addresses and passwords.

    Args:
        users: The users.
        passwords: Hashes passwords.
        attempts: Slows guessing down.
        cache: What a process has checked for Basic, by an HMAC of address and password.
        checks: Counts checks by outcome.
    """

    def __init__(
        self,
        users: UserStore,
        passwords: Passwords,
        attempts: Attempts,
        cache: Cache[bytes, _Believed],
        checks: Counter,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._attempts = attempts
        self._cache = cache
        self._checks = checks
        for outcome in ("right", "wrong", "slowed_down"):
            checks.inc(outcome, by=0)
        # Of this process: nothing that was in its memory tells a password to one who has not this as well.
        self._cache_key = secrets.token_bytes(32)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def verify(self, request: Request, email: str, password: str, *, scheme: str = "") -> SignedInUser:
        """Return the user of an address and a password.

        Whether there is no such user, the user may not sign in, or the password is wrong, is not told: neither by
        words nor by the time it takes.

        Args:
            request: Where it comes from.
            email: As the client sent it.
            password: As the client sent it.
            scheme: How errors call it: as ``WRONG`` by default.

        Raises:
            UnauthorizedError: They are wrong.
            TooManyRequestsError: Too many attempts failed.
            UnavailableError: Too many passwords are checked at the moment.
        """
        try:
            user = self._verify(request, email, password, scheme)
        except UnauthorizedError:
            self._checks.inc("wrong")
            raise
        except TooManyRequestsError:
            self._checks.inc("slowed_down")
            raise
        self._checks.inc("right")
        return user

    def _verify(self, request: Request, email: str, password: str, scheme: str) -> SignedInUser:
        address = network_of(request.remote_addr or "")
        try:
            normalized = normalize_email(email)
        except ValueError:
            normalized = ""
        # What is no address is counted by what it is.
        counted = normalized or email[:1000]
        attempt = self._attempts.begin(address, counted)
        try:
            found = self._users.find_password(normalized)
            user, stored = (None, None) if found is None else found
            is_right = self._passwords.verify(password, stored)
        except Exception:
            # Nobody guessed wrong: too many are checked at the moment, or the database does not answer.
            self._attempts.withdraw(attempt)
            raise
        if user is None or stored is None or not is_right:
            raise UnauthorizedError("Signing in failed.", detail=scheme or WRONG)
        self._attempts.succeed(attempt)
        if self._passwords.needs_rehash(stored):
            self._users.replace_hash(user, stored, self._passwords.hash(password))
        signed_in = self._users.find(user)
        if signed_in is None or not signed_in.is_active:
            raise UnauthorizedError("Signing in failed.", detail=scheme or WRONG)
        return signed_in

    def authenticate_basic(self, request: Request, credentials: str) -> SignedInUser:
        """Return the user of a request with ``Authorization: Basic`` (RFC 7617).

        Raises:
            UnauthorizedError: The credentials are malformed or wrong.
            TooManyRequestsError: As for ``verify``.
            UnavailableError: As for ``verify``.
        """
        email, password = _decode_basic(credentials)
        key = hmac.digest(self._cache_key, f"{email}\0{password}".encode(), "sha256")
        if (user := self._find_believed(key)) is not None:
            return user
        with self._locks[key[0] % _LOCKS]:
            if (user := self._find_believed(key)) is not None:
                return user
            user = self.verify(request, email, password, scheme="the user or the password of Basic is wrong")
            self._cache.set(key, _Believed(time.monotonic() + BASIC_BELIEVED_S, user.id, user.token_version))
            return user

    def _find_believed(self, key: bytes) -> SignedInUser | None:
        believed = self._cache.get(key)
        if believed is None or time.monotonic() >= believed.until:
            return None
        user = self._users.find(believed.user)
        is_good = user is not None and user.is_active and user.token_version == believed.token_version
        return user if is_good else None


def _decode_basic(credentials: str) -> tuple[str, str]:
    malformed = UnauthorizedError(detail="the credentials of Basic are malformed")
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        raise malformed from None
    email, colon, password = text.partition(":")
    if not colon or not email:
        raise malformed
    return email, password
