"""Apply retention: advance the watermarks, so that nothing reads what is older, then delete it.

Events are dropped by partition or chunk, in the transaction that advances their watermark, and only after their rollups
are computed. Whatever else is older than a watermark is deleted afterwards, a day in a transaction. A run that dies
half-way leaves a consistent state, and the next one completes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kernel import ConflictError, Database, UnavailableError, load_queries
from kernel.identity import acting_as
from plugins.observability.event_ids import LOWEST_SUFFIX, make_event_id, unix_us
from plugins.observability.resolution import DAY, Resolution, floor
from plugins.observability.retention.plan import PlannedRemoval, plan_removal
from plugins.observability.retention.watermark import FOREVER, RetentionLimits
from plugins.observability.rollups.dirty_buckets import has_dirty_hours
from plugins.observability.rollups.refresh import RefreshError, Rollups, describe_refreshing
from plugins.observability.timescale import (
    continuous_aggregates,
    drop_chunks,
    has_continuous_aggregates,
    is_hypertable,
)

QUERIES = load_queries(__package__)
OnStep = Callable[[str], None]
T = TypeVar("T")

_STATEMENT_TIMEOUT_S = 600.0
# The lock on events makes all writers wait, and every query behind it: it is given up after this, and tried again.
_LOCK_TIMEOUT_MS = 300
_LOCK_TRIES = 20
_LOCK_RETRY_S = 0.1
_LOCK_RETRY_MAX_S = 10.0
# Each dropped partition takes some entries of the server's table of locks.
_PARTITIONS_PER_TRANSACTION = 50
# Writers wait while these are checked once more.
_SERIES_PER_TRANSACTION = 500
# By resolution of rollup tables: the query for the oldest bucket, and those that delete.
_DELETE_ROLLUPS: Mapping[Resolution, tuple[str, Sequence[str]]] = {
    Resolution.HOUR: ("oldest_hour", ("delete_rollup_hour", "delete_coarse_hour")),
    Resolution.DAY: ("oldest_day", ("delete_rollup_day", "delete_coarse_day")),
}


class RetentionReport(msgspec.Struct):
    """What retention removed.

    Args:
        partitions: Partitions or chunks that were dropped.
        events: Events that were deleted one by one, because they shared a partition with newer ones.
        rollups: Rows of rollups.
        series: Series without any events or rollups.
        moved: Entries of ``event_moved``, of events whose time was edited.
        ledger: Entries of the ingest ledger that were merged into others.
        kept_from: The watermarks, by level of the table ``retention``; those at which nothing was ever removed are left
            out.
    """

    partitions: int = 0
    events: int = 0
    rollups: int = 0
    series: int = 0
    moved: int = 0
    ledger: int = 0
    kept_from: Mapping[str, datetime] = {}


class _DirtyHoursError(Exception):
    """Events that are to be dropped were written after their rollups were computed."""


class Retention:
    """Applies the limits.

    Args:
        db: The database.
        rollups: Refreshed before events are dropped.
        limits: How long each resolution is kept.
        ledger_days: After so many days the entries of the ingest ledger are merged by minute; 0 is never.
        now: The clock.
    """

    def __init__(
        self, db: Database, rollups: Rollups, limits: RetentionLimits, ledger_days: int, now: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._rollups = rollups
        self._limits = limits
        self._ledger_days = ledger_days
        self._now = now

    @acting_as(None)
    def plan(self) -> list[PlannedRemoval]:
        """Return what ``apply`` would remove."""
        return plan_removal(self._db, self._limits, self._now())

    @acting_as(None)  # over all accounts
    def apply(self, on_step: OnStep = lambda _step: None) -> RetentionReport:
        """Remove what is due.

        Args:
            on_step: Called with the name of each step before it begins; may raise to stop.

        Raises:
            ConflictError: Rollups are being refreshed, and that does not end.
            RefreshError: The rollups of some days cannot be computed. Events from the first of these days on are kept;
                everything else was removed.
            UnavailableError: The database cannot be reached, or others hold locks for too long.
        """
        report = RetentionReport()
        failure: RefreshError | None = None
        cutoffs = self._limits.cutoffs(self._now())
        if Resolution.RAW in cutoffs:
            failure = self._drop_events(cutoffs[Resolution.RAW], report, on_step)
        rollup_cutoffs = {
            resolution: cutoffs[resolution] for resolution in (Resolution.HOUR, Resolution.DAY) if resolution in cutoffs
        }
        if rollup_cutoffs:
            on_step("rollups")
            _retry_when_locked(lambda: self._advance_rollups(rollup_cutoffs, report))
        report.kept_from = self._watermarks()
        self._delete_events(report, on_step)
        self._delete_rollups(report, on_step)
        on_step("series")
        self._delete_unused_series(report)
        if self._ledger_days != FOREVER:
            self._merge_ledger(floor(self._now(), DAY) - self._ledger_days * DAY, report, on_step)
        if failure is not None:
            raise failure
        return report

    def _drop_events(self, cutoff: datetime, report: RetentionReport, on_step: OnStep) -> RefreshError | None:
        """Drop events before a time, or before the first day whose rollups cannot be computed; return that failure."""
        failure: RefreshError | None = None
        since: datetime | None = None
        while since is None or since < cutoff:
            on_step("refresh")
            try:
                _retry_when_locked(partial(self._rollups.refresh, end=cutoff, progress=lambda *_: on_step("refresh")))
            except RefreshError as ex:
                failure = ex
                cutoff = min(cutoff, *(failed.day for failed in ex.days))
            on_step("events")
            try:
                since = _retry_when_locked(partial(self._drop_some_events, cutoff, report))
            except _DirtyHoursError:
                continue
        return failure

    def _drop_some_events(self, cutoff: datetime, report: RetentionReport) -> datetime:
        """Advance the watermark of events, and drop chunks, or some partitions, before it; return the watermark."""
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            _lock_events(connection)
            has_chunks = is_hypertable(connection)
            partitions: list[tuple[str, datetime]] = []
            if not has_chunks:
                values = {"before": cutoff, "limit": _PARTITIONS_PER_TRANSACTION}
                partitions = [(row[0], row[1]) for row in connection.execute(QUERIES["list_partitions"], values)]
            since = cutoff if len(partitions) < _PARTITIONS_PER_TRANSACTION else partitions[-1][1]
            if has_dirty_hours(connection, since):
                raise _DirtyHoursError
            connection.execute(QUERIES["advance_watermark"], {"level": Resolution.RAW, "from_time": since})
            for name, _ in partitions:
                connection.execute(sql.SQL(QUERIES["drop_partition"]).format(name=sql.Identifier(name)))
                connection.execute(QUERIES["delete_partition_entry"], {"name": name})
            dropped = drop_chunks(connection, "event", cutoff) if has_chunks else len(partitions)
            for table in continuous_aggregates(connection, Resolution.RAW):
                drop_chunks(connection, table, cutoff)
        report.partitions += dropped
        return since

    def _advance_rollups(self, cutoffs: Mapping[Resolution, datetime], report: RetentionReport) -> None:
        """Advance the watermarks of rollups, and drop the chunks of continuous aggregates before them."""
        dropped = 0
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            if has_continuous_aggregates(connection):
                _lock_events(connection)
            for resolution, cutoff in cutoffs.items():
                connection.execute(QUERIES["advance_watermark"], {"level": resolution, "from_time": cutoff})
                for table in continuous_aggregates(connection, resolution):
                    dropped += drop_chunks(connection, table, cutoff)
        report.partitions += dropped

    def _watermarks(self) -> dict[str, datetime]:
        with self._db.connection() as connection:
            rows = connection.execute(QUERIES["list_watermarks"]).fetchall()
        return {level: since for level, since in rows if since is not None}

    def _delete_events(self, report: RetentionReport, on_step: OnStep) -> None:
        """Delete events that share a partition with newer ones, and entries about events that were removed."""
        before = report.kept_from.get(Resolution.RAW)
        if before is None:
            return
        for day in self._days("oldest_event", before, lambda: on_step("events")):
            report.events += self._delete(["delete_events"], day, min(day + DAY, before))
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            values = {"before": before, "first_id": make_event_id(unix_us(before) // 1000, LOWEST_SUFFIX)}
            report.moved += connection.execute(QUERIES["delete_moved"], values).rowcount

    def _delete_rollups(self, report: RetentionReport, on_step: OnStep) -> None:
        """Delete rows of rollup tables. Continuous aggregates keep what shares a chunk with newer buckets."""
        with self._db.connection() as connection:
            if has_continuous_aggregates(connection):
                return
        for resolution, (oldest, deletes) in _DELETE_ROLLUPS.items():
            before = report.kept_from.get(resolution)
            if before is None:
                continue
            for day in self._days(oldest, before, lambda: on_step("rollups")):
                report.rollups += self._delete(deletes, day, day + DAY)

    def _delete_unused_series(self, report: RetentionReport) -> None:
        """Delete series without any events or rollups, those of edited and deleted events as well."""
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            unused = [number for (number,) in connection.execute(QUERIES["list_unused_series"])]
        for start in range(0, len(unused), _SERIES_PER_TRANSACTION):
            batch = unused[start : start + _SERIES_PER_TRANSACTION]
            report.series += _retry_when_locked(partial(self._delete_series, batch))

    def _delete_series(self, numbers: Sequence[int]) -> int:
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            _lock_events(connection)
            ((count,),) = connection.execute(QUERIES["delete_unused_series"], {"ids": list(numbers)})
            return int(count)

    def _merge_ledger(self, before: datetime, report: RetentionReport, on_step: OnStep) -> None:
        """Merge the entries of each minute and sender into one."""
        for day in self._days("oldest_ledger_entry", before, lambda: on_step("ledger")):
            span = {"start": day, "end": day + DAY}
            with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
                ((entries,),) = connection.execute(QUERIES["count_ledger_entries"], span)
                kept = connection.execute(QUERIES["merge_ledger_entries"], span).rowcount
                connection.execute(QUERIES["advance_watermark"], {"level": "ledger", "from_time": day + DAY})
            report.ledger += entries - kept

    def _days(self, oldest: str, before: datetime, on_day: Callable[[], None]) -> Iterator[datetime]:
        """Yield the first day that has rows, until there is none: the caller must delete or skip all rows of each."""
        while True:
            on_day()
            with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
                ((time,),) = connection.execute(QUERIES[oldest], {"before": before})
            if time is None:
                return
            yield floor(time, DAY)

    def _delete(self, queries: Sequence[str], start: datetime, end: datetime) -> int:
        with self._db.transaction(_STATEMENT_TIMEOUT_S) as connection:
            return sum(connection.execute(QUERIES[name], {"start": start, "end": end}).rowcount for name in queries)


def _lock_events(connection: Connection[TupleRow]) -> None:
    """Wait until no transaction writes events or reads rollups, and keep all others out until this one ends.

    Raises:
        ConflictError: Another session is refreshing rollups.
        psycopg.errors.LockNotAvailable: Others did not end within ``_LOCK_TIMEOUT_MS``.
    """
    row = connection.execute(QUERIES["try_lock_refresh"]).fetchone()
    if row is None or not row[0]:
        raise ConflictError(describe_refreshing(connection))
    connection.execute(QUERIES["set_lock_timeout"], {"timeout_ms": str(_LOCK_TIMEOUT_MS)})
    connection.execute(QUERIES["lock_events"])


def _retry_when_locked(step: Callable[[], T]) -> T:
    """Repeat a step while others hold the locks that it needs, for about two minutes.

    Raises:
        ConflictError: Rollups are still being refreshed.
        UnavailableError: The locks are still held, or the database cannot be reached.
    """
    for attempt in range(_LOCK_TRIES):
        try:
            return step()
        except (ConflictError, UnavailableError) as ex:
            is_locked = isinstance(ex, ConflictError) or isinstance(ex.__cause__, psycopg.errors.LockNotAvailable)
            if not is_locked or attempt == _LOCK_TRIES - 1:
                raise
            time.sleep(min(_LOCK_RETRY_MAX_S, _LOCK_RETRY_S * 2**attempt))
    raise AssertionError
