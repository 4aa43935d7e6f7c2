"""Passwords: what is accepted, how they are hashed, and how many at the same time."""

from __future__ import annotations

import string
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.resources import files

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from kernel import InvalidError, UnavailableError

# Argon2id as the OWASP Password Storage Cheat Sheet has it: 19 MiB, two passes, one lane; about 30 ms.
_MEMORY_KIB = 19 * 1024
_PASSES = 2
_LANES = 1
# NIST SP 800-63B-4, 3.1.1.2, asks for at least 64. Beyond, nobody gains anything.
LENGTH_MAX = 256
# Characters as they are sent. Hardly any text is shorter by a factor of four once it is normalized.
_SENT_MAX = 4 * LENGTH_MAX
# A password that repeats fewer characters than this is as short as they are.
_UNIT_MIN = 6
_DECORATION = string.digits + string.punctuation + string.whitespace
_LIST = "common_passwords.txt"


class Passwords:
    """Hashes passwords, and says which are accepted.

    Args:
        length_min: The fewest characters of a new password.
        hashes_max: How many are hashed at the same time in this process; as many more may wait. Each takes 19 MiB and
            a processor, so that without a limit a few clients that sign in could take all of both.
    """

    def __init__(self, length_min: int, hashes_max: int) -> None:
        self._length_min = length_min
        self._hasher = argon2.PasswordHasher(
            time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES, type=argon2.Type.ID
        )
        self._running = threading.BoundedSemaphore(hashes_max)
        self._admitted = threading.BoundedSemaphore(2 * hashes_max)

    def ensure_acceptable(self, password: str, *, field: str, own_words: tuple[str, ...] = ()) -> None:
        """Ensure that a new password is long enough, and none of those that are tried first.

        What it consists of does not matter (NIST SP 800-63B-4, 3.1.1.2).

        Args:
            password: The password.
            field: The field of the request that it was in.
            own_words: What the user is known by, such as the address.

        Raises:
            InvalidError: It is not acceptable; says why.
        """
        if problem := self._find_problem(_normalize(password), {_normalize(word).casefold() for word in own_words}):
            raise InvalidError("The password is not accepted.", errors={field: [problem]})

    def _find_problem(self, password: str, own_words: set[str]) -> str | None:
        if len(password) < self._length_min:
            return f"Expected at least {self._length_min} characters."
        if len(password) > LENGTH_MAX:
            return f"Expected at most {LENGTH_MAX} characters."
        folded = password.casefold()
        unit = folded[: _period(folded)]
        if folded in own_words or unit in own_words:
            return "This is what you are known by. Choose another one."
        # Digits and signs around a word are what is tried next.
        if len(unit) < _UNIT_MIN or not _common_passwords().isdisjoint((folded, unit, folded.strip(_DECORATION))):
            return "This is one of the most frequent passwords. Choose another one."
        return None

    def hash(self, password: str) -> str:
        """Return the hash of a password, with its parameters and a random salt.

        Raises:
            UnavailableError: Too many are hashed at the moment.
        """
        with self._turn():
            return self._hasher.hash(_normalize(password))

    def verify(self, password: str, stored: str | None) -> bool:
        """Tell whether a password has a hash.

        It takes as long if there is none, so that the time does not tell whether there is such a user.

        Args:
            password: As the client sent it.
            stored: The hash; None for a user who has none, or who is none.

        Raises:
            UnavailableError: Too many are hashed at the moment.
        """
        text = _normalize(password)
        if len(text) > LENGTH_MAX:
            # None that is stored; and hashing it would take longer.
            text, stored = "", None
        with self._turn():
            try:
                self._hasher.verify(self._nobody if stored is None else stored, text)
            except (VerificationError, InvalidHashError):
                return False
        return stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Tell whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    @cached_property
    def _nobody(self) -> str:
        """A hash with the parameters of the others."""
        return self._hasher.hash("")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn to hash, unless too many wait already: they would keep threads from other requests."""
        if not self._admitted.acquire(blocking=False):
            raise UnavailableError("too many passwords are checked at the moment", retry_after_s=1)
        try:
            with self._running:
                yield
        finally:
            self._admitted.release()


@cache
def _common_passwords() -> frozenset[str]:
    text = files(__package__).joinpath(_LIST).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("# "))


def _normalize(password: str) -> str:
    """Return a password as it is hashed: keyboards have several spellings for the same characters (NFKC)."""
    # One that is longer is too long in every spelling. It would take a time that grows with the square of the number of
    # marks on a letter.
    return unicodedata.normalize("NFKC", password) if len(password) <= _SENT_MAX else password


def _period(text: str) -> int:
    """Return the length of what a text repeats; its own length if it repeats nothing."""
    period = (text + text).find(text, 1)
    return period if text else 0
