"""Remove a selection of events, such as those of a service that was imported under a wrong name.

Events are deleted in the order of their time, in batches, each in a transaction of its own that also counts them in the
ingest ledger and marks their hours as dirty: analytics read these from the events that are left, so that they are exact
at every moment. Locks are held for one batch only, and a removal that dies half-way leaves a consistent state, which
the next one completes. Series that no event belongs to any more are removed by retention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
from psycopg import sql

from kernel import Database, InvalidError
from plugins.observability.access import SYSTEM, Access, OwnedServices, Owner
from plugins.observability.filters import Conditions, selects_everything, validate_filters
from plugins.observability.ledger import append_removal
from plugins.observability.models import SelectionQuery
from plugins.observability.queries import QUERIES
from plugins.observability.resolution import BEGINNING, HOUR, floor
from plugins.observability.store import Connected, resolve_filters, touch_hours

BATCH_EVENTS = 5000
# Tables whose rows name their account.
_OF_ACCOUNT = ("ingest_ledger", "mark")
# Whose rollups one statement removes.
_PURGED_SERIES = 100
# For one statement over a day of events.
_STATEMENT_TIMEOUT_S = 600.0


class RemovalQuery(SelectionQuery, frozen=True):
    """Parameters of a removal: the filters of the list.

    Args:
        dry_run: Count, and remove nothing.
    """

    dry_run: bool = False


class RemovalResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a removal.

    Args:
        matched: How many events the filters match; before the removal, if there was one.
        deleted: How many of them are deleted.
        kept_before: Analytics of the time before this still count such events: retention has removed the events
            themselves, and what remains of them are sums. None if nothing of the selection can lie there.
    """

    matched: int
    deleted: int
    kept_before: datetime | None = None


