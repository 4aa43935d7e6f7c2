"""Ids of events: UUIDv7 (RFC 9562, section 5.7) made from the event's own time."""

from __future__ import annotations

import hashlib
import os
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

# What makes an id unique within its millisecond: 12 and 62 bits, masked when the id is made.
Tail = tuple[int, int]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAIL = struct.Struct(">HQ")
_VERSION_7 = 0x7000
_VARIANT = 0x8000_0000_0000_0000
_RANDOM_A = 0x0FFF
_RANDOM_B = 0x3FFF_FFFF_FFFF_FFFF
LOWEST_TAIL: Tail = (0, 0)
HIGHEST_TAIL: Tail = (_RANDOM_A, _RANDOM_B)


def id_halves(time_ms: int, tail: Tail) -> tuple[int, int]:
    """Return the upper and the lower 64 bits of an id.

    Args:
        time_ms: Unix time of the event in ms, below 2**48.
        tail: Random, or derived from a key.
    """
    return time_ms << 16 | _VERSION_7 | tail[0] & _RANDOM_A, _VARIANT | tail[1] & _RANDOM_B


def make_id(time_ms: int, tail: Tail) -> UUID:
    """Make an id; arguments as ``id_halves``."""
    upper, lower = id_halves(time_ms, tail)
    return UUID(int=upper << 64 | lower)


def random_tails(count: int) -> list[Tail]:
    """Return tails for new ids."""
    return list(_TAIL.iter_unpack(os.urandom(_TAIL.size * count)))


def derived_tail(*parts: bytes) -> Tail:
    """Return the tail that belongs to a key: the same parts give the same id, on every machine."""
    digest = hashlib.blake2b(digest_size=_TAIL.size)
    for part in parts:
        # With their lengths, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    upper, lower = _TAIL.unpack(digest.digest())
    return upper, lower


def time_range(event_id: UUID) -> tuple[datetime, datetime]:
    """Return the millisecond an id was made for, as a half-open range.

    Raises:
        ValueError: It is no UUIDv7, or its time lies beyond the year 9999.
    """
    if event_id.version != 7:
        raise ValueError("not a UUIDv7")
    try:
        start = EPOCH + timedelta(milliseconds=event_id.int >> 80)
        return start, start + timedelta(milliseconds=1)
    except OverflowError as ex:
        raise ValueError("beyond the year 9999") from ex
