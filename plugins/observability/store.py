"""Read and change single events, and list many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection, sql

from kernel import ConflictError, Database, InvalidError, NotFoundError
from plugins.observability.filters import Conditions, add_search, event_conditions, search_terms
from plugins.observability.ids import time_range
from plugins.observability.ingest.copying import UNSTORABLE, unstorable
from plugins.observability.ingest.rows import unix_us
from plugins.observability.model import Event, FilterQuery
from plugins.observability.partitions import DAY_US, Partitions
from plugins.observability.queries import QUERIES
from plugins.observability.retention.watermark import IngestWatermark, TooOldError, ensure_not_too_old
from plugins.observability.series import LOCAL_ACCOUNT, Numbered, SeriesDictionary, SeriesKey, refuse_removed
from plugins.observability.templates import Templates

EDIT_TRIES = 5
Connected = Connection[tuple[Any, ...]]


class EventStore:
    """The events of one database.

    Args:
        db: The database.
        series: Numbers for texts.
        partitions: Makes room for new days.
        watermark: From when on events are kept.
        templates: Applied to endpoints; None leaves them as they were sent.
    """

    def __init__(
        self,
        db: Database,
        series: SeriesDictionary,
        partitions: Partitions,
        watermark: IngestWatermark,
        templates: Templates | None = None,
    ) -> None:
        self._db = db
        self._watermark = watermark
        self._series = series
        self._partitions = partitions
        self._templates = templates

    def find(self, event_id: UUID, account: int = LOCAL_ACCOUNT) -> Event:
        """Return one event.

        Raises:
            NotFoundError: There is none of that id.
        """
        with self._db.connection() as connection:
            try:
                return _find(connection, event_id, account)
            except NotFoundError:
                # It may have moved from where we looked second to where we looked first: look at one moment.
                with connection.transaction():
                    connection.execute(QUERIES["see_one_moment"])
                    return _find(connection, event_id, account)

    def replace(self, event_id: UUID, changes: dict[str, Any], account: int = LOCAL_ACCOUNT) -> Event:
        """Change fields of an event; it keeps its id, also when its time changes.

        Args:
            event_id: Which event.
            changes: Validated values by field.
            account: Whose event.

        Raises:
            NotFoundError: There is none of that id.
            InvalidError: The database cannot store its tags, or events of its new time are not kept.
            ConflictError: Others edit it faster than this call can.
        """
        for _ in range(EDIT_TRIES):
            before = self.find(event_id, account)
            since = self._watermark.since
            if since is not None and changes.get("time", since) < since and changes["time"] != before.time:
                raise TooOldError(since)
            wanted = msgspec.structs.replace(before, **changes)
            edit = partial(self._write_edit, before, wanted, account)
            with _storable():
                after = self._series.write([_key(wanted)], edit, self._templates, account)
            if after is not None:
                return after
        raise _edited_by_others(event_id)

    def _write_edit(self, before: Event, wanted: Event, account: int, numbered: Numbered) -> Event | None:
        """Write an edit and return the event; None if somebody else's came between reading and locking."""
        after = _stored_as(wanted, numbered)
        values = _values(after, numbered.numbers[_key(wanted)])
        write = partial(self._write_values, before, after, values, account, numbered.generation)
        return after if self._partitions.make_room([_day(after)], write) else None

    def _write_values(self, before: Event, after: Event, values: dict[str, Any], account: int, generation: int) -> bool:
        with self._db.transaction() as connection:
            try:
                if _find(connection, before.id, account, lock=True) != before:
                    return False
            except NotFoundError:
                return False  # moved or deleted meanwhile; the next look says which
            if after.time == before.time:
                connection.execute(QUERIES["update_event"], values)
            else:
                _move(connection, before, values)
            refuse_removed(_touch(connection, before, after), generation)
        return True

    def delete(self, event_id: UUID, account: int = LOCAL_ACCOUNT) -> None:
        """Delete an event for good.

        Raises:
            NotFoundError: There is none of that id.
            ConflictError: Others move it faster than this call can find it.
        """
        for _ in range(EDIT_TRIES):
            self.find(event_id, account)
            with self._db.transaction() as connection:
                try:
                    event = _find(connection, event_id, account, lock=True)
                except NotFoundError:
                    continue  # moved meanwhile; the next look says where to
                connection.execute(QUERIES["delete_event"], {"id": event.id, "time": event.time})
                connection.execute(QUERIES["delete_moved"], {"id": event.id})
                _touch(connection, event)
                return
        raise _edited_by_others(event_id)

    def conditions(self, query: FilterQuery, account: int = LOCAL_ACCOUNT) -> Conditions:
        """Resolve the filters of a list into conditions on the table of events."""
        if not _names_series(query):
            return event_conditions(query, None)
        with self._db.connection() as connection:
            return resolve(connection, query, account)

    def list(self, conditions: Conditions, order: sql.Composable, limit: int, offset: int = 0) -> list[Event]:
        """Return events that meet some conditions, in order."""
        with self._db.connection() as connection:
            rows = connection.execute(
                select_events(conditions, order), {**conditions.values, "limit": limit, "offset": offset}
            ).fetchall()
        return [to_event(row) for row in rows]

    def trace(self, trace_id: str, limit: int, account: int = LOCAL_ACCOUNT) -> Sequence[Event]:
        """Return the events of a trace, in order of time."""
        values = {"trace_id": trace_id, "account": account, "limit": limit}
        with self._db.connection() as connection:
            return [to_event(row) for row in connection.execute(QUERIES["list_trace"], values)]

    def count(self, conditions: Conditions) -> int:
        """Count the events that meet some conditions."""
        return int(self._one("count_events", conditions)[0])

    def estimate(self, conditions: Conditions) -> int:
        """Return the planner's estimate of that count; costs no reading."""
        return int(self._one("estimate_events", conditions)[0][0]["Plan"]["Plan Rows"])

    def is_empty(self) -> bool:
        """Tell whether there is no event at all."""
        return not self._one("any_event", Conditions([], {}))[0]

    def _one(self, name: str, conditions: Conditions) -> tuple[Any, ...]:
        query = sql.SQL(QUERIES[name]).format(where=conditions.where)
        with self._db.connection() as connection:
            row = connection.execute(query, conditions.values).fetchone()
        if row is None:
            raise LookupError(name)
        return row


