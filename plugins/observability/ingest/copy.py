"""COPY: encode events as rows of its binary format, and send rows straight, through staging, or by bisection.

The format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"). Rows are packed here and not by
psycopg because every event takes this path, and one call of struct for a row is several times faster than one for each
column.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import Connection

from kernel import Database, FieldErrors
from kernel.http import current_deadline
from plugins.observability.event_ids import HIGHEST_SUFFIX, LOWEST_SUFFIX, IdSuffix, id_halves
from plugins.observability.models import EventIn
from plugins.observability.queries import QUERIES

Connected = Connection[tuple[Any, ...]]


class Copied(NamedTuple):
    """What became of rows.

    Args:
        inserted: Rows that were not stored before.
        replaced: Rows that replaced what was stored under their ids, because that differed.
        differing: Rows that are stored with other details, which were left as they are; counted only if asked for.
    """

    inserted: int = 0
    replaced: int = 0
    differing: int = 0

    def plus(self, other: Copied) -> Copied:
        """Return the sums."""
        return Copied(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


CopyRows = Callable[[Connected, Sequence[bytes], int], Copied]
# What is done with rows that are stored already: they are skipped, compared, or replaced.
Known = Literal["skip", "compare", "replace"]

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)

# PostgreSQL counts time from 2000-01-01, in microseconds.
_EPOCH_2000_UNIX_US = 946_684_800_000_000
_JSONB_VERSION = 1
_NULL = -1
# ``id_halves`` inlined into the loop below.
_VERSION, _VARIANT = id_halves(0, LOWEST_SUFFIX)
_RANDOM_A, _RANDOM_B = HIGHEST_SUFFIX

# A client may ask for batches as small as it likes, but after so many of them they have at least so many rows: each
# costs as much as some hundred rows.
_SMALL_BATCHES_MAX = 100
_SMALL_BATCH_ROWS = 100
# How often a batch is split to find what the server cannot store. Each time is an error in the server's log.
_SPLITS_MAX = 300

# What the server raises for JSON that is valid and still no jsonb: numbers of 200,000 digits, 10,000 levels of nesting.
UNSTORABLE_ERRORS = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


class EventMovedError(Exception):
    """The time of some event in a range of ids was edited; it may be one of those that are being stored."""


@lru_cache(4096)
def _packer(trace_id_bytes: int, user_ref_bytes: int, tags_bytes: int, latency: str = "ii") -> Callable[..., bytes]:
    """Return the function that packs a row whose three texts have these lengths; ``_NULL`` for NULL.

    The columns, each preceded by its length: id, time, series, status_code, latency_ms, trace_id, user_ref, tags.
    """
    texts = "".join("i" if size == _NULL else f"i{size}s" for size in (trace_id_bytes, user_ref_bytes))
    return struct.Struct(f">h iQQ iq ii ih {latency} {texts} iB{tags_bytes}s").pack


def encode_rows(
    events: Iterable[EventIn],
    times_us: Iterable[int],
    series_ids: Iterable[int],
    tags: Iterable[bytes],
    id_suffixes: Iterable[IdSuffix],
) -> list[bytes]:
    """Encode events as rows of the COPY format. All arguments run in parallel.

    Args:
        events: Status, latency and references are taken from here.
        times_us: Unix time in microseconds.
        series_ids: Ids in the dictionary of series.
        tags: JSON text, UTF-8.
        id_suffixes: See ``event_ids``.
    """
    # One loop that calls nothing it can do without: a function for each row takes half as long again.
    rows: list[bytes] = []
    for event, time_us, series_id, text, suffix in zip(events, times_us, series_ids, tags, id_suffixes, strict=True):
        upper = time_us // 1000 << 16 | _VERSION | suffix[0] & _RANDOM_A
        lower = _VARIANT | suffix[1] & _RANDOM_B
        time = time_us - _EPOCH_2000_UNIX_US
        status, latency, size = event.status_code, event.latency_ms, len(text)
        trace_id, user_ref = event.trace_id, event.user_ref
        if trace_id is None or user_ref is None or latency is None:
            head = (8, 16, upper, lower, 8, time, 4, series_id, 2, status)
            measured = (_NULL,) if latency is None else (4, latency)
            pack = _packer(_length(trace_id), _length(user_ref), size, "i" * len(measured))
            row = pack(*head, *measured, *_nullable(trace_id), *_nullable(user_ref), size + 1, _JSONB_VERSION, text)
        else:
            trace, user = trace_id.encode(), user_ref.encode()
            trace_bytes, user_bytes = len(trace), len(user)
            # fmt: off
            row = _packer(trace_bytes, user_bytes, size)(
                8, 16, upper, lower, 8, time, 4, series_id, 2, status, 4, latency,
                trace_bytes, trace, user_bytes, user, size + 1, _JSONB_VERSION, text,
            )
            # fmt: on
        rows.append(row)
    return rows


def _length(text: str | None) -> int:
    return _NULL if text is None else len(text.encode())


def _nullable(text: str | None) -> tuple[int | bytes, ...]:
    return (_NULL,) if text is None else (_length(text), text.encode())


def copy_stream(rows: Iterable[bytes]) -> bytes:
    """Return a whole COPY stream of encoded rows."""
    return b"".join((SIGNATURE, *rows, TRAILER))


def copy_rows(connection: Connected, rows: Sequence[bytes], batch_size: int) -> Copied:
    """Copy rows of which none is stored yet into the table.

    Raises:
        UniqueViolation: One is stored.
    """
    inserted = 0
    for chunk in _chunks(rows, batch_size):
        inserted += _copy(connection, QUERIES["copy_events"], chunk)
    return Copied(inserted)


def copy_new_rows(connection: Connected, rows: Sequence[bytes], batch_size: int, known: Known = "skip") -> Copied:
    """Copy rows through a staging table, past those that are stored already."""
    copied = Copied()
    for chunk in _chunks(rows, batch_size):
        Database.create_temporary_table(connection, QUERIES["create_staging"])
        _copy(connection, QUERIES["copy_staging"], chunk)
        differing = replaced = 0
        if known == "compare":
            ((differing,),) = connection.execute(QUERIES["count_differing"])
        elif known == "replace":
            connection.execute(QUERIES["allow_decompression"])
            replaced = connection.execute(QUERIES["replace_from_staging"]).rowcount
        inserted = connection.execute(QUERIES["insert_from_staging"]).rowcount
        copied = copied.plus(Copied(inserted, replaced, differing))
        connection.execute(QUERIES["clear_staging"])
    return copied


def rows_at_a_time(batch_size: int, batches: int) -> int:
    """Return how many rows the next batch of a request has.

    Args:
        batch_size: As asked for.
        batches: How many the request has had.
    """
    return batch_size if batches < _SMALL_BATCHES_MAX else max(batch_size, _SMALL_BATCH_ROWS)


def copy_storable_rows(
    connection: Connected, rows: Sequence[bytes], batch_size: int, copy: CopyRows
) -> tuple[Copied, dict[int, FieldErrors]]:
    """Copy the rows that the server can store; find the others by bisection.

    Where too many cannot be stored to find each of them, rows beside them are rejected as well.

    Args:
        connection: Inside a transaction.
        rows: Encoded.
        batch_size: Rows in one COPY.
        copy: ``copy_rows`` or ``copy_new_rows``.

    Returns:
        What became of the rows, and what is wrong with those that cannot be stored, by position.
    """
    copied = Copied()
    unstorable: dict[int, FieldErrors] = {}
    spans = [range(len(rows))]
    splits = 0
    deadline = current_deadline()
    while spans:
        deadline.check()
        span = spans.pop()
        try:
            with connection.transaction():  # a savepoint
                part = copy(connection, rows[span.start : span.stop], batch_size)
        except UNSTORABLE_ERRORS as ex:
            if len(span) == 1 or splits >= _SPLITS_MAX:
                unstorable |= dict.fromkeys(span, unstorable_errors(ex, len(span)))
            else:
                splits += 1
                middle = len(span) // 2
                spans += [span[middle:], span[:middle]]
        else:
            copied = copied.plus(part)
    return copied, dict(sorted(unstorable.items()))


def ensure_none_moved(connection: Connected, id_range: Mapping[str, UUID]) -> None:
    """Check that no event with an id in a range was moved to another time.

    Raises:
        EventMovedError: Some event was.
    """
    found = connection.execute(QUERIES["any_moved"], id_range).fetchone()
    if found is None or found[0]:
        raise EventMovedError


def unstorable_errors(error: psycopg.Error, events: int = 1) -> FieldErrors:
    """Return what the sender of events is told that the server cannot store. All but the tags is validated before.

    Args:
        error: Of the server.
        events: How many it is about; it need not be true of all of them.
    """
    which = "this" if events == 1 else f"this, or one of {events - 1} events beside it"
    return {"tags": [f"The database cannot store {which}: {str(error).partition(chr(10))[0]}"]}


def _chunks(rows: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    deadline = current_deadline()
    start = batches = 0
    while start < len(rows):
        deadline.check()
        end = start + rows_at_a_time(size, batches)
        yield rows[start:end]
        start, batches = end, batches + 1


def _copy(connection: Connected, statement: LiteralString, rows: Sequence[bytes]) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(copy_stream(rows))
        return cursor.rowcount
