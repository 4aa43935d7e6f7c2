"""Write prepared events in one transaction: COPY, and what to do when the server refuses a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import psycopg
from psycopg import Connection

from kernel import Database
from plugins.observability.ids import Tail, random_tails
from plugins.observability.ingest.preparing import Prepared
from plugins.observability.ingest.rows import copy_data
from plugins.observability.model import ItemError, Messages
from plugins.observability.partitions import Partitions
from plugins.observability.queries import QUERIES
from plugins.observability.series import SeriesDictionary

Connected = Connection[tuple[object, ...]]
CopyRows = Callable[[Connected, Sequence[bytes]], int]

# What the server raises for JSON that is valid and still no jsonb: numbers of 200,000 digits, 10,000 levels of nesting.
UNSTORABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def unstorable(error: psycopg.Error) -> Messages:
    """Return what a client is told about such an event. Everything but its tags was checked before."""
    return {"tags": [f"The database cannot store this: {str(error).partition(chr(10))[0]}"]}


class Written(msgspec.Struct, frozen=True):
    """What became of prepared events.

    Args:
        inserted: Rows that are committed.
        duplicates: Rows that were there already.
        errors: Rows the server refused, by their place in what was sent.
    """

    inserted: int
    duplicates: int = 0
    errors: Sequence[ItemError] = ()


class RefusedError(Exception):
    """The server refused some rows of a batch that must be whole; nothing is stored."""

    def __init__(self, errors: Sequence[ItemError]) -> None:
        super().__init__(f"{len(errors)} rows refused")
        self.errors = errors


class _MovedError(Exception):
    """Some rows may belong to events that were moved."""


class EventWriter:
    """Writes batches of events.

    Args:
        db: The database.
        series: Numbers for texts.
        partitions: Makes room for new days.
    """

    def __init__(self, db: Database, series: SeriesDictionary, partitions: Partitions) -> None:
        self._db = db
        self._series = series
        self._partitions = partitions

    def write(
        self,
        prepared: Prepared,
        *,
        batch_size: int,
        strict: bool = False,
        tails: Sequence[Tail] | None = None,
        likely_new: bool = True,
    ) -> Written:
        """Store events in one transaction: all that the server takes, or nothing.

        Args:
            prepared: From ``preparing``.
            batch_size: Rows in one COPY.
            strict: Store nothing if the server refuses a row.
            tails: Derived from keys, so that what is there already is found; random by default.
            likely_new: Whether none of those is there already, as far as one can tell. A wrong guess costs time only.

        Raises:
            RefusedError: ``strict``, and the server refused a row.
            UnavailableError: The database is away; nothing is stored.
        """
        if not prepared.events:
            return Written(0)
        numbers = self._series.number(set(prepared.keys))
        rows = prepared.rows(numbers, tails if tails is not None else random_tails(len(prepared.events)))
        copy = _copy if tails is None else _copy_new

        def write() -> Written:
            try:
                if tails is not None and likely_new and self._write_first_time(prepared, rows, batch_size):
                    return Written(len(rows))
                with self._db.transaction() as connection:
                    inserted = _copy_chunks(connection, rows, batch_size, copy)
            except UNSTORABLE:
                return self._write_what_fits(prepared, rows, copy, strict=strict)
            return Written(inserted, len(rows) - inserted)

        return self._partitions.make_room(prepared.days, write)

    def _write_first_time(self, prepared: Prepared, rows: Sequence[bytes], batch_size: int) -> bool:
        """Store rows of which none is there already; False if some may be, and then nothing is stored."""
        try:
            with self._db.transaction() as connection:
                # Rows begin with their ids: sorted, so that two who store the same rows never wait in a ring.
                _copy_chunks(connection, sorted(rows), batch_size, _copy)
                # An event whose time was edited breaks no unique key, and must not come back at its old time. Asked
                # last: an edit that was under way has held the rows above up until it was through.
                _refuse_moved(connection, prepared)
        except (psycopg.errors.UniqueViolation, _MovedError):
            return False
        return True

    def _write_what_fits(self, prepared: Prepared, rows: Sequence[bytes], copy: CopyRows, *, strict: bool) -> Written:
        """Find the rows that the server cannot store by halving, and store the others.

        The server is the judge of that, and only batches that hold such a row pay for it.
        """
        refused: dict[int, Messages] = {}
        with self._db.transaction() as connection:
            inserted = _copy_halving(connection, rows, range(len(rows)), copy, refused)
            errors = [ItemError(prepared.indexes[at], refused[at]) for at in sorted(refused)]
            if strict:
                raise RefusedError(errors)
        return Written(inserted, len(rows) - len(errors) - inserted, errors)


def _refuse_moved(connection: Connected, prepared: Prepared) -> None:
    found = connection.execute(QUERIES["any_moved"], prepared.id_range).fetchone()
    if found is None or found[0]:
        raise _MovedError


def _copy_chunks(connection: Connected, rows: Sequence[bytes], batch_size: int, copy: CopyRows) -> int:
    return sum(copy(connection, rows[at : at + batch_size]) for at in range(0, len(rows), batch_size))


def _copy(connection: Connected, rows: Sequence[bytes]) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(QUERIES["copy_events"]) as copy:
            copy.write(copy_data(rows))
        return cursor.rowcount


def _copy_new(connection: Connected, rows: Sequence[bytes]) -> int:
    """Store the rows that are not there yet; return how many those were."""
    with connection.cursor() as cursor:
        cursor.execute(QUERIES["create_staging"])
        with cursor.copy(QUERIES["copy_staging"]) as copy:
            copy.write(copy_data(rows))
        cursor.execute(QUERIES["insert_from_staging"])
        inserted = cursor.rowcount
        cursor.execute(QUERIES["clear_staging"])
        return inserted


def _copy_halving(
    connection: Connected, rows: Sequence[bytes], span: range, copy: CopyRows, refused: dict[int, Messages]
) -> int:
    try:
        with connection.transaction():
            return copy(connection, rows[span.start : span.stop])
    except UNSTORABLE as ex:
        if len(span) == 1:
            refused[span.start] = unstorable(ex)
            return 0
    middle = span.start + len(span) // 2
    return _copy_halving(connection, rows, range(span.start, middle), copy, refused) + _copy_halving(
        connection, rows, range(middle, span.stop), copy, refused
    )
