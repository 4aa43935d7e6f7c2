"""The ingest ledger: how many items each sender sent, and how many were stored, duplicate or rejected, by minute.

It also counts the events that were deleted on request, under the sender ``removal``; what retention removes is in the
reports of its job. Entries are only ever appended, in the transaction that stores or deletes the events: writers never
wait for each other, and the sums agree with the events. They are summed up when they are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from psycopg import Connection

from kernel import Database, Identity, route
from plugins.observability.access import LOCAL_SENDER, SYSTEM, Access, Owner
from plugins.observability.event_ids import EPOCH
from plugins.observability.models import ItemError
from plugins.observability.queries import QUERIES
from plugins.observability.retention.watermark import ensure_not_too_old
from plugins.observability.series import ensure_generation
from plugins.observability.time_window import TimeWindowQuery

# Under whom deleted events are counted, whoever sent them.
REMOVAL = "removal"
REASON_MAX = 200
REASONS_MAX = 10
OTHER_REASONS = "other"
TimeSpan = tuple[datetime | None, datetime | None]
NO_TIMES: TimeSpan = (None, None)
_DEFAULT_SPAN = timedelta(days=1)
_SENDERS_SHOWN_MAX = 10
_REASONS_SHOWN_MAX = 5
# As the alert TiercelIngestRejected has it.
_REFUSED_MAX = 0.05


class LedgerEntry(msgspec.Struct, frozen=True):
    """The outcome of one batch.

    Args:
        received: Items that were sent; the sum of the next three.
        stored: Items that this batch stored.
        duplicate: Items that were stored before.
        rejected: Items that are not stored.
        reasons: How many were rejected, by reason.
        capped: Items, stored or duplicate, that went to ``__other__``; see ``series``.
        deleted: Stored events that were deleted.
    """

    received: int
    stored: int
    duplicate: int
    rejected: int
    reasons: dict[str, int]
    capped: int = 0
    deleted: int = 0


class LedgerMinute(msgspec.Struct, frozen=True):
    """The entries of one account, sender and minute, summed up. JSON calls the sender ``key``."""

    minute: datetime
    account: int
    sender: str = msgspec.field(name="key")
    received: int
    stored: int
    duplicate: int
    rejected: int
    capped: int
    deleted: int
    reasons: dict[str, int]


class LedgerTotals(msgspec.Struct, frozen=True):
    """The sum over a span of time."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    capped: int = 0
    deleted: int = 0


class LedgerPage(msgspec.Struct, frozen=True):
    """What the ledger has about a span of time.

    Args:
        totals: Over the whole span.
        minutes: The latest first; as many as were asked for.
    """

    totals: LedgerTotals
    minutes: Sequence[LedgerMinute]


class LedgerQuery(TimeWindowQuery, frozen=True):
    """Query parameters of the ledger: a span of time, by default the last day up to its end, or up to now.

    Args:
        key: One sender only.
        limit: The most minutes to list.
        refused: List only what has entries with rejected items, and only those; the totals are those of everything.
    """

    sender: Annotated[str, msgspec.Meta(pattern="^[ -~]*$")] | None = msgspec.field(default=None, name="key")
    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    refused: bool = False


class SenderTotals(LedgerTotals, frozen=True, kw_only=True):
    """The sum of one sender over a span of time.

    Args:
        sender: Who.
        first: The time of the first entry.
        last: The time of the last one.
    """

    sender: str
    first: datetime
    last: datetime


def count_reasons(errors: Iterable[ItemError]) -> dict[str, int]:
    """Count why items were rejected, by field and message; rare reasons are counted together."""
    reasons = Counter(
        f"{field}: {message}"[:REASON_MAX]
        for error in errors
        for field, messages in error.errors.items()
        for message in messages
    )
    counted = dict(reasons.most_common(REASONS_MAX))
    rest = reasons.total() - sum(counted.values())
    return {**counted, OTHER_REASONS: rest} if rest else counted


def append_entry(
    connection: Connection[tuple[Any, ...]],
    entry: LedgerEntry,
    sender: str = LOCAL_SENDER,
    owner: Owner = SYSTEM.owner,
    hours: Sequence[datetime] = (),
    generation: int | None = None,
    times: TimeSpan = NO_TIMES,
) -> None:
    """Append an entry, in the caller's transaction.

    Args:
        connection: Inside that transaction.
        entry: The outcome of a batch.
        sender: Whose batch.
        owner: Whose events they are.
        hours: The hours of its events; their rollups have to be computed again.
        generation: The generation in which its series were resolved; None if no events are stored.
        times: The first and the last time of its events, if this very transaction stores them: in a savepoint, it is
            another one. Who follows what arrives finds the events there.

    Raises:
        TooOldError: Retention has removed the events of some of these hours.
        SeriesRemovedError: Series were removed since that generation.
    """
    values = {**_parameters(entry, sender, owner, hours), "from_time": times[0], "to_time": times[1]}
    row = connection.execute(QUERIES["append_ledger"], values).fetchone()
    ensure_not_too_old(row)
    if generation is not None:
        ensure_generation(row, generation)


def insert_event_with_entry(
    connection: Connection[tuple[Any, ...]],
    event: Mapping[str, object],
    entry: LedgerEntry,
    sender: str,
    owner: Owner,
    hours: Sequence[datetime],
    generation: int,
) -> bool:
    """Insert an event and append its entry, all or nothing; return whether it was not stored before.

    Args:
        connection: Inside a transaction or not: it is one statement.
        event: Its columns.
        entry: The outcome of its batch, but for whether it is stored now.
        sender: As of ``append_entry``, and so the others.
        owner: Whose.
        hours: Its hour.
        generation: Of its series.

    Raises:
        TooOldError: Retention has removed the events of its hour.
        SeriesRemovedError: Series were removed since that generation.
    """
    values = {**_parameters(entry, sender, owner, hours), **event, "generation": generation}
    row = connection.execute(QUERIES["insert_event_with_entry"], values).fetchone()
    ensure_not_too_old(row)
    ensure_generation(row, generation)
    return row is not None and row[2] == 1


