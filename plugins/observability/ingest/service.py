"""Ingest: the way of events from the body of a request into the table.

    decode -> validate -> normalize -> resolve series -> ensure partitions -> copy

``IngestService.ingest_json`` decodes (``decode``, and ``validate`` for what the fast decoder rejects) and
``IngestService.ingest`` normalizes. ``IngestService.store`` does the rest in one retry loop. What this process
remembers of series, partitions and the watermark of retention may be out of date; then the write fails with an
exception that says which of them, and the loop refreshes it and tries again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
import psycopg

from kernel import Database, InvalidError
from kernel.limits import Usage
from plugins.observability.access import SYSTEM, Access, Owner
from plugins.observability.event_ids import make_event_id
from plugins.observability.ingest.copy import (
    UNSTORABLE_ERRORS,
    Connected,
    Copied,
    EventMovedError,
    Known,
    copy_new_rows,
    copy_rows,
    copy_storable_rows,
    ensure_none_moved,
)
from plugins.observability.ingest.decode import DecodedBatch, decode_batch, decode_fields
from plugins.observability.ingest.idempotency import IdDerivation
from plugins.observability.ingest.normalize import NormalizedBatch, normalize
from plugins.observability.ingest.tags import may_be_oversized, oversized_tags, oversized_tags_positions
from plugins.observability.ingest.validate import invalid_fields, validate_event
from plugins.observability.ledger import NO_TIMES, LedgerEntry, append_entry, count_reasons, insert_event_with_entry
from plugins.observability.measurements import IngestMetrics
from plugins.observability.models import IngestQuery, IngestResult, ItemError
from plugins.observability.partitions import MissingPartitionError, Partitions
from plugins.observability.path_templates import Templates
from plugins.observability.retention.watermark import IngestWatermark, TooOldError, too_old_errors
from plugins.observability.series import ResolvedSeries, SeriesDictionary, SeriesRemovedError
from plugins.observability.settings import ObservabilitySettings

# Series, partitions and the watermark change rarely: a second attempt is hardly ever overtaken as well.
ATTEMPTS_MAX = 10


class IngestLimits(msgspec.Struct, frozen=True):
    """The limits of one request; see ``IngestQuery``."""

    batch_size: int
    max_events: int
    max_errors: int


class StoreResult(msgspec.Struct, frozen=True):
    """The outcome of storing a batch.

    Args:
        inserted: Events that are stored now.
        duplicates: Events that were stored before.
        errors: Events that are too old, whose tags are too long, or that the server cannot store.
        capped: Events, inserted or stored before, that went to ``__other__``; see ``series``.
        unknown_methods: Events, inserted or stored before, whose method is not a registered one; see ``methods``.
        replaced: Events that were stored before with other details, which are replaced.
        differing: Those of the duplicates that are stored with other details; counted only if asked for.
    """

    inserted: int
    duplicates: int = 0
    errors: Sequence[ItemError] = ()
    capped: int = 0
    unknown_methods: int = 0
    replaced: int = 0
    differing: int = 0


class BatchRejectedError(Exception):
    """A batch that must be stored whole has events that cannot be stored; nothing is stored.

    Args:
        errors: Why each of these is rejected.
    """

    def __init__(self, errors: Sequence[ItemError]) -> None:
        super().__init__(f"{len(errors)} events rejected")
        self.errors = errors


class _Write(msgspec.Struct, frozen=True):
    """A batch with all that is needed to write it; see ``IngestService.store``.

    Args:
        batch: The events, those that are too old left out.
        rejected: What the ledger has to record as rejected with them.
    """

    batch: NormalizedBatch
    series: ResolvedSeries
    rejected: Sequence[ItemError]
    owner: Owner
    sender: str
    batch_size: int
    strict: bool
    likely_new: bool
    known: Known

    def record(
        self, connection: Connected, copied: Copied, unstorable: Sequence[ItemError] = (), *, savepoints: bool = False
    ) -> StoreResult:
        """Append the outcome to the ledger, in the transaction that stores the events.

        There, events that are replaced are duplicates: they were received before.

        Args:
            connection: Inside that transaction.
            copied: The outcome.
            unstorable: Events that the server cannot store.
            savepoints: Whether the events were stored in savepoints, which have numbers of transactions of their own.

        Raises:
            TooOldError: Events of these times were removed by retention.
            SeriesRemovedError: Series were removed since theirs were resolved.
        """
        entry = self._entry(copied, unstorable)
        times = NO_TIMES if savepoints else self.batch.time_span
        append_entry(connection, entry, self.sender, self.owner, self.batch.hours, self.series.generation, times)
        return self._result(copied, entry, unstorable)

    def insert_and_record(self, connection: Connected) -> StoreResult:
        """Insert the only event and append the outcome, in one statement; raises as ``record``."""
        is_new = insert_event_with_entry(
            connection,
            self.batch.columns(self.series),
            self._entry(Copied()),
            self.sender,
            self.owner,
            self.batch.hours,
            self.series.generation,
        )
        copied = Copied(int(is_new))
        return self._result(copied, self._entry(copied))

    def _entry(self, copied: Copied, unstorable: Sequence[ItemError] = ()) -> LedgerEntry:
        duplicates = len(self.batch.events) - len(unstorable) - copied.inserted
        rejected = [*self.rejected, *unstorable]
        return LedgerEntry(
            received=copied.inserted + duplicates + len(rejected),
            stored=copied.inserted,
            duplicate=duplicates,
            rejected=len(rejected),
            reasons=count_reasons(rejected),
            capped=len(self.batch.capped_indexes(self.series) - _indexes(unstorable)),
        )

    def _result(self, copied: Copied, entry: LedgerEntry, unstorable: Sequence[ItemError] = ()) -> StoreResult:
        return StoreResult(
            inserted=copied.inserted,
            duplicates=entry.duplicate - copied.replaced,
            errors=unstorable,
            capped=entry.capped,
            unknown_methods=len(self.batch.unknown_method_indexes(self.series) - _indexes(unstorable)),
            replaced=copied.replaced,
            differing=copied.differing,
        )


class IngestService:
    """Stores events: of requests, and of whatever else in this process has events.

    Args:
        db: The database.
        series: The dictionary of series.
        partitions: Creates partitions for new days.
        watermark: Of retention: older events are rejected.
        settings: The limits that query parameters may lower.
        now: The clock.
        usage: Counts what is sent, for the account that sends it.
        metrics: Counts what becomes of it.
        templates: Applied to the endpoints of requests; None leaves them as they were sent.
    """

    def __init__(
        self,
        db: Database,
        series: SeriesDictionary,
        partitions: Partitions,
        watermark: IngestWatermark,
        settings: ObservabilitySettings,
        now: Callable[[], datetime],
        usage: Usage,
        metrics: IngestMetrics,
        templates: Templates | None = None,
    ) -> None:
        self._db = db
        self._series = series
        self._partitions = partitions
        self._watermark = watermark
        self._ids = IdDerivation(db)
        self._limits = IngestLimits(settings.ingest_batch_size, settings.ingest_max_events, settings.ingest_max_errors)
        self.max_bytes = settings.ingest_max_bytes
        self._tags_max_bytes = settings.tags_max_bytes
        self._now = now
        self.usage = usage
        self._metrics = metrics
        self._templates = templates
        self._capped = self._unknown_methods = 0
        self._lock = threading.Lock()

    def figures(self) -> dict[str, int]:
        """Return how many events were capped, or had an unknown method, since the process started.

        A replay counts again.
        """
        return {"events_capped": self._capped, "events_unknown_method": self._unknown_methods}

    def ingest_json(
        self, content: bytes, query: IngestQuery, idempotency_key: str | None = None, access: Access = SYSTEM
    ) -> IngestResult:
        """Store the valid items of a JSON body in one transaction.

        Args:
            content: JSON.
            query: Lowers limits, and says whether every item must be valid.
            idempotency_key: Of the request: items that were stored under it before are not stored again.
            access: Of the sender.

        Raises:
            InvalidError: ``strict``, and an item is invalid: nothing is stored. Or a parameter exceeds its setting.
            MalformedError: The body is no JSON.
            TooLargeError: It has more than ``max_events`` items.
            UnavailableError: The database is unavailable. Nothing is stored, or all of it if the commit failed.
            QuotaExceededError: The plan of the account does not allow it; nothing is stored.
        """
        limits = self.limits_of(query)
        self.usage.add("bytes", len(content))
        decoded = decode_batch(content, limits.max_events, self._now())
        return self.ingest(decoded, limits, strict=query.strict, idempotency_key=idempotency_key, access=access)

    def ingest(
        self,
        decoded: DecodedBatch,
        limits: IngestLimits,
        *,
        strict: bool = False,
        idempotency_key: str | None = None,
        seen: Counter[bytes] | None = None,
        access: Access = SYSTEM,
    ) -> IngestResult:
        """Store the valid items of a decoded batch in one transaction; arguments and errors as of ``ingest_json``.

        With ``seen``, the batch is one of several under the key; see ``IdDerivation``.
        """
        with self.usage.reserve("events", decoded.received) as events:
            result = self._ingest(decoded, limits, strict, idempotency_key, seen, access)
            events.used = result.inserted
        return result

    def _ingest(
        self,
        decoded: DecodedBatch,
        limits: IngestLimits,
        strict: bool,  # noqa: FBT001 - by position, in one place
        idempotency_key: str | None,
        seen: Counter[bytes] | None,
        access: Access,
    ) -> IngestResult:
        owner = access.owner
        batch, invalid = normalize(decoded.indexes, decoded.events, self._now())
        batch, refused = _drop_refused(batch, access)
        errors = decoded.errors + invalid + refused
        if strict and errors:
            raise self._reject_batch(errors, decoded.received, limits, access)
        self._ids.derive(batch, idempotency_key, owner, seen)
        try:
            stored = self.store(
                batch,
                sender=access.sender,
                owner=owner,
                rejected=errors,
                batch_size=limits.batch_size,
                strict=strict,
                templates=self._templates,
            )
        except BatchRejectedError as ex:
            raise self._reject_batch(ex.errors, decoded.received, limits, access) from ex
        errors = sorted([*errors, *stored.errors], key=lambda error: error.index)
        listed = errors[: limits.max_errors]
        return IngestResult(
            stored.inserted,
            stored.duplicates,
            len(errors),
            listed,
            stored.capped,
            stored.unknown_methods or msgspec.UNSET,
        )

    def ingest_event(
        self, content: bytes, idempotency_key: str | None = None, access: Access = SYSTEM
    ) -> tuple[UUID, bool]:
        """Store one event.

        Args:
            content: JSON.
            idempotency_key: Of the request.
            access: Of the sender.

        Returns:
            Its id, and whether it is new: False if it was stored before.

        Raises:
            InvalidError: Fields are wrong, it is too old, or the database cannot store its tags.
            MalformedError: The body is no JSON.
            UnavailableError: The database is unavailable.
        """
        self.usage.add("bytes", len(content))
        with self.usage.reserve("events", 1) as events:
            event_id, is_new = self._ingest_event(content, idempotency_key, access)
            events.used = int(is_new)
        return event_id, is_new

    def _ingest_event(self, content: bytes, idempotency_key: str | None, access: Access) -> tuple[UUID, bool]:
        owner = access.owner
        event, messages = validate_event(decode_fields(content), self._now())
        if event is not None:
            messages = access.refused_services([event.service]).get(event.service, {})
        if event is None or messages:
            self._record_rejected(access.sender, owner, [ItemError(0, messages)])
            raise invalid_fields(messages)
        batch, _ = normalize([0], [event], self._now())
        self._ids.derive(batch, idempotency_key, owner)
        try:
            stored = self.store(batch, sender=access.sender, owner=owner, strict=True, templates=self._templates)
        except BatchRejectedError as ex:
            self._record_rejected(access.sender, owner, ex.errors)
            raise invalid_fields(ex.errors[0].errors) from ex
        return make_event_id(batch.times_us[0] // 1000, batch.id_suffixes[0]), stored.inserted == 1

    def store(
        self,
        batch: NormalizedBatch,
        *,
        sender: str,
        owner: Owner = SYSTEM.owner,
        rejected: Sequence[ItemError] = (),
        batch_size: int | None = None,
        strict: bool = False,
        likely_new: bool = True,
        known: Known = "skip",
        templates: Templates | None = None,
    ) -> StoreResult:
        """Store events in one transaction: all that fit and that the server can store, or none.

        Args:
            batch: Normalized.
            sender: Who sends them, for the ledger.
            owner: Whose events they are.
            rejected: Items that were sent with them and are invalid; the ledger has them in the same transaction.
            batch_size: Rows in one COPY; all by default.
            strict: Store nothing if any event has to be rejected.
            likely_new: Whether, as far as is known, none of the events is stored already. A wrong guess costs time
                only.
            known: What is done with events that are stored already.
            templates: Applied to the endpoints.

        Raises:
            BatchRejectedError: ``strict``, and an event is rejected.
            UnavailableError: The database is unavailable; nothing is stored.
        """
        failure: Exception
        batch, oversized = self._drop_oversized(batch)
        for _ in range(ATTEMPTS_MAX):
            kept, expired = self._drop_expired(batch)
            dropped = oversized + expired
            if dropped and strict:
                raise BatchRejectedError(dropped)
            all_rejected = [*rejected, *dropped]
            if not kept.events:
                self._record_rejected(sender, owner, all_rejected)
                return StoreResult(0, errors=dropped)
            try:
                series = self._series.resolve(kept.series_keys, templates, owner)
                self._partitions.ensure(kept.days)
                size = batch_size or len(kept.events)
                stored = self._write(_Write(kept, series, all_rejected, owner, sender, size, strict, likely_new, known))
            except SeriesRemovedError as ex:
                self._series.forget(ex.generation)
                failure = ex
            except MissingPartitionError as ex:
                self._partitions.forget()
                failure = ex
            except TooOldError as ex:  # another process has moved the watermark
                self._watermark.learn(ex.since)
                failure = ex
            else:
                self._count(kept, stored, len(all_rejected))
                return msgspec.structs.replace(stored, errors=[*dropped, *stored.errors])
        raise failure

    def _record_rejected(
        self, sender: str, owner: Owner, rejected: Sequence[ItemError], received: int | None = None
    ) -> None:
        """Append a batch to the ledger of which nothing is stored.

        Args:
            sender: Whose batch.
            owner: Whose events it has.
            rejected: What is wrong.
            received: How many items were sent, where valid ones are rejected along with the invalid.
        """
        if not rejected and not received:
            return
        reasons = count_reasons(rejected)
        total = len(rejected) if received is None else received
        if total > len(rejected):
            reasons["strict: refused with the others"] = total - len(rejected)
        with self._db.connection() as connection:
            append_entry(connection, LedgerEntry(total, 0, 0, total, reasons), sender, owner)
        self._metrics.count((), 0, 0, total)

    def limits_of(self, query: IngestQuery) -> IngestLimits:
        """Return the limits of a request: its parameters, which may only lower the settings.

        Raises:
            InvalidError: A parameter exceeds its setting.
        """
        values: dict[str, int] = {}
        errors: dict[str, list[str]] = {}
        for name in IngestLimits.__struct_fields__:
            setting = getattr(self._limits, name)
            given = getattr(query, name)
            if given is not None and given > setting:
                errors[name] = [f"Expected at most {setting}, got {given}. A parameter may only lower the setting."]
            values[name] = setting if given is None else given
        if errors:
            raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)
        return IngestLimits(**values)

    def _drop_oversized(self, batch: NormalizedBatch) -> tuple[NormalizedBatch, list[ItemError]]:
        """Return a batch without the events whose tags are too long, and the errors of these."""
        if not may_be_oversized(batch.longest_tags_bytes, self._tags_max_bytes):
            return batch, []
        positions = oversized_tags_positions((event.tags for event in batch.events), self._tags_max_bytes)
        if not positions:
            return batch, []
        messages = {"tags": [oversized_tags(self._tags_max_bytes)]}
        return batch.without(positions), [ItemError(batch.indexes[at], messages) for at in positions]

    def _drop_expired(self, batch: NormalizedBatch) -> tuple[NormalizedBatch, list[ItemError]]:
        """Return a batch without the events that lie before the watermark, and the errors of these."""
        since = self._watermark.since
        expired = [] if since is None else batch.positions_before(since)
        if since is None or not expired:
            return batch, []
        return batch.without(expired), [ItemError(batch.indexes[at], too_old_errors(since)) for at in expired]

    def _write(self, write: _Write) -> StoreResult:
        """Write a batch and its entry in the ledger in one transaction.

        There are three ways, each tried only if a cheaper one failed: straight into the table; through staging, which
        skips events that are stored already; and by bisection, which skips events that the server cannot store.
        """
        batch, size = write.batch, write.batch_size
        rows = batch.rows(write.series)
        copy = partial(copy_new_rows, known=write.known) if batch.has_derived_ids else copy_rows
        try:
            if len(rows) == 1 and write.known == "skip":
                # Costs less than COPY, and without a transaction around it, a quarter of the round trips.
                if not batch.has_derived_ids:
                    with self._db.connection() as connection:
                        return write.insert_and_record(connection)
                with suppress(EventMovedError), self._db.transaction() as connection:
                    result = write.insert_and_record(connection)
                    if result.inserted:
                        ensure_none_moved(connection, batch.id_range)
                    return result
            elif batch.has_derived_ids and write.likely_new:
                with suppress(psycopg.errors.UniqueViolation, EventMovedError), self._db.transaction() as connection:
                    # Rows begin with their ids: sorted, so that two writers of the same rows cannot deadlock.
                    copied = copy_rows(connection, sorted(rows), size)
                    # The row of an event whose time was edited violates no constraint, but must not come back at its
                    # old time. Checked last: if an edit was under way, the rows above have waited for its end.
                    ensure_none_moved(connection, batch.id_range)
                    return write.record(connection, copied)
            with self._db.transaction() as connection:
                return write.record(connection, copy(connection, rows, size))
        except UNSTORABLE_ERRORS:
            with self._db.transaction() as connection:
                copied, messages = copy_storable_rows(connection, rows, size, copy)
                unstorable = [ItemError(batch.indexes[at], messages[at]) for at in messages]
                if write.strict and unstorable:
                    raise BatchRejectedError(unstorable) from None
                return write.record(connection, copied, unstorable, savepoints=True)

    def _count(self, batch: NormalizedBatch, stored: StoreResult, rejected: int) -> None:
        self._metrics.count(
            batch.times_us, stored.inserted, stored.duplicates + stored.replaced, rejected + len(stored.errors)
        )
        if stored.capped or stored.unknown_methods:
            with self._lock:
                self._capped += stored.capped
                self._unknown_methods += stored.unknown_methods

    def _reject_batch(
        self, errors: Sequence[ItemError], received: int, limits: IngestLimits, access: Access
    ) -> InvalidError:
        """Record a strict batch as rejected; return the error it is answered with."""
        self._record_rejected(access.sender, access.owner, errors, received)
        listed = sorted(errors, key=lambda error: error.index)[: limits.max_errors]
        # The members of an IngestResult besides those of an error: a client reads ``errors`` in one way.
        return InvalidError(
            f"{len(errors)} of {received} events are invalid; nothing was stored.",
            extra={"errors": listed, "inserted": 0, "duplicates": 0, "rejected": received},
        )


def _indexes(errors: Sequence[ItemError]) -> frozenset[int]:
    return frozenset(error.index for error in errors)


def _drop_refused(batch: NormalizedBatch, access: Access) -> tuple[NormalizedBatch, list[ItemError]]:
    """Return a batch without the events of services that their sender may not write, and the errors of these."""
    if access.services is None:
        return batch, []
    refused = access.refused_services({key.service for key in batch.series_keys})
    positions = [at for at, key in enumerate(batch.series_keys) if key.service in refused]
    errors = [ItemError(batch.indexes[at], refused[batch.series_keys[at].service]) for at in positions]
    return batch.without(positions), errors
