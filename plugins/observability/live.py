"""``/api/requests/live/``: request logs as they arrive, whichever process stores them, as server-sent events.

What has arrived is what is committed. Each entry of the ingest ledger has the transaction that stored its events, and a
snapshot of the database tells which transactions it does not see: those that had not begun, and those that were
running. So a stream that remembers a snapshot finds every event that is committed after it, once, however long its
transaction took; neither the times of events nor those of entries could tell. The snapshot is the id of what was sent.

Streams poll: a notification for each batch would have all writers wait for each other. Nothing is kept for a stream
while its client does not read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from kernel import Database, Identity, InvalidError, Request, Response, Services, StreamingResponse
from kernel.http import Example, LastEventId, ServerEvent
from kernel.identity import acting_as
from plugins.observability.access import Access
from plugins.observability.filters import Conditions, validate_filters
from plugins.observability.models import Event, SelectionQuery
from plugins.observability.queries import QUERIES
from plugins.observability.requests_route import requests_route
from plugins.observability.store import EventStore
from plugins.observability.timescale import end_of_columns

POLL_INTERVAL_S = 0.5
# On average; of more, this many are sent, evenly spread.
EVENTS_PER_S_MAX = 1000
# After a pause, or for a client that reads slowly.
EVENTS_AT_ONCE_MAX = 10_000
# A client that comes back later than this goes on with what arrives now.
RESUME_MAX_S = 900.0
_POSITION_INTERVAL_S = 10.0
# Batches that are stored in one transaction of this time at most are found.
_TRANSACTION_MAX = timedelta(hours=1)
_BATCHES_MAX = 10_000
# An import has batches of long spans of time, among other events.
_SCAN_MAX = 200_000
# Read at a time, with their tags.
_CHUNK = 100
# "1764372031.5_7345_7342,7343": when, the next transaction, and those that were running.
_CURSOR = re.compile(r"(\d{1,12}\.\d{1,6})_(\d{1,19})_((?:\d{1,19},){0,2000}\d{1,19})?")
_INT64_MAX = 2**63 - 1


class LiveQuery(SelectionQuery, frozen=True, kw_only=True):
    """Query parameters of the live tail: the filters of the list.

    Args:
        after: Id of the last event that the client has, as in ``Last-Event-ID``, for those that cannot send headers.
    """

    after: str | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """What a stream does not show, though it arrived.

    Args:
        count: How many requests; None if that is not known.
        reason: ``rate``: more arrived than are sent, and those that were are evenly spread. ``volume``: too much was
            stored at once to look at each; the count is that of all, whatever the filters are. ``gap``: the client was
            away for too long, or comes from another database.
    """

    count: int | None
    reason: Literal["rate", "volume", "gap"]


class Cursor(NamedTuple):
    """A snapshot of the database.

    Args:
        time_s: When it was taken, as Unix time.
        next_xid: The first transaction that had not begun.
        running_xids: Those that were not committed.
    """

    time_s: float
    next_xid: int
    running_xids: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse an id.

        Raises:
            InvalidError: It is none.
        """
        found = _CURSOR.fullmatch(text)
        if found is not None:
            running = tuple(int(each) for each in (found[3] or "").split(",") if each)
            if max(int(found[2]), *running, 0) <= _INT64_MAX:
                return cls(float(found[1]), int(found[2]), running)
        raise InvalidError(errors={"Last-Event-ID": [f"Expected an id of this stream, got {text!r:.80}."]})

    @property
    def text(self) -> str:
        """The id."""
        return f"{self.time_s:.3f}_{self.next_xid}_{','.join(map(str, self.running_xids))}"


class _Batch(NamedTuple):
    """What was stored together; without times, it is not known where."""

    xid: str
    from_time: datetime | None
    to_time: datetime | None
    stored: int


