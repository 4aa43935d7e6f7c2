"""COPY of encoded rows: plain, past rows that are there already, and around rows the server cannot store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import psycopg
from psycopg import Connection

from plugins.observability.ingest.rows import copy_data
from plugins.observability.model import Messages
from plugins.observability.queries import QUERIES

Connected = Connection[tuple[object, ...]]
CopyRows = Callable[[Connected, Sequence[bytes]], int]

# What the server raises for JSON that is valid and still no jsonb: numbers of 200,000 digits, 10,000 levels of nesting.
UNSTORABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


class MovedError(Exception):
    """Some rows may belong to events that were moved."""


def refuse_moved(connection: Connected, id_range: Mapping[str, UUID]) -> None:
    """Look whether events whose ids lie in a range were moved.

    Raises:
        MovedError: Some were.
    """
    found = connection.execute(QUERIES["any_moved"], id_range).fetchone()
    if found is None or found[0]:
        raise MovedError


def unstorable(error: psycopg.Error) -> Messages:
    """Return what a client is told about such an event. Everything but its tags was checked before."""
    return {"tags": [f"The database cannot store this: {str(error).partition(chr(10))[0]}"]}


def copy_chunks(connection: Connected, rows: Sequence[bytes], batch_size: int, copy: CopyRows) -> int:
    """Copy rows, so many at a time; return how many were stored."""
    return sum(copy(connection, rows[at : at + batch_size]) for at in range(0, len(rows), batch_size))


def copy_rows(connection: Connected, rows: Sequence[bytes]) -> int:
    """Store rows that are not there yet for sure; return how many."""
    with connection.cursor() as cursor:
        with cursor.copy(QUERIES["copy_events"]) as copy:
            copy.write(copy_data(rows))
        return cursor.rowcount


def copy_new(connection: Connected, rows: Sequence[bytes]) -> int:
    """Store the rows that are not there yet; return how many those were."""
    with connection.cursor() as cursor:
        cursor.execute(QUERIES["create_staging"])
        with cursor.copy(QUERIES["copy_staging"]) as copy:
            copy.write(copy_data(rows))
        cursor.execute(QUERIES["insert_from_staging"])
        inserted = cursor.rowcount
        cursor.execute(QUERIES["clear_staging"])
        return inserted


def copy_halving(
    connection: Connected, rows: Sequence[bytes], span: range, copy: CopyRows, refused: dict[int, Messages]
) -> int:
    """Store what the server takes, and note what it refuses; return how many rows were stored.

    Args:
        connection: Inside a transaction.
        rows: All rows.
        span: Those of them to store.
        copy: How they go in.
        refused: Gets the messages of refused rows by their place.
    """
    try:
        with connection.transaction():
            return copy(connection, rows[span.start : span.stop])
    except UNSTORABLE as ex:
        if len(span) == 1:
            refused[span.start] = unstorable(ex)
            return 0
    middle = span.start + len(span) // 2
    return copy_halving(connection, rows, range(span.start, middle), copy, refused) + copy_halving(
        connection, rows, range(middle, span.stop), copy, refused
    )
