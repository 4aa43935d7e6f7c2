"""Slow guessing of passwords down, without letting anybody lock another one out.

Before a password is checked, the attempt is counted as a failure, in one statement, so that many at the same time do
not all pass; if it succeeds, that is taken back. Each of three counters may ask to wait, for 2, 4, 8 ... seconds once
its free attempts are used:

- of an address and an account: what a person who forgot the password gets to feel, and nobody else. OWASP's
  Authentication Cheat Sheet recommends delays that grow over locks, which an attacker can trigger for others.
- of an address: against one that tries a few passwords on many accounts. Many people may share an address, so it
  allows more, and waits are short.
- of an account: against many addresses that try one account, which no counter of an address sees. Waits are at most
  half a minute, which leaves an attacker 3,000 guesses a day, none of a frequent password.

The last two neither count nor ask to wait where the user has signed in before from the same address (as NIST SP
800-63B-4, 3.2.2, suggests), so that nobody else, in the same office or far away, keeps the user out; and resetting a
password by e-mail makes the address of the user one of these.

The counters are in the database, shared by all processes, and forget after an hour. Addresses of unknown users are
counted like those of others, so that they cannot be told apart.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection

from kernel import (
    Database,
    TooManyRequestsError,
    load_queries,
)
from kernel.identity import acting_as

QUERIES = load_queries(__package__)
_FORGOTTEN_AFTER = timedelta(hours=1)
_KNOWN_FOR = timedelta(days=60)
# Rows of each table. Beyond, those with the fewest failures, or the oldest, are removed.
ROWS_MAX = 100_000
_TIDY_EVERY = 100


class Limit(msgspec.Struct, frozen=True):
    """When a counter asks to wait.

    Args:
        free: Failures after which there is no wait.
        longest_s: The longest wait.
    """

    free: int
    longest_s: float


OF_PAIR = Limit(free=5, longest_s=900)
OF_ADDRESS = Limit(free=50, longest_s=60)
OF_ACCOUNT = Limit(free=50, longest_s=30)
OF_RESETS = Limit(free=10, longest_s=60)


class Attempt(msgspec.Struct, frozen=True):
    """What was counted as a failure.

    Args:
        address: Of the client.
        email: Whom it says to be.
        counted: Keys of the counters.
    """

    address: str
    email: str
    counted: tuple[bytes, ...]


class Attempts:
    """Counts attempts to sign in.

    Args:
        db: Connection pool.
        now: The clock.
    """

    def __init__(self, db: Database, now: Callable[[], datetime]) -> None:
        self._db = db
        self._now = now

    def begin(self, address: str, email: str) -> Attempt:
        """Count an attempt as failed.

        Args:
            address: Of the client.
            email: Whom it says to be.

        Returns:
            What is to be told when it succeeds or is not made.

        Raises:
            TooManyRequestsError: Too many have failed; nothing is counted.
        """
        pair, of_address, of_account = _keys(address, email)
        counters = [(pair, OF_PAIR), (of_address, OF_ADDRESS), (of_account, OF_ACCOUNT)]
        counted = self._count(counters, unless_known=[of_address, of_account], known=pair)
        return Attempt(address, email, tuple(counted))

    def begin_reset(self, address: str) -> None:
        """Count a request to reset a password.

        Raises:
            TooManyRequestsError: Too many came from there.
        """
        self._count([(_key("reset", address), OF_RESETS)])

    def succeed(self, attempt: Attempt) -> None:
        """Take back that an attempt failed, forget those before it, and remember the address for the account."""
        with acting_as(None), self._db.transaction() as connection:
            self._take_back(connection, attempt)
            self._know(connection, attempt.address, attempt.email)

    def know(self, address: str, email: str) -> None:
        """Forget that attempts of an address on an account failed, and remember the address for the account."""
        with acting_as(None), self._db.transaction() as connection:
            self._know(connection, address, email)

    def withdraw(self, attempt: Attempt) -> None:
        """Take back that an attempt failed: it was not made."""
        with acting_as(None), self._db.transaction() as connection:
            self._take_back(connection, attempt)

    def _take_back(self, connection: Connection[Any], attempt: Attempt) -> None:
        values = {"keys": list(attempt.counted)}
        connection.execute(QUERIES["lock_attempts"], values)
        connection.execute(QUERIES["take_attempt_back"], values)

    def _know(self, connection: Connection[Any], address: str, email: str) -> None:
        values = {"pair": _keys(address, email)[0], "now": self._now()}
        connection.execute(QUERIES["forget_attempts"], values)
        connection.execute(QUERIES["know_address"], values)

    def tidy(self) -> None:
        """Remove counters and addresses that no longer matter, and those beyond the most rows."""
        now = self._now()
        values = {"failed_before": now - _FORGOTTEN_AFTER, "seen_before": now - _KNOWN_FOR, "keep": ROWS_MAX}
        with acting_as(None), self._db.connection() as connection:
            connection.execute(QUERIES["delete_old_attempts"], values)
            connection.execute(QUERIES["delete_surplus_attempts"], values)
            connection.execute(QUERIES["delete_old_addresses"], values)
            connection.execute(QUERIES["delete_surplus_addresses"], values)

    def _count(
        self, counters: Sequence[tuple[bytes, Limit]], unless_known: Sequence[bytes] = (), known: bytes = b""
    ) -> list[bytes]:
        """Count a failure for each key, but for some where the client is known; return the keys that were counted."""
        now = self._now()
        values = {
            "keys": [key for key, _ in counters],
            "free": [limit.free for _, limit in counters],
            "longest_s": [limit.longest_s for _, limit in counters],
            "unless_known": list(unless_known),
            "known": known,
            "now": now,
            "forgotten_before": now - _FORGOTTEN_AFTER,
            "known_since": now - _KNOWN_FOR,
        }
        wait_s = 0.0
        with acting_as(None), self._db.transaction() as connection, connection.transaction() as block:
            rows = connection.execute(QUERIES["count_attempt"], values).fetchall()
            if blocked := [key for key, is_counted in rows if not is_counted]:
                ((wait_s,),) = connection.execute(QUERIES["find_wait"], {"keys": blocked, "now": now}).fetchall()
                block.force_rollback = True
        if blocked:
            raise TooManyRequestsError("too many attempts failed", retry_after_s=max(1, math.ceil(wait_s or 1)))
        if secrets.randbelow(_TIDY_EVERY) == 0:
            self.tidy()
        return [key for key, _ in rows]


def _keys(address: str, email: str) -> tuple[bytes, bytes, bytes]:
    """Return the keys of the counters of an address and an account, of the address, and of the account."""
    return _key("pair", address, email), _key("address", address), _key("account", email)


def _key(kind: str, *parts: str) -> bytes:
    # What people enter for an address may be a password.
    return hashlib.sha256("\0".join((kind, *parts)).encode("utf-8", "surrogatepass")).digest()