class Arrivals(NamedTuple):
    """What arrived between two snapshots.

    Args:
        cursor: The later one.
        keys: Id and time of the events to send, in order of time.
        left_out: What is not among them.
    """

    cursor: Cursor
    keys: Sequence[tuple[Any, datetime]] = ()
    left_out: Sequence[LeftOut] = ()

    def seen_by(self, access: Access) -> Arrivals:
        """Return this without how many requests there are of services that somebody may not see."""
        if access.services is None:
            return self
        left_out = [each if each.reason == "rate" else LeftOut(None, each.reason) for each in self.left_out]
        return self._replace(left_out=left_out)


class ArrivalReader:
    """Finds what arrived after a snapshot.

    Args:
        db: The database.
        store: Reads the events.
    """

    def __init__(self, db: Database, store: EventStore) -> None:
        self._db = db
        self._store = store

    def now(self) -> Cursor:
        """Return the snapshot of now."""
        with self._db.connection() as connection:
            return _read_cursor(connection)

    def validate(self, query: SelectionQuery, access: Access) -> None:
        """Check filters before they are used again and again.

        Raises:
            InvalidError: The search has too many terms.
            NotFoundError: There is no such application.
            ForbiddenError: Its views may not be read.
        """
        self._store.conditions(query, access)

    def since(self, cursor: Cursor, query: SelectionQuery, access: Access) -> Arrivals:
        """Find what is committed since a snapshot.

        Args:
            cursor: The snapshot.
            query: Selects events.
            access: Of whoever follows.

        Raises:
            UnavailableError: The database is unavailable.
        """
        with self._db.transaction(repeatable_read=True) as connection:
            now = _read_cursor(connection)
            if now.time_s - cursor.time_s > RESUME_MAX_S or cursor.next_xid > now.next_xid:
                return Arrivals(now, left_out=[LeftOut(None, "gap")])
            values = {
                **access.parameters,
                "next_xid": str(cursor.next_xid),
                "running_xids": list(map(str, cursor.running_xids)),
                "since": datetime.fromtimestamp(cursor.time_s, UTC) - _TRANSACTION_MAX,
                "limit": _BATCHES_MAX + 1,
            }
            batches = [_Batch(*row) for row in connection.execute(QUERIES["list_arrived_batches"], values)]
            if not batches:
                return Arrivals(now)
            if len(batches) > _BATCHES_MAX:
                return Arrivals(now, left_out=[LeftOut(None, "volume")])
            conditions = self._store.conditions_seen_by(connection, query, access)
            limit = min(EVENTS_AT_ONCE_MAX, int(EVENTS_PER_S_MAX * max(1.0, now.time_s - cursor.time_s)))
            rows_from = end_of_columns(self._db, connection)
            # A chunk may have become columnar since, whatever this transaction sees.
            with suppress(psycopg.errors.FeatureNotSupported, psycopg.errors.InvalidColumnReference):
                return _find(connection, batches, conditions, limit, now, rows_from).seen_by(access)
        stored = sum(batch.stored for batch in batches)
        return Arrivals(now, left_out=[LeftOut(stored, "volume")]).seen_by(access)

    def events(self, keys: Sequence[tuple[Any, datetime]], access: Access) -> Sequence[Event]:
        """Return events by their keys, in order of time; those that were deleted meanwhile are missing."""
        return self._store.read(keys, access)


def _read_cursor(connection: psycopg.Connection[tuple[Any, ...]]) -> Cursor:
    ((snapshot, time_s),) = connection.execute(QUERIES["arrivals_now"])
    _, next_xid, running = snapshot.split(":")
    return Cursor(time_s, int(next_xid), tuple(int(each) for each in running.split(",") if each))


