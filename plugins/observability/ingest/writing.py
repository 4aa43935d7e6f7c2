"""Write prepared events in one transaction: COPY, and what to do when the server refuses a part."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import msgspec
import psycopg

from kernel import Database
from plugins.observability.ids import Tail, random_tails
from plugins.observability.ingest.copying import (
    UNSTORABLE,
    Connected,
    CopyRows,
    MovedError,
    copy_chunks,
    copy_halving,
    copy_new,
    copy_rows,
    refuse_moved,
    unstorable,
)
from plugins.observability.ingest.ledger import Entry, append, count_reasons
from plugins.observability.ingest.preparing import Prepared
from plugins.observability.model import ItemError, Messages
from plugins.observability.partitions import Partitions
from plugins.observability.queries import QUERIES
from plugins.observability.retention.watermark import IngestWatermark, TooOldError, too_old_messages
from plugins.observability.series import Numbered, SeriesDictionary
from plugins.observability.templates import Templates


class Written(msgspec.Struct, frozen=True):
    """What became of prepared events.

    Args:
        inserted: Rows that are committed.
        duplicates: Rows that were there already.
        errors: Rows the server refused, by their place in what was sent.
        capped: Rows, inserted or there already, that go to ``__other__`` because the account has all the series it may.
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


class _Plan(msgspec.Struct, frozen=True):
    """How a batch goes into the table; see ``EventWriter.write``."""

    sender: str
    rejected: Sequence[ItemError]
    batch_size: int
    strict: bool
    is_keyed: bool
    likely_new: bool

    @property
    def copy(self) -> CopyRows:
        """How its rows go in: rows that may be there already pass through staging."""
        return copy_new if self.is_keyed else copy_rows


class _Pending(msgspec.Struct, frozen=True):
    """A batch on its way into the table."""

    prepared: Prepared
    rows: Sequence[bytes]
    capped: frozenset[int]
    generation: int
    plan: _Plan

    def settle(self, connection: Connected, inserted: int, refused: Sequence[ItemError] = ()) -> Written:
        """Append to the ledger what became of the batch, in the transaction that decides it."""
        capped = len(self.capped.difference(error.index for error in refused))
        written = Written(inserted, len(self.rows) - len(refused) - inserted, refused, capped)
        entry, hours = _entry(written, self.plan.rejected), self.prepared.hours
        append(connection, entry, self.plan.sender, hours=hours, generation=self.generation)
        return written


