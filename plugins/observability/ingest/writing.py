"""Write prepared events in one transaction: COPY, and what to do when the server refuses a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import psycopg
from psycopg import Connection

from kernel import Database
from plugins.observability.ids import Tail, make_id, random_tails
from plugins.observability.ingest.ledger import Entry, append, count_reasons
from plugins.observability.ingest.preparing import Prepared
from plugins.observability.ingest.rows import copy_data
from plugins.observability.ingest.validation import utc
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
        capped: Inserted rows whose endpoint went to ``__other__``.
    """

    inserted: int
    duplicates: int = 0
    errors: Sequence[ItemError] = ()
    capped: int = 0


class RefusedError(Exception):
    """The server refused some rows of a batch that must be whole; nothing is stored."""

    def __init__(self, errors: Sequence[ItemError]) -> None:
        super().__init__(f"{len(errors)} rows refused")
        self.errors = errors


class _MovedError(Exception):
    """Some rows may belong to events that were moved."""


Settle = Callable[..., Written]


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
        sender: str,
        rejected: Sequence[ItemError] = (),
        batch_size: int,
        strict: bool = False,
        tails: Sequence[Tail] | None = None,
        likely_new: bool = True,
    ) -> Written:
        """Store events in one transaction: all that the server takes, or nothing.

        Args:
            prepared: From ``preparing``.
            sender: Under which key the ledger has them.
            rejected: What was sent with them and refused before; the ledger has it in the same transaction.
            batch_size: Rows in one COPY.
            strict: Store nothing if the server refuses a row.
            tails: Derived from keys, so that what is there already is found; random by default.
            likely_new: Whether none of those is there already, as far as one can tell. A wrong guess costs time only.

        Raises:
            RefusedError: ``strict``, and the server refused a row.
            UnavailableError: The database is away; nothing is stored.
        """
        if not prepared.events:
            self.reject(sender, rejected)
            return Written(0)
        numbers = self._series.number(set(prepared.keys))
        rows = prepared.rows(numbers, tails if tails is not None else random_tails(len(prepared.events)))
        copy = _copy if tails is None else _copy_new

        def settle(connection: Connected, inserted: int, refused: Sequence[ItemError] = ()) -> Written:
            """Append to the ledger what became of the batch, in the transaction that decides it."""
            written = Written(inserted, len(rows) - len(refused) - inserted, refused)
            append(connection, _entry(written, rejected), sender)
            return written

        def write() -> Written:
            try:
                if tails is not None and likely_new:
                    written = self._write_first_time(prepared, rows, batch_size, settle)
                    if written is not None:
                        return written
                with self._db.transaction() as connection:
                    return settle(connection, _copy_chunks(connection, rows, batch_size, copy))
            except UNSTORABLE:
                return self._write_what_fits(prepared, rows, copy, settle, strict=strict)

        return self._partitions.make_room(prepared.days, write)

    def write_one(self, prepared: Prepared, tail: Tail, sender: str) -> bool:
        """Store a single event by a statement, which costs less than COPY; False if it was there already.

        Raises:
            RefusedError: The server cannot store it.
            UnavailableError: The database is away.
        """
        (key,), (event,), (time_us,), (tags,) = prepared.keys, prepared.events, prepared.times_us, prepared.tags
        values = {
            "id": make_id(time_us // 1000, tail),
            "time": utc(event.time),
            "series": self._series.number([key])[key],
            "status_code": event.status_code,
            "latency_ms": event.latency_ms,
            "trace_id": event.trace_id,
            "user_ref": event.user_ref,
            "tags": tags.decode(),
        }

        def write() -> bool:
            with self._db.transaction() as connection:
                inserted = connection.execute(QUERIES["insert_new_event"], values).rowcount
                append(connection, _entry(Written(inserted, 1 - inserted), ()), sender)
                return inserted == 1

        try:
            return self._partitions.make_room(prepared.days, write)
        except UNSTORABLE as ex:
            raise RefusedError([ItemError(0, unstorable(ex))]) from ex

    def reject(self, sender: str, rejected: Sequence[ItemError], received: int | None = None) -> None:
        """Tell the ledger of a batch of which nothing is stored.

        Args:
            sender: Under which key the ledger has it.
            rejected: What is wrong.
            received: How many items were sent, where the good ones are refused with the bad.
        """
        if not rejected and not received:
            return
        reasons = count_reasons(rejected)
        total = len(rejected) if received is None else received
        if total > len(rejected):
            reasons["strict: refused with the others"] = total - len(rejected)
        with self._db.connection() as connection:
            append(connection, Entry(total, 0, 0, total, reasons), sender)

    def _write_first_time(
        self, prepared: Prepared, rows: Sequence[bytes], batch_size: int, settle: Settle
    ) -> Written | None:
        """Store rows of which none is there already; None if some may be, and then nothing is stored."""
        try:
            with self._db.transaction() as connection:
                # Rows begin with their ids: sorted, so that two who store the same rows never wait in a ring.
                inserted = _copy_chunks(connection, sorted(rows), batch_size, _copy)
                # An event whose time was edited breaks no unique key, and must not come back at its old time. Asked
                # last: an edit that was under way has held the rows above up until it was through.
                _refuse_moved(connection, prepared)
                return settle(connection, inserted)
        except (psycopg.errors.UniqueViolation, _MovedError):
            return None

    def _write_what_fits(
        self, prepared: Prepared, rows: Sequence[bytes], copy: CopyRows, settle: Settle, *, strict: bool
    ) -> Written:
        """Find the rows that the server cannot store by halving, and store the others.

        The server is the judge of that, and only batches that hold such a row pay for it.
        """
        refused: dict[int, Messages] = {}
        with self._db.transaction() as connection:
            inserted = _copy_halving(connection, rows, range(len(rows)), copy, refused)
            errors = [ItemError(prepared.indexes[at], refused[at]) for at in sorted(refused)]
            if strict:
                raise RefusedError(errors)
            return settle(connection, inserted, errors)


def _entry(written: Written, rejected: Sequence[ItemError]) -> Entry:
    errors = [*rejected, *written.errors]
    return Entry(
        received=written.inserted + written.duplicates + len(errors),
        stored=written.inserted,
        duplicate=written.duplicates,
        rejected=len(errors),
        reasons=count_reasons(errors),
        capped=written.capped,
    )


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