def _find(
    connection: psycopg.Connection[tuple[Any, ...]],
    batches: Sequence[_Batch],
    conditions: Conditions,
    limit: int,
    now: Cursor,
    rows_from: datetime | None,
) -> Arrivals:
    """Find the events of some batches.

    Batches of before ``rows_from`` are counted only: columnar chunks of TimescaleDB do not tell in which transaction
    their rows were stored. Where there is one all the same, raises ``InvalidColumnReference``, or
    ``FeatureNotSupported``, whichever its version has for that.
    """
    timed = [(batch, batch.from_time, batch.to_time) for batch in batches if batch.from_time and batch.to_time]
    found = [each for each in timed if rows_from is None or each[1] >= rows_from]
    spans = _merge((first, last) for _, first, last in found)
    values = {
        **conditions.values,
        "from_times": [first for first, _ in spans],
        "to_times": [last for _, last in spans],
        # As rows have them: 32 bits.
        "xids": [str(int(batch.xid) % 2**32) for batch, _, _ in found],
        "limit": limit,
        "scan_max": _SCAN_MAX,
    }
    start = sql.SQL("'-infinity'") if rows_from is None else sql.Literal(rows_from)
    statement = sql.SQL(QUERIES["list_arrived_events"]).format(where=conditions.where, rows_from=start)
    rows = connection.execute(statement, values).fetchall()
    total, scanned = rows[0][2] or 0, rows[0][3]
    keys = [(event_id, time) for event_id, time, *_ in rows if event_id is not None]
    left_out = [LeftOut(total - len(keys), "rate")] if total > len(keys) else []
    unseen = sum(batch.stored for batch in batches) - sum(batch.stored for batch, _, _ in found)
    if scanned >= _SCAN_MAX:
        unseen = sum(batch.stored for batch in batches) - total
    if unseen:
        left_out.append(LeftOut(unseen, "volume"))
    return Arrivals(now, keys, left_out)


def _merge(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return spans of time without those that overlap others: no event is looked at twice. The latest first."""
    merged: list[tuple[datetime, datetime]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged[::-1]


class _Tail:
    """The events of one stream."""

    is_finished = False

    def __init__(self, arrivals: ArrivalReader, query: LiveQuery, identity: Identity, cursor: Cursor) -> None:
        self._arrivals = arrivals
        self._query = query
        self._identity = identity
        self._access = Access.of(identity)
        self._cursor = cursor
        self._position_due_s = 0.0

    def poll(self) -> Iterator[ServerEvent]:
        with acting_as(self._identity):
            arrived = self._arrivals.since(self._cursor, self._query, self._access)
        for each in arrived.left_out:
            yield ServerEvent("left-out", each)
        for at in range(0, len(arrived.keys), _CHUNK):
            with acting_as(self._identity):
                events = self._arrivals.events(arrived.keys[at : at + _CHUNK], self._access)
            for event in events:
                yield ServerEvent("request", event)
        self._cursor = arrived.cursor
        # After all of them: a client that is interrupted before it gets them again, and knows them by their own ids.
        # And now and then, as an old position cannot be resumed from.
        if arrived.keys or arrived.left_out or time.monotonic() >= self._position_due_s:
            yield self.position()

    def position(self) -> ServerEvent:
        """Return the event that tells the client where it is."""
        self._position_due_s = time.monotonic() + _POSITION_INTERVAL_S
        when = datetime.fromtimestamp(round(self._cursor.time_s, 3), UTC)
        return ServerEvent("position", {"time": when}, self._cursor.text)


class LiveRoutes:
    """The handler of the live tail.

    Args:
        arrivals: Finds what arrives.
        services: The event streams of this process.
    """

    def __init__(self, arrivals: ArrivalReader, services: Services) -> None:
        self._arrivals = arrivals
        self._streams = services.event_streams

    @requests_route(
        "live/",
        policy="read",
        responses={200: {"text/event-stream": str}},
        request_headers={"Last-Event-ID": LastEventId},
        examples=(Example(summary="Errors of a service", query={"service": "shop", "status_code__in": "500,503"}),),
    )
    def stream(self, request: Request, query: LiveQuery, identity: Identity) -> Response[StreamingResponse]:
        """Stream request logs as they arrive: ``request`` events, ``left-out`` for those not sent, and ``position``."""
        validate_filters(query)
        self._arrivals.validate(query, Access.of(identity))
        text = request.get_header("Last-Event-ID") or query.after
        cursor = self._arrivals.now() if text is None else Cursor.parse(text)
        tail = _Tail(self._arrivals, query, identity, cursor)
        return self._streams.respond(request, tail, POLL_INTERVAL_S, [tail.position()])
