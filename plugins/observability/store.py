"""The table of events: find, edit and delete single ones, list and count many."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg import Connection, sql

from kernel import ConflictError, Database, InvalidError, NotFoundError
from plugins.observability.access import SYSTEM, Access, OwnedServices, Owner
from plugins.observability.event_ids import time_range, unix_us
from plugins.observability.filters import (
    Conditions,
    add_search,
    event_conditions,
    inline_values,
    order_by,
    search_pattern,
    split_search,
)
from plugins.observability.ingest.copy import UNSTORABLE_ERRORS, unstorable_errors
from plugins.observability.ingest.tags import oversized_tags, oversized_tags_positions
from plugins.observability.ingest.validate import invalid_fields
from plugins.observability.ledger import append_removal
from plugins.observability.models import OMITTED_FROM_PAGE, OMITTED_TAGS, Event, SelectionQuery
from plugins.observability.partitions import DAY_US, MissingPartitionError, Partitions
from plugins.observability.path_templates import Templates
from plugins.observability.queries import QUERIES
from plugins.observability.resolution import HOUR, floor
from plugins.observability.retention.watermark import IngestWatermark, TooOldError, ensure_not_too_old
from plugins.observability.series import (
    ResolvedSeries,
    SeriesDictionary,
    SeriesKey,
    SeriesRemovedError,
    ensure_generation,
)

# Of more series than this, the planner is told whose they are, not which: it compares each with its statistics.
_LISTED_SERIES_MAX = 1000
# Nor of an account that has at least this share of all events: which series they are would change no plan, and to tell
# takes longer than to run it.
_LARGE_SHARE = 0.01
_SHARE_KEPT_S = 60.0
_SHARES_MAX = 10_000
_STATEMENTS_MAX = 256
# An edit starts over when another edit of the event, or a removal of series or partitions, comes first.
EDIT_ATTEMPTS_MAX = 10
DELETE_ATTEMPTS_MAX = 5
# The tags of a page or of a trace together. Everything else in an event is bounded by the lengths of its fields.
PAGE_MAX_BYTES = 16 * 1024 * 1024
# What an event that is capped may have in its tags beyond those that were sent: the texts of its series.
_PRESERVED_MAX_BYTES = 4096
Connected = Connection[tuple[Any, ...]]
# Which part of all events somebody sees: all of them, many, or few.
Share = Literal["all", "large", "small"]


SUGGESTIONS_MAX = 200


class EventStore:
    """The events of one database.

    Args:
        db: The database.
        series: The dictionary of series.
        partitions: Creates partitions for new days.
        watermark: Of retention: no event can be moved to an earlier time.
        owned_services: Tells which services applications own.
        tags_max_bytes: Longer tags are not stored, and those that are stored already are not returned.
        templates: Applied to endpoints; None leaves them as they were sent.
    """

    def __init__(
        self,
        db: Database,
        series: SeriesDictionary,
        partitions: Partitions,
        watermark: IngestWatermark,
        owned_services: OwnedServices,
        tags_max_bytes: int,
        templates: Templates | None = None,
    ) -> None:
        self._db = db
        self._series = series
        self._partitions = partitions
        self._watermark = watermark
        self._owned_services = owned_services
        self._tags_max_bytes = tags_max_bytes
        self._served_max_bytes = served_max_bytes(tags_max_bytes)
        self._templates = templates
        # What was found lately, and until when it counts: it decides how pages are read, not what is on them.
        self._shares: dict[tuple[Any, ...], tuple[Share, float]] = {}

    def find(self, event_id: UUID, access: Access = SYSTEM) -> Event:
        """Return one event.

        Raises:
            NotFoundError: No event has that id.
        """
        return self._find_with_owner(event_id, access)[0]

    def _find_with_owner(self, event_id: UUID, access: Access) -> tuple[Event, Owner]:
        try:
            with self._db.connection() as connection:
                return self._find(connection, event_id, access)
        except NotFoundError:
            # It may have been moved from the place searched second to the one searched first: search one snapshot.
            with self._db.transaction(repeatable_read=True) as connection:
                return self._find(connection, event_id, access)

    def edit(self, event_id: UUID, changes: dict[str, Any], access: Access = SYSTEM) -> Event:
        """Change fields of an event. It keeps its id, even if its time changes.

        Args:
            event_id: Which event.
            changes: Validated values by field.
            access: Of whoever edits it.

        Raises:
            NotFoundError: No event has that id.
            InvalidError: Its tags cannot be stored, or are too long (those that are kept, too), events of its new time
                are not kept, or its new service may not be written.
            ConflictError: The event was edited by others in every attempt.
        """
        failure: Exception
        if "tags" in changes and oversized_tags_positions([changes["tags"]], self._tags_max_bytes):
            raise self._oversized()
        for _ in range(EDIT_ATTEMPTS_MAX):
            before, owner = self._find_with_owner(event_id, access)
            if before.tags is OMITTED_TAGS and "tags" not in changes:
                raise self._oversized()
            since = self._watermark.since
            if since is not None and changes.get("time", since) < since and changes["time"] != before.time:
                raise TooOldError(since)
            wanted = msgspec.structs.replace(before, **changes)
            refused = access.refused_services([wanted.service])
            if refused:
                raise invalid_fields(refused[wanted.service])
            try:
                series = self._series.resolve([_series_key(wanted)], self._templates, owner)
                self._partitions.ensure([unix_us(wanted.time) // DAY_US])
                return self._write_edit(before, wanted, series, access, owner)
            except SeriesRemovedError as ex:
                self._series.forget(ex.generation)
                failure = ex
            except MissingPartitionError as ex:
                self._partitions.forget()
                failure = ex
            except ConflictError as ex:
                failure = ex
            except UNSTORABLE_ERRORS as ex:
                raise invalid_fields(unstorable_errors(ex)) from ex
        raise failure

    def _write_edit(self, before: Event, wanted: Event, series: ResolvedSeries, access: Access, owner: Owner) -> Event:
        """Write an edit; return the event as stored.

        Raises:
            ConflictError: The event is not the one that was read any more.
        """
        key = _series_key(wanted)
        after = _with_series(wanted, series)
        columns = {name: getattr(after, name) for name in after.__struct_fields__}
        values = {**columns, "series": series.ids[key], "tags": bytes(after.tags).decode()}
        with self._db.transaction() as connection:
            try:
                current, current_owner = self._find(connection, before.id, access, lock=True)
            except NotFoundError as ex:
                raise _edited_by_others(before.id) from ex  # moved or deleted: the next attempt tells which
            if current != before or current_owner != owner:
                raise _edited_by_others(before.id)
            if after.time == before.time:
                connection.execute(QUERIES["update_event"], values)
            else:
                _move(connection, before, values)
            touched = touch_hours(connection, [before.time, after.time], owner.account)
            ensure_generation(touched, series.generation)
        return after

    def delete(self, event_id: UUID, access: Access = SYSTEM) -> None:
        """Delete an event.

        Raises:
            NotFoundError: No event has that id.
            ConflictError: The event was moved by others in every attempt.
        """
        for _ in range(DELETE_ATTEMPTS_MAX):
            self.find(event_id, access)
            with self._db.transaction() as connection:
                try:
                    event, owner = self._find(connection, event_id, access, lock=True)
                except NotFoundError:
                    continue  # moved: the next attempt finds where it is
                connection.execute(QUERIES["delete_event"], {"id": event.id, "time": event.time})
                connection.execute(QUERIES["delete_moved"], {"id": event.id})
                append_removal(connection, 1, [floor(event.time, HOUR)], owner)
                return
        raise _edited_by_others(event_id)

    def conditions(self, query: SelectionQuery, access: Access = SYSTEM, *, for_estimate: bool = False) -> Conditions:
        """Resolve filters into conditions on the table of events.

        Args:
            query: The filters.
            access: Of whoever asks.
            for_estimate: Whether the planner has to know the series: it estimates as well as it does.

        Raises:
            InvalidError: The search has too many terms.
            NotFoundError: There is no such application.
        """
        terms = split_search(query.search)
        if for_estimate or _has_texts(query):
            with self._db.connection() as connection:
                return resolve_filters(connection, query, access, self._owned_services)
        share = self._share(access)
        if share != "small" and not terms:
            conditions = event_conditions(query, None)
            _add_large(conditions, access, share)
            return conditions
        with self._db.connection() as connection:
            return resolve_filters(connection, query, access, self._owned_services, share)

    def conditions_seen_by(self, connection: Connected, query: SelectionQuery, access: Access) -> Conditions:
        """Return the same, with the series that a connection sees."""
        return resolve_filters(connection, query, access, self._owned_services)

    def _share(self, access: Access) -> Share:
        """Return which part of all events somebody sees, as found not long ago."""
        key = (access.account, access.sites, access.services)
        now = time.monotonic()
        share, until = self._shares.get(key, ("small", 0.0))
        if now >= until:
            with self._db.connection() as connection:
                share = _find_share(connection, access)
            if len(self._shares) >= _SHARES_MAX:
                self._shares = {}
            self._shares[key] = (share, now + _SHARE_KEPT_S)
        return share

    def list(
        self,
        conditions: Conditions,
        keys: Sequence[tuple[str, bool]],
        limit: int,
        offset: int = 0,
        *,
        backwards: bool = False,
    ) -> tuple[Sequence[Event], int]:
        """Return events that meet some conditions, in order, and how many of them the limit of a page leaves complete.

        The tags of the others are ``OMITTED_FROM_PAGE``.

        Args:
            conditions: From ``conditions``.
            keys: What they are sorted by, from ``with_tie_breaker``.
            limit: The most that are returned.
            offset: How many are skipped.
            backwards: Sort the other way round.
        """
        account = conditions.whole_account
        if account is not None and offset == 0:
            query = first_page(account, tuple(keys), limit, self._served_max_bytes, backwards=backwards)
            return self._read_page(query, None, limit)
        page = conditions.compose_page(order_by(keys, backwards=backwards))
        return self._page(page, {**conditions.values, "limit": limit, "offset": offset})

    def trace(self, trace_id: str, limit: int, access: Access = SYSTEM) -> Sequence[Event]:
        """Return the events of a trace, in order of time; as of ``list``, some may be without their tags."""
        values = {"trace_id": trace_id, "limit": limit, **access.parameters}
        return self._page(sql.SQL(QUERIES["page_of_trace"]), values)[0]

    def read(self, keys: Sequence[tuple[UUID, datetime]], access: Access) -> Sequence[Event]:
        """Return the events with these ids and times, in order of time; as of ``list``, some may be without tags."""
        ids, times = [event_id for event_id, _ in keys], [time for _, time in keys]
        values = {"ids": ids, "times": times, "limit": len(keys), **access.parameters}
        return self._page(sql.SQL(QUERIES["page_of_keys"]), values)[0]

    def _page(self, page: sql.Composable, values: Mapping[str, Any]) -> tuple[Sequence[Event], int]:
        limit = values["limit"]
        query = _compose_list(page, limit, self._served_max_bytes)
        limits = {"tags_max_bytes": self._served_max_bytes, "page_max_bytes": PAGE_MAX_BYTES}
        return self._read_page(query, {**values, **limits}, limit)

    def _read_page(
        self, query: sql.Composed, values: Mapping[str, Any] | None, limit: int
    ) -> tuple[Sequence[Event], int]:
        with self._db.connection() as connection:
            rows = connection.execute(query, values).fetchall()
        if _fits_always(limit, self._served_max_bytes):
            return [*map(to_event, rows)], len(rows)
        fitting = sum(row[-1] for row in rows)
        omitted = (msgspec.structs.replace(to_event(row), tags=OMITTED_FROM_PAGE) for row in rows[fitting:])
        return [*map(to_event, rows[:fitting]), *omitted], fitting

    def count(self, conditions: Conditions) -> int:
        """Count the events that meet some conditions."""
        account = conditions.whole_account
        if account is not None and conditions.alone:
            counted = self._row(count_if_alone(account))[0]
        else:
            counted = self._row(conditions.compose_count(), conditions.values)[0]
        if counted is None:  # somebody else has come
            conditions = msgspec.structs.replace(conditions, alone=False)
            counted = self._row(conditions.compose_count(), conditions.values)[0]
        return int(counted)

    def estimate(self, conditions: Conditions) -> int:
        """Return the planner's estimate of that count, which reads no events."""
        return _planned_rows(self._one("estimate_events", conditions))

    def suggest(self, service: str | None, access: Access = SYSTEM) -> Mapping[str, Sequence[str]]:
        """Return names of ``services``, ``endpoints`` and ``methods`` for a form, ``SUGGESTIONS_MAX`` of each at most.

        Args:
            service: Endpoints of this service only.
            access: Of whoever asks.
        """
        values = {**access.parameters, "service": service, "limit": SUGGESTIONS_MAX}
        with self._db.connection() as connection:
            ((services, endpoints, methods),) = connection.execute(QUERIES["suggest_texts"], values)
        return {"services": services, "endpoints": endpoints, "methods": methods}

    def is_empty(self) -> bool:
        """Tell whether there are no events."""
        return not self._one("any_event", Conditions([], {}))[0]

    def _find(
        self, connection: Connected, event_id: UUID, access: Access, *, lock: bool = False
    ) -> tuple[Event, Owner]:
        """Find an event at the time in its id, or where it was moved to, and whose it is."""
        try:
            start, end = time_range(event_id)
        except ValueError as ex:
            raise _not_found(event_id) from ex
        query = QUERIES["lock_event" if lock else "find_event"]
        values = {"id": event_id, "tags_max_bytes": self._served_max_bytes, **access.parameters}
        row = connection.execute(query, {**values, "from_time": start, "to_time": end}).fetchone()
        if row is None:
            moved = connection.execute(QUERIES["find_moved"], {"id": event_id}).fetchone()
            if moved is not None:
                start = moved[0]
                span = {"from_time": start, "to_time": start + datetime.resolution}
                row = connection.execute(query, {**values, **span}).fetchone()
        if row is None:
            raise _not_found(event_id)
        return to_event(row), Owner(access.account, row[-1])

    def _oversized(self) -> InvalidError:
        return invalid_fields({"tags": [oversized_tags(self._tags_max_bytes)]})

    def _one(self, name: str, conditions: Conditions) -> tuple[Any, ...]:
        return self._row(sql.SQL(QUERIES[name]).format(where=conditions.where), conditions.values)

    def _row(self, query: sql.Composed, values: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        with self._db.connection() as connection:
            row = connection.execute(query, values).fetchone()
        if row is None:
            raise LookupError(query.as_string())
        return row


def served_max_bytes(tags_max_bytes: int) -> int:
    """Return how long stored tags may be to be returned, for events whose tags were at most so long as sent."""
    return tags_max_bytes + _PRESERVED_MAX_BYTES


def _compose_list(page: sql.Composable, limit: int, tags_max_bytes: int) -> sql.Composed:
    """Compose the list of the events of a page, of which each has tags of so many bytes at most."""
    events = sql.SQL(QUERIES["list_events"]).format(page=page)
    if _fits_always(limit, tags_max_bytes):
        return events
    return sql.SQL(QUERIES["list_fitting_events"]).format(events=events)


def _fits_always(limit: int, tags_max_bytes: int) -> bool:
    """Tell whether the tags of so many events are within the limit of a page, whatever they are."""
    return limit * tags_max_bytes <= PAGE_MAX_BYTES


@lru_cache(maxsize=_STATEMENTS_MAX)
def first_page(
    account: int, keys: tuple[tuple[str, bool], ...], limit: int, tags_max_bytes: int, *, backwards: bool
) -> sql.Composed:
    """Return the statement that lists the first events of all that an account has, planned once for a session."""
    conditions = _whole_account(account)
    query = _compose_list(conditions.compose_page(order_by(keys, backwards=backwards)), limit, tags_max_bytes)
    limits = {"tags_max_bytes": tags_max_bytes, "page_max_bytes": PAGE_MAX_BYTES}
    return inline_values(query, {**conditions.values, "limit": limit, "offset": 0, **limits})


@lru_cache(maxsize=_STATEMENTS_MAX)
def count_if_alone(account: int) -> sql.Composed:
    """Return the statement that counts all events, if they are those of an account, planned once for a session."""
    conditions = _whole_account(account)
    return inline_values(conditions.compose_count(), conditions.values)


def _whole_account(account: int) -> Conditions:
    conditions = Conditions([], {})
    conditions.require_visible(Access(account=account).parameters, alone=True)
    return conditions


def resolve_filters(
    connection: Connected,
    query: SelectionQuery,
    access: Access,
    owned_services: OwnedServices,
    share: Share = "small",
) -> Conditions:
    """Resolve filters into conditions on the table of events, with the series that a connection sees.

    Args:
        connection: The conditions hold for what it sees.
        query: The filters.
        access: Of whoever asks.
        owned_services: Tells which services applications own.
        share: Which part of all events they see, as far as is known.

    Raises:
        InvalidError: The search has too many terms.
        NotFoundError: There is no such application.
        ForbiddenError: Its views may not be read.
    """
    series_ids: list[int] | None = None
    if _has_texts(query):
        services = access.services_of(query.application, owned_services)
        given = {
            "service": query.service,
            "endpoint": query.endpoint,
            "method": query.method,
            "services": None if services is None else list(services),
        }
        series_ids = _series_ids(connection, "match_series", **access.parameters, **given)
    conditions = event_conditions(query, series_ids)
    if series_ids is None and share != "small":
        _add_large(conditions, access, share)
    elif series_ids is None:
        _add_visible(connection, conditions, access)
    for position, term in enumerate(split_search(query.search)):
        matching = _series_ids(connection, "search_series", **access.parameters, pattern=search_pattern(term))
        add_search(conditions, position, term, matching)
    return conditions


def to_event(row: Sequence[Any]) -> Event:
    """Make an event of a row; the queries have its columns in this order, and NULL for tags that are too long."""
    # Named one by one: to unpack a row into the call takes half as long again.
    event_id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref, tags = row[:10]
    raw_tags = OMITTED_TAGS if tags is None else msgspec.Raw(tags.encode())
    return Event(event_id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref, raw_tags)


def _has_texts(query: SelectionQuery) -> bool:
    """Tell whether a query has filters that series have to be looked up for."""
    return any(text is not None for text in (query.service, query.endpoint, query.method, query.application))


def _add_visible(connection: Connected, conditions: Conditions, access: Access) -> None:
    """Add that events are visible: a condition that costs nothing, if there are no others."""
    numbers, count = _visible_series(connection, access)
    if numbers is None:
        conditions.add_precondition("alone", account=access.account)
    elif count <= _LISTED_SERIES_MAX:
        conditions.add("series", series=numbers)
    else:
        conditions.require_visible(access.parameters)


def _add_large(conditions: Conditions, access: Access, share: Share) -> None:
    """Add that events are visible, without looking up of which series they are."""
    conditions.require_visible(access.parameters, alone=share == "all")


def _visible_series(connection: Connected, access: Access) -> tuple[str | None, int]:
    """Return the numbers of the series that somebody sees, as an array in a text, or None for all; and how many."""
    values = {**access.parameters, "limit": _LISTED_SERIES_MAX + 1}
    ((numbers, count),) = connection.execute(QUERIES["visible_series"], values)
    return numbers, count or 0


def _find_share(connection: Connected, access: Access) -> Share:
    """Find which part of all events somebody sees, as far as statistics tell."""
    numbers, count = _visible_series(connection, access)
    if numbers is None:
        return "all"
    if count > _LISTED_SERIES_MAX:
        return "large"
    seen = Conditions([], {})
    seen.add("series", series=numbers)
    of_these, of_all = (
        connection.execute(sql.SQL(QUERIES["estimate_events"]).format(where=each.where), each.values).fetchone()
        for each in (seen, Conditions([], {}))
    )
    return "large" if _planned_rows(of_these) >= _LARGE_SHARE * _planned_rows(of_all) else "small"


def _planned_rows(row: Sequence[Any] | None) -> int:
    return 0 if row is None else int(row[0][0]["Plan"]["Plan Rows"])


def _series_ids(connection: Connected, name: str, **values: Any) -> list[int]:
    return [row[0] for row in connection.execute(QUERIES[name], values)]


def _series_key(event: Event) -> SeriesKey:
    return SeriesKey(event.service, event.endpoint, event.method, event.latency_ms is not None)


def _with_series(event: Event, series: ResolvedSeries) -> Event:
    """Return an event with the texts of the series it goes to."""
    key = _series_key(event)
    if key not in series.substitutes:
        return event
    service, endpoint, method = series.substitutes[key].texts
    tags = msgspec.Raw(series.preserve_original(key, bytes(event.tags)))
    return msgspec.structs.replace(event, service=service, endpoint=endpoint, method=method, tags=tags)


def _move(connection: Connected, before: Event, values: dict[str, Any]) -> None:
    """Move an event to another time. Not by UPDATE: a hypertable does not move rows between its chunks."""
    connection.execute(QUERIES["delete_event"], {"id": before.id, "time": before.time})
    connection.execute(QUERIES["insert_event"], values)
    # Also within the millisecond of its id: a replay must not bring the event back at its old time.
    connection.execute(QUERIES["set_moved"], {"id": before.id, "time": values["time"]})


def touch_hours(connection: Connected, times: Iterable[datetime], account: int) -> tuple[Any, ...] | None:
    """Note the hours whose rollups have to be computed again; return the row for ``ensure_generation``.

    Raises:
        TooOldError: Retention has removed the events of some of these hours.
    """
    row = connection.execute(QUERIES["touch_hours"], {"account": account, "times": list(times)}).fetchone()
    ensure_not_too_old(row)
    return row


def _edited_by_others(event_id: UUID) -> ConflictError:
    return ConflictError(detail=f"{event_id} is being edited by others")


def _not_found(event_id: UUID) -> NotFoundError:
    return NotFoundError(detail=f"no request log has the id {event_id}")