def _key(event: Event) -> SeriesKey:
    return (event.service, event.endpoint, event.method)


def _stored_as(event: Event, numbered: Numbered) -> Event:
    """Return an event as it can be stored."""
    key = _key(event)
    if key not in numbered.changed:
        return event
    service, endpoint, method = numbered.changed[key]
    tags = msgspec.Raw(numbered.tags(key, bytes(event.tags)))
    return msgspec.structs.replace(event, service=service, endpoint=endpoint, method=method, tags=tags)


def _day(event: Event) -> int:
    return unix_us(event.time) // DAY_US


@contextmanager
def _storable() -> Iterator[None]:
    try:
        yield
    except UNSTORABLE as ex:
        raise InvalidError("Some fields are wrong: tags.", errors=unstorable(ex)) from ex


def _find(connection: Connected, event_id: UUID, account: int, *, lock: bool = False) -> Event:
    try:
        start, end = time_range(event_id)
    except ValueError as ex:
        raise _no_event(event_id) from ex
    query = QUERIES["lock_event" if lock else "find_event"]
    values = {"id": event_id, "account": account}
    row = connection.execute(query, {**values, "from_time": start, "to_time": end}).fetchone()
    if row is None:
        moved = connection.execute(QUERIES["find_moved"], {"id": event_id}).fetchone()
        if moved is not None:
            at: datetime = moved[0]
            span = {"from_time": at, "to_time": at + datetime.resolution}
            row = connection.execute(query, {**values, **span}).fetchone()
    if row is None:
        raise _no_event(event_id)
    return to_event(row)


def _move(connection: Connected, before: Event, values: dict[str, Any]) -> None:
    """Put an event at another time. Not an UPDATE: a hypertable does not move rows between its chunks."""
    connection.execute(QUERIES["delete_event"], {"id": before.id, "time": before.time})
    connection.execute(QUERIES["insert_event"], values)
    # Also within the millisecond of its id: a replay must not bring the event back at its old time.
    connection.execute(QUERIES["set_moved"], {"id": before.id, "time": values["time"]})


def _values(event: Event, series: int) -> dict[str, Any]:
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    return {**values, "series": series, "tags": bytes(event.tags).decode()}


def _numbers(connection: Connected, name: str, **values: Any) -> list[int]:
    return [row[0] for row in connection.execute(QUERIES[name], values)]


def select_events(conditions: Conditions, order: sql.Composable) -> sql.Composed:
    """Compose the query for events; ``limit`` and ``offset`` are further parameters."""
    return sql.SQL(QUERIES["list_events"]).format(where=conditions.where, order=order)


def resolve(connection: Connected, query: FilterQuery, account: int) -> Conditions:
    """Resolve filters into conditions on the table of events, as the series are to a connection.

    Raises:
        InvalidError: The search has too many terms.
    """
    series: list[int] | None = None
    identity = {"service": query.service, "endpoint": query.endpoint, "method": query.method}
    if any(value is not None for value in identity.values()):
        series = _numbers(connection, "match_series", account=account, **identity)
    conditions = event_conditions(query, series)
    for position, pattern in enumerate(search_terms(query.search)):
        numbers = _numbers(connection, "search_series", account=account, pattern=pattern)
        add_search(conditions, position, pattern, numbers)
    return conditions


def _names_series(query: FilterQuery) -> bool:
    names = (query.service, query.endpoint, query.method)
    return bool(search_terms(query.search)) or any(name is not None for name in names)


def to_event(row: Sequence[Any]) -> Event:
    """Make an event of a row, as the queries have its columns."""
    event_id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref, tags = row
    return Event(
        event_id,
        time,
        service,
        endpoint,
        method,
        status_code,
        latency_ms,
        trace_id,
        user_ref,
        msgspec.Raw(tags.encode()),
    )


def _edited_by_others(event_id: UUID) -> ConflictError:
    return ConflictError(detail=f"{event_id} is being edited by others")


def _no_event(event_id: UUID) -> NotFoundError:
    return NotFoundError(detail=f"no request log has the id {event_id}")


def _touch(connection: Connected, *events: Event) -> tuple[Any, ...] | None:
    """Say that the rollups of these events' hours must be computed anew; return what there is to look at."""
    row = connection.execute(QUERIES["touch_hours"], {"times": [event.time for event in events]}).fetchone()
    ensure_not_too_old(row)
    return row