class Removal:
    """Removes events.

    Args:
        db: The database.
        owned_services: Tells which services applications own.
        batch_events: Events in one transaction; more, if they have the same time.
    """

    def __init__(self, db: Database, owned_services: OwnedServices, batch_events: int = BATCH_EVENTS) -> None:
        self._db = db
        self._owned_services = owned_services
        self._batch_events = batch_events

    def count(self, query: SelectionQuery, access: Access = SYSTEM) -> RemovalResult:
        """Count what ``remove`` would delete.

        Raises:
            InvalidError: A filter is wrong, or there is none.
            UnavailableError: The database cannot be reached.
        """
        validate_filters(query)
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            conditions = _conditions(connection, query, access, self._owned_services)
            ((counted,),) = connection.execute(conditions.compose_count(), conditions.values)
            ((since,),) = connection.execute(QUERIES["raw_watermark"])
        start = query.start
        reaches_back = since is not None and (start is None or start < since)
        return RemovalResult(counted or 0, 0, since if reaches_back else None)

    def remove(
        self,
        query: SelectionQuery,
        access: Access = SYSTEM,
        on_batch: Callable[[int], None] = lambda _deleted: None,
    ) -> RemovalResult:
        """Delete the events that some filters match.

        Args:
            query: The filters.
            access: Of whoever removes them.
            on_batch: Called with the number of events that are deleted so far; may raise to stop.

        Raises:
            InvalidError: A filter is wrong, or there is none, or of several sites none is named.
            UnavailableError: The database cannot be reached; the batches that are deleted stay deleted.
        """
        owner, counted = access.owner, self.count(query, access)
        deleted = 0
        start: datetime | None = BEGINNING
        while start is not None:
            in_batch, start = self._remove_batch(query, access, owner, start)
            deleted += in_batch
            on_batch(deleted)
        return msgspec.structs.replace(counted, deleted=deleted)

    def _remove_batch(
        self, query: SelectionQuery, access: Access, owner: Owner, start: datetime
    ) -> tuple[int, datetime | None]:
        """Delete the first events from a time on; return how many, and the time to go on from, if there may be more."""
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            # Looked up for each batch, as series may come and go.
            conditions = _conditions(connection, query, access, self._owned_services)
            conditions.add("from", batch_start=start)
            end, times = _delete_batch(connection, conditions, self._batch_events)
            if times:
                append_removal(connection, len(times), list({floor(time, HOUR) for time in times}), owner)
        return len(times), None if end is None else end + datetime.resolution

    def purge_account(self, account: int) -> Iterator[int]:
        """Remove the events, the rollups, the ledger and the marks of an account; see ``Services.purge_accounts_with``.

        What is older than the retention of events is left to retention, but for the rollups. Those on TimescaleDB
        whose events are gone cannot be removed by series: they stay as long as rollups are kept. Series that nothing
        refers to any more are removed by retention.
        """
        with self._db.connection() as connection:
            series = [number for (number,) in connection.execute(QUERIES["list_series"], {"account": account})]
            ((has_tables,),) = connection.execute(QUERIES["has_rollup_tables"])
        for number in series:
            yield from self._repeat(partial(self._purge_events, account, number))
        for table in ("rollup_hour", "rollup_day") if has_tables else ():
            for start in range(0, len(series), _PURGED_SERIES):
                some = {"series": series[start : start + _PURGED_SERIES]}
                yield from self._repeat(partial(self._purge_rows, "purge_series_rows", table, some))
        for table in ("coarse_hour", "coarse_day", *_OF_ACCOUNT) if has_tables else _OF_ACCOUNT:
            yield from self._repeat(partial(self._purge_rows, "purge_account_rows", table, {"account": account}))

    def _repeat(self, purge: Callable[[], int]) -> Iterator[int]:
        """Purge a batch at a time, until one is not full."""
        removed = self._batch_events
        while removed >= self._batch_events:
            removed = purge()
            yield removed

    def _purge_rows(self, name: str, table: str, values: Mapping[str, object]) -> int:
        query = sql.SQL(QUERIES[name]).format(table=sql.Identifier(table))
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            return connection.execute(query, {**values, "limit": self._batch_events}).rowcount

    def _purge_events(self, account: int, series: int) -> int:
        """Delete the first events of a series; return how many."""
        conditions = Conditions([], {})
        conditions.add("series", series=[series])
        conditions.add("kept")
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            _, times = _delete_batch(connection, conditions, self._batch_events)
            if times:
                touch_hours(connection, {floor(time, HOUR) for time in times}, account)
        return len(times)


def _delete_batch(
    connection: Connected, conditions: Conditions, batch_events: int
) -> tuple[datetime | None, Sequence[datetime]]:
    """Delete the first events that meet some conditions; return the last time, if more may follow, and theirs."""
    values = {**conditions.values, "batch_events": batch_events}
    row = connection.execute(sql.SQL(QUERIES["batch_end"]).format(where=conditions.where), values).fetchone()
    if row is not None:
        conditions.add("until", batch_end=row[0])
    connection.execute(QUERIES["allow_decompression"])
    rows: list[tuple[UUID, datetime]] = connection.execute(
        sql.SQL(QUERIES["delete_selected"]).format(where=conditions.where), conditions.values
    ).fetchall()
    if rows:
        connection.execute(QUERIES["delete_all_moved"], {"ids": [event_id for event_id, _ in rows]})
    return None if row is None else row[0], [time for _, time in rows]


def _conditions(
    connection: Connected, query: SelectionQuery, access: Access, owned_services: OwnedServices
) -> Conditions:
    """Resolve filters into conditions on the events that can be removed.

    Raises:
        InvalidError: There is no filter.
    """
    if selects_everything(query):
        names = ", ".join(SelectionQuery.__struct_fields__)
        raise InvalidError(f"Expected a filter: without one, every request log would be removed. There are: {names}.")
    conditions = resolve_filters(connection, query, access, owned_services)
    # What is older is left to retention; its rollups cannot be computed again.
    conditions.add("kept")
    return conditions
