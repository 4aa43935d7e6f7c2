"""Ids of events: UUIDv7 (RFC 9562, section 5.7) made from the event's own time.

An id gives the millisecond of its event, which is how the event is found in the partitions. The rest of it, its suffix,
is random or derived from an idempotency key: then an event that is sent again gets the same id again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

# What makes an id unique within its millisecond: 12 and 62 bits, masked when the id is made.
IdSuffix = tuple[int, int]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUFFIX = struct.Struct(">HQ")
_VERSION_7 = 0x7000
_VARIANT = 0x8000_0000_0000_0000
_RANDOM_A = 0x0FFF
_RANDOM_B = 0x3FFF_FFFF_FFFF_FFFF
LOWEST_SUFFIX: IdSuffix = (0, 0)
HIGHEST_SUFFIX: IdSuffix = (_RANDOM_A, _RANDOM_B)


def unix_us(time: datetime) -> int:
    """Return Unix time in microseconds, exactly; a time without an offset is UTC."""
    age = (time.replace(tzinfo=UTC) if time.tzinfo is None else time) - EPOCH
    return (age.days * 86_400 + age.seconds) * 1_000_000 + age.microseconds


def id_halves(time_ms: int, suffix: IdSuffix) -> tuple[int, int]:
    """Return the upper and the lower 64 bits of an id.

    Args:
        time_ms: Unix time of the event in ms, below 2**48.
        suffix: Random, or derived from a key.
    """
    return time_ms << 16 | _VERSION_7 | suffix[0] & _RANDOM_A, _VARIANT | suffix[1] & _RANDOM_B


def make_event_id(time_ms: int, suffix: IdSuffix) -> UUID:
    """Make an id; arguments as of ``id_halves``."""
    upper, lower = id_halves(time_ms, suffix)
    return UUID(int=upper << 64 | lower)


def random_suffixes(count: int) -> list[IdSuffix]:
    """Return suffixes for new ids."""
    return list(_SUFFIX.iter_unpack(os.urandom(_SUFFIX.size * count)))


def derive_suffix(*parts: bytes) -> IdSuffix:
    """Derive a suffix: the same parts give the same one, on every machine."""
    digest = hashlib.blake2b(digest_size=_SUFFIX.size)
    for part in parts:
        # With their lengths, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    upper, lower = _SUFFIX.unpack(digest.digest())
    return upper, lower


def time_range(event_id: UUID) -> tuple[datetime, datetime]:
    """Return the millisecond an id was made in, as a half-open range.

    Raises:
        ValueError: It is not a UUIDv7, or its time lies beyond the year 9999.
    """
    if event_id.version != 7:
        raise ValueError("not a UUIDv7")
    try:
        start = EPOCH + timedelta(milliseconds=event_id.int >> 80)
        return start, start + timedelta(milliseconds=1)
    except OverflowError as ex:
        raise ValueError("beyond the year 9999") from ex