class EventWriter:
    """Writes batches of events.

    Args:
        db: The database.
        series: Numbers for texts.
        partitions: Makes room for new days.
        watermark: From when on events are kept.
    """

    def __init__(
        self, db: Database, series: SeriesDictionary, partitions: Partitions, watermark: IngestWatermark
    ) -> None:
        self._db = db
        self._watermark = watermark
        self._series = series
        self._partitions = partitions
        self._capped = 0
        self._lock = threading.Lock()

    def figures(self) -> dict[str, int]:
        """Return how many events went to ``__other__``, a replay counted again, since the process started."""
        return {"events_capped": self._capped}

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
        templates: Templates | None = None,
    ) -> Written:
        """Store events in one transaction: all that are not too old and the server takes, or nothing.

        Args:
            prepared: From ``preparing``.
            sender: Under which key the ledger has them.
            rejected: What was sent with them and refused before; the ledger has it in the same transaction.
            batch_size: Rows in one COPY.
            strict: Store nothing if a row is refused.
            tails: Derived from keys, so that what is there already is found; random by default.
            likely_new: Whether none of those is there already, as far as one can tell. A wrong guess costs time only.
            templates: Applied to the endpoints.

        Raises:
            RefusedError: ``strict``, and a row was refused.
            UnavailableError: The database is away; nothing is stored.
        """
        if not prepared.events:
            self.reject(sender, rejected)
            return Written(0)
        plan = _Plan(sender, rejected, batch_size, strict, tails is not None, likely_new)
        write = partial(self._write_kept, prepared, tails or random_tails(len(prepared.events)), plan, templates)
        try:
            written = write()
        except TooOldError as ex:
            self._watermark.learn(ex.since)
            written = write()
        self._count_capped(written)
        return written

    def _write_kept(
        self, prepared: Prepared, tails: Sequence[Tail], plan: _Plan, templates: Templates | None
    ) -> Written:
        """Store the events that are not too old."""
        gone = self._too_old(prepared)
        old = list(gone.values())
        if gone:
            if plan.strict:
                raise RefusedError(old)
            tails = [tail for at, tail in enumerate(tails) if at not in gone]
            prepared = prepared.without(gone)
            plan = msgspec.structs.replace(plan, rejected=[*plan.rejected, *old])
        if not prepared.events:
            self.reject(plan.sender, plan.rejected)
            return Written(0, errors=old)

        def write(numbered: Numbered) -> Written:
            rows, capped = prepared.rows(numbered, tails), prepared.capped(numbered)
            pending = _Pending(prepared, rows, capped, numbered.generation, plan)
            return self._partitions.make_room(prepared.days, lambda: self._write(pending))

        written = self._series.write(prepared.keys, write, templates)
        return msgspec.structs.replace(written, errors=[*old, *written.errors])

    def write_one(self, prepared: Prepared, tail: Tail, sender: str, templates: Templates | None = None) -> bool:
        """Store a single event by a statement, which costs less than COPY; False if it was there already.

        Args:
            prepared: One event, from ``preparing``.
            tail: See ``ids``.
            sender: Under which key the ledger has it.
            templates: Applied to the endpoint.

        Raises:
            RefusedError: The server cannot store it, or it is too old.
            UnavailableError: The database is away.
        """
        old = self._too_old(prepared)
        if old:
            raise RefusedError(list(old.values()))

        def write(numbered: Numbered) -> Written:
            values = prepared.columns(numbered, tail)
            return self._partitions.make_room(prepared.days, lambda: self._insert(values, prepared, sender, numbered))

        try:
            written = self._series.write(prepared.keys, write, templates)
        except UNSTORABLE as ex:
            raise RefusedError([ItemError(0, unstorable(ex))]) from ex
        except TooOldError as ex:
            self._watermark.learn(ex.since)
            raise RefusedError([ItemError(0, too_old_messages(ex.since))]) from ex
        self._count_capped(written)
        return written.inserted == 1

    def _insert(self, values: dict[str, object], prepared: Prepared, sender: str, numbered: Numbered) -> Written:
        with self._db.transaction() as connection:
            inserted = connection.execute(QUERIES["insert_new_event"], values).rowcount
            written = Written(inserted, 1 - inserted, capped=len(numbered.capped))
            entry = _entry(written, ())
            append(connection, entry, sender, hours=prepared.hours, generation=numbered.generation)
            return written

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

    def _too_old(self, prepared: Prepared) -> dict[int, ItemError]:
        """Return what is wrong with events that are older than what is kept, by their place."""
        since = self._watermark.since
        if since is None:
            return {}
        return {at: ItemError(prepared.indexes[at], too_old_messages(since)) for at in prepared.before(since)}

    def _count_capped(self, written: Written) -> None:
        if written.capped:
            with self._lock:
                self._capped += written.capped

    def _write(self, pending: _Pending) -> Written:
        try:
            if pending.plan.is_keyed and pending.plan.likely_new:
                written = self._write_first_time(pending)
                if written is not None:
                    return written
            with self._db.transaction() as connection:
                plan = pending.plan
                return pending.settle(connection, copy_chunks(connection, pending.rows, plan.batch_size, plan.copy))
        except UNSTORABLE:
            return self._write_what_fits(pending)

    def _write_first_time(self, pending: _Pending) -> Written | None:
        """Store rows of which none is there already; None if some may be, and then nothing is stored."""
        try:
            with self._db.transaction() as connection:
                # Rows begin with their ids: sorted, so that two who store the same rows never wait in a ring.
                inserted = copy_chunks(connection, sorted(pending.rows), pending.plan.batch_size, copy_rows)
                # An event whose time was edited breaks no unique key, and must not come back at its old time. Asked
                # last: an edit that was under way has held the rows above up until it was through.
                refuse_moved(connection, pending.prepared.id_range)
                return pending.settle(connection, inserted)
        except (psycopg.errors.UniqueViolation, MovedError):
            return None

    def _write_what_fits(self, pending: _Pending) -> Written:
        """Find the rows that the server cannot store by halving, and store the others.

        The server is the judge of that, and only batches that hold such a row pay for it.
        """
        refused: dict[int, Messages] = {}
        rows = pending.rows
        with self._db.transaction() as connection:
            inserted = copy_halving(connection, rows, range(len(rows)), pending.plan.copy, refused)
            errors = [ItemError(pending.prepared.indexes[at], refused[at]) for at in sorted(refused)]
            if pending.plan.strict:
                raise RefusedError(errors)
            return pending.settle(connection, inserted, errors)


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