def _parameters(entry: LedgerEntry, sender: str, owner: Owner, hours: Sequence[datetime]) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    values |= {"reasons": msgspec.json.encode(entry.reasons).decode(), "sender": sender}
    return {**values, **owner._asdict(), "hours": list(hours)}


def append_removal(
    connection: Connection[tuple[Any, ...]], events: int, hours: Sequence[datetime], owner: Owner
) -> None:
    """Append that events were deleted, in the transaction that does.

    Args:
        connection: Inside that transaction.
        events: How many.
        hours: The hours they were in; their rollups have to be computed again.
        owner: Whose they were.

    Raises:
        TooOldError: Retention has removed the events of some of these hours.
    """
    append_entry(connection, LedgerEntry(0, 0, 0, 0, {}, deleted=events), REMOVAL, owner, hours)


class Ledger:
    """Reads the ledger, so that senders can compare it with what they sent.

    Args:
        db: The database.
        now: The clock.
    """

    def __init__(self, db: Database, now: Callable[[], datetime]) -> None:
        self._db = db
        self._now = now

    @route("/api/v1/ingest/ledger/", policy="read", menu="ingest ledger")
    def show(self, query: LedgerQuery, identity: Identity) -> LedgerPage:
        """Count what was received, stored, duplicate, rejected and deleted, by sender and minute."""
        return self.read(query, Access.of(identity))

    def read(self, query: LedgerQuery, access: Access = SYSTEM) -> LedgerPage:
        """Sum up the entries of a span of time, by minute and over all of it."""
        values = {**self._selection(query, access), "limit": query.limit, "refused": query.refused}
        with self._db.transaction(repeatable_read=True) as connection:
            totals = connection.execute(QUERIES["sum_ledger"], values).fetchone()
            rows = connection.execute(QUERIES["list_ledger"], values).fetchall()
        minutes = [_minute(*row) for row in rows]
        return LedgerPage(LedgerTotals(*totals) if totals is not None else LedgerTotals(), minutes)

    def senders(self, query: LedgerQuery, access: Access = SYSTEM) -> Sequence[SenderTotals]:
        """Sum up the entries of a span of time by sender: those first that sent most, as many as ``limit`` says."""
        values = {**self._selection(query, access), "limit": query.limit}
        with self._db.connection() as connection:
            rows = connection.execute(QUERIES["sum_ledger_by_sender"], values).fetchall()
        names = LedgerTotals.__struct_fields__
        return [
            SenderTotals(sender=sender, first=first, last=last, **dict(zip(names, sums, strict=True)))
            for sender, first, last, *sums in rows
        ]

    def steps(
        self, query: LedgerQuery, step: timedelta, access: Access = SYSTEM
    ) -> Sequence[tuple[datetime, LedgerTotals]]:
        """Sum up what was stored, duplicate and rejected by steps of time, from the start of the span to its end."""
        values = self._selection(query, access)
        count = -(-(values["end"] - values["start"]) // step)
        with self._db.connection() as connection:
            rows = connection.execute(
                QUERIES["sum_ledger_by_step"], {**values, "step": step, "origin": values["start"]}
            ).fetchall()
        sums = {
            start: LedgerTotals(stored=stored, duplicate=duplicate, rejected=rejected)
            for start, stored, duplicate, rejected in rows
        }
        starts = (values["start"] + number * step for number in range(count))
        return [(start, sums.get(start, LedgerTotals())) for start in starts]

    def span(self, query: LedgerQuery) -> tuple[datetime, datetime]:
        """Return the first and the last time that a query is about."""
        # Entries have the time of the database's clock, which may be ahead of this machine's.
        end = query.end or self._now() + timedelta(minutes=1)
        return query.start or max(end, EPOCH + _DEFAULT_SPAN) - _DEFAULT_SPAN, end

    def _selection(self, query: LedgerQuery, access: Access) -> dict[str, Any]:
        start, end = self.span(query)
        return {"start": start, "end": end, "sender": query.sender, **access.parameters}

    def describe_refused(self) -> str | None:
        """Describe why events of the last day were rejected if those are more than one in twenty, or return None."""
        with self._db.connection() as connection:
            received, rejected = connection.execute(QUERIES["sum_refused"]).fetchone() or (None, None)
            if not received or rejected <= _REFUSED_MAX * received:
                return None
            rows = connection.execute(QUERIES["list_refusals"], {"limit": _REASONS_SHOWN_MAX}).fetchall()
        reasons = "; ".join(f"{reason} ({items:,})" for reason, items in rows)
        return f"{rejected:,} of {received:,} events of the last day were rejected: {reasons}"

    def describe_capped(self) -> str | None:
        """Describe who sent events of more series than ``series_max`` on the last day, or return None."""
        with self._db.connection() as connection:
            rows = connection.execute(QUERIES["list_capped_senders"], {"limit": _SENDERS_SHOWN_MAX}).fetchall()
        if not rows:
            return None
        senders = "".join(f"\n  account {account}, {sender}: {capped:,}" for account, sender, capped in rows)
        return f"events of the last day beyond series_max, stored under __other__, by who sent most of them:{senders}"


def _minute(*columns: Any) -> LedgerMinute:
    minute, account, sender, received, stored, duplicate, rejected, capped, deleted, reasons = columns
    counted = msgspec.json.decode(reasons)
    return LedgerMinute(minute, account, sender, received, stored, duplicate, rejected, capped, deleted, counted)
