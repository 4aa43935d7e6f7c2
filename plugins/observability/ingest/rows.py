"""Rows of events in PostgreSQL's binary COPY format.

The format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"). Packed here because this is the
path every event takes, and one call of struct for a row is several times faster than one for each column.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from plugins.observability.ids import HIGHEST_TAIL, LOWEST_TAIL, Tail, id_halves
from plugins.observability.model import EventIn

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)

# PostgreSQL counts time in microseconds from here.
_EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_2000_UNIX_US = 946_684_800_000_000
_JSONB_VERSION = 1
_NULL = -1
# ``id_halves`` taken apart, for the loop below.
_VERSION, _VARIANT = id_halves(0, LOWEST_TAIL)
_RANDOM_A, _RANDOM_B = HIGHEST_TAIL


def unix_us(moment: datetime) -> int:
    """Return Unix time in microseconds, exactly; a time without an offset is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH_2000
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds + _EPOCH_2000_UNIX_US


def unix_us_of(events: Sequence[EventIn]) -> list[int]:
    """Return the times of events as ``unix_us`` does, all at once."""
    try:
        ages = [event.time - _EPOCH_2000 for event in events]
    except TypeError:  # some time has no offset
        return [unix_us(event.time) for event in events]
    return [(age.days * 86_400 + age.seconds) * 1_000_000 + age.microseconds + _EPOCH_2000_UNIX_US for age in ages]


@lru_cache(4096)
def _packer(trace_id_bytes: int, user_ref_bytes: int, tags_bytes: int) -> Callable[..., bytes]:
    """Return what packs a row whose three texts have these lengths; ``_NULL`` is no text at all.

    The columns, each with its length before it: id, time, series, status_code, latency_ms, trace_id, user_ref, tags.
    """
    texts = "".join("i" if size == _NULL else f"i{size}s" for size in (trace_id_bytes, user_ref_bytes))
    return struct.Struct(f">h iQQ iq ii ih ii {texts} iB{tags_bytes}s").pack


def encode_rows(
    events: Iterable[EventIn],
    times_us: Iterable[int],
    series: Iterable[int],
    tags: Iterable[bytes],
    tails: Iterable[Tail],
) -> list[bytes]:
    """Encode events as tuples of the COPY format. All arguments run in parallel.

    Args:
        events: Status, latency and references are taken from here.
        times_us: Unix time in microseconds.
        series: Number in the dictionary of series.
        tags: JSON text, UTF-8.
        tails: See ``ids``.
    """
    # One loop, and in it nothing called that can be spared: a function for each row costs half as much again.
    rows: list[bytes] = []
    for event, time_us, number, text, tail in zip(events, times_us, series, tags, tails, strict=True):
        upper = time_us // 1000 << 16 | _VERSION | tail[0] & _RANDOM_A
        lower = _VARIANT | tail[1] & _RANDOM_B
        time = time_us - _EPOCH_2000_UNIX_US
        status, latency, size = event.status_code, event.latency_ms, len(text)
        trace_id, user_ref = event.trace_id, event.user_ref
        if trace_id is None or user_ref is None:
            head = (8, 16, upper, lower, 8, time, 4, number, 2, status, 4, latency)
            pack = _packer(_length(trace_id), _length(user_ref), size)
            row = pack(*head, *_nullable(trace_id), *_nullable(user_ref), size + 1, _JSONB_VERSION, text)
        else:
            trace, user = trace_id.encode(), user_ref.encode()
            of_trace, of_user = len(trace), len(user)
            # fmt: off
            row = _packer(of_trace, of_user, size)(
                8, 16, upper, lower, 8, time, 4, number, 2, status, 4, latency,
                of_trace, trace, of_user, user, size + 1, _JSONB_VERSION, text,
            )
            # fmt: on
        rows.append(row)
    return rows


def _length(text: str | None) -> int:
    return _NULL if text is None else len(text.encode())


def _nullable(text: str | None) -> tuple[int | bytes, ...]:
    return (_NULL,) if text is None else (_length(text), text.encode())


def copy_data(rows: Iterable[bytes]) -> bytes:
    """Wrap encoded rows into a whole COPY stream."""
    return b"".join((SIGNATURE, *rows, TRAILER))
