"""Ids of events: UUIDv7 (RFC 9562, section 5.7) made from the event's own time."""

from __future__ import annotations

import hashlib
import os
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAIR = struct.Struct(">QQ")
_VERSION_7 = 0x7000
_VARIANT = 0x8000_0000_0000_0000
_RANDOM_A = 0x0FFF
_RANDOM_B = 0x3FFF_FFFF_FFFF_FFFF
RANDOM_BYTES = 10
LOWEST_TAIL = b"\x00" * RANDOM_BYTES
HIGHEST_TAIL = b"\xff" * RANDOM_BYTES


def make_id(time_ms: int, tail: bytes) -> bytes:
    """Make the 16 bytes of an id.

    Args:
        time_ms: Unix time of the event in ms, below 2**48.
        tail: 10 bytes, random or derived from a key; 74 bits of them are used.
    """
    a = int.from_bytes(tail[:2], "big") & _RANDOM_A
    b = int.from_bytes(tail[2:], "big") & _RANDOM_B
    return _PAIR.pack(time_ms << 16 | _VERSION_7 | a, _VARIANT | b)


def random_tails(count: int) -> list[bytes]:
    """Return tails for new ids."""
    pool = os.urandom(RANDOM_BYTES * count)
    return [pool[at : at + RANDOM_BYTES] for at in range(0, len(pool), RANDOM_BYTES)]


def derived_tail(*parts: bytes) -> bytes:
    """Return the tail that belongs to a key: the same parts give the same id, on every machine."""
    digest = hashlib.blake2b(digest_size=RANDOM_BYTES)
    for part in parts:
        # With their lengths, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


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
