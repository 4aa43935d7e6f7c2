"""Refresh rollups: compute dirty hours, and their days, from the events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import LiteralString

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kernel import ApiError, ConflictError, Database, UnavailableError
from kernel.identity import acting_as
from plugins.observability.resolution import BEGINNING, END, HOUR, Resolution, Span
from plugins.observability.rollups.dirty_buckets import QUERIES, deduplicate, list_dirty_days, mark_clean
from plugins.observability.timescale import has_continuous_aggregates, refresh_continuous_aggregates

# The policy of TimescaleDB (migrations/0003_policies.sql) and retention take the same lock.
LOCK = "observability.rollups"
# For one statement over a day of events.
_STATEMENT_TIMEOUT_S = 600.0
_LOCK_POLL_S = 0.2
_DAYS_SHOWN_MAX = 5
# By table: its key without the bucket; the fragments with the counts that its hours are made of, and with the form that
# an hour's histogram is stored in.
_TABLES = {
    "rollup": (("series",), "counts_by_series", "histogram_by_bin"),
    "coarse": (("account", "service", "method", "timed"), "counts_by_method", "histogram_of_all_bins"),
}


class RefreshReport(msgspec.Struct, frozen=True):
    """What a refresh did.

    Args:
        days: Days with dirty hours.
        hours: Hours that were computed.
    """

    days: int
    hours: int


class FailedDay(msgspec.Struct, frozen=True):
    """A day whose rollups could not be computed.

    Args:
        day: Its start, UTC.
        since: When the first attempt began that has had no success since.
        attempts: How many there were.
        reason: What the database said to the latest.
    """

    day: datetime
    since: datetime
    attempts: int
    reason: str


class RefreshError(ApiError):
    """500: the rollups of some days could not be computed. Those of all others that were due are.

    Args:
        days: Which, and why.
    """

    code = "refresh_failed"

    def __init__(self, days: Sequence[FailedDay]) -> None:
        super().__init__(f"The rollups of {_name_days(days)} cannot be computed.", detail=days[0].reason)
        self.days = days

    def __str__(self) -> str:
        return f"{self.message} {self.detail}"


class Rollups:
    """Keeps rollups up to date.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @acting_as(None)  # over all accounts
    def refresh(
        self,
        start: datetime = BEGINNING,
        end: datetime = END,
        *,
        running_hour_wait_s: float = 0.0,
        lock_wait_s: float = 0.0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> RefreshReport:
        """Compute dirty hours and their days, the oldest day first, in one transaction a day.

        A day that fails does not keep the others from being computed, and is tried again by each later refresh.

        Args:
            start: Hours before this are left dirty.
            end: Hours from this on are left dirty.
            running_hour_wait_s: The running hour is left alone until it has been dirty for this long: while events
                keep coming, each refresh computes all of it again.
            lock_wait_s: How long to wait for another session that refreshes.
            progress: Called with the number of days done and the number of all days; may raise to stop.

        Raises:
            ConflictError: Another session is refreshing; says which.
            RefreshError: Some days failed; all others are done.
            UnavailableError: The database cannot be reached; the days that are done stay done.
        """
        with self._lock(lock_wait_s) as connection:
            days = list_dirty_days(connection, Span(start, end), running_hour_wait_s)
            refresh_day = refresh_continuous_aggregates if has_continuous_aggregates(connection) else _refresh_tables
            failed: set[datetime] = set()
            progress(0, len(days))
            for done, (day, hours) in enumerate(days, 1):
                try:
                    refresh_day(connection, day, hours)
                except psycopg.Error as ex:
                    if connection.closed:
                        raise
                    # Fails as well where it is not about this day, as with a full disk: no other day is tried then.
                    connection.execute(QUERIES["fail_attempt"], {"day": day, "error": _first_line(ex)})
                    failed.add(day)
                progress(done, len(days))
            # Under the lock: an entry that is newer than the snapshot of another refresh must outlive that refresh.
            deduplicate(connection)
            if failed:
                raise RefreshError([each for each in _list_failed_days(connection) if each.day in failed])
        return RefreshReport(len(days), sum(len(hours) for _, hours in days))

    def failed_days(self) -> Sequence[FailedDay]:
        """Return the days whose rollups could not be computed, and are still due, the oldest first."""
        with self._db.connection() as connection:
            return _list_failed_days(connection)

    def probe(self) -> None:
        """Check that no day keeps failing.

        Raises:
            ApiError: Some do. It names them, but not the reasons, which quote the database.
        """
        try:
            failed = self.failed_days()
        except UnavailableError:
            # Reported by the check of the database.
            return
        if failed:
            raise ApiError(f"the rollups of {_name_days(failed)} cannot be computed; tiercel check tells why")

    def describe_failed_days(self) -> str | None:
        """Return which days keep failing, and why; None if there are none."""
        days = "".join(
            f"\n  {each.day.date()}: {each.reason}, {each.attempts} attempts since {each.since:%Y-%m-%dT%H:%M:%SZ}"
            for each in self.failed_days()
        )
        return f"the rollups of some days cannot be computed:{days}" if days else None

    @contextmanager
    def _lock(self, wait_s: float) -> Iterator[Connection[TupleRow]]:
        deadline = time.monotonic() + wait_s
        while True:
            with self._db.try_lock(LOCK, _STATEMENT_TIMEOUT_S) as connection:
                if connection is not None:
                    yield connection
                    return
            if time.monotonic() >= deadline:
                break
            # Polled: one that waits in the database holds a snapshot, and a connection of the pool.
            time.sleep(_LOCK_POLL_S)
        with self._db.connection() as connection:
            raise ConflictError(describe_refreshing(connection))


def describe_refreshing(connection: Connection[TupleRow]) -> str:
    """Return a sentence about who holds the lock of refreshes: this service, or the policy of the server itself."""
    row = connection.execute(QUERIES["find_refreshing"]).fetchone()
    who = "" if row is None else f": {row[0]}, process {row[1]} of the database server"
    return f"Somebody else is refreshing the rollups{who}."


def _list_failed_days(connection: Connection[TupleRow]) -> Sequence[FailedDay]:
    return [FailedDay(*row) for row in connection.execute(QUERIES["list_failed_days"])]


def _name_days(days: Sequence[FailedDay]) -> str:
    shown = ", ".join(f"{each.day.date()}" for each in days[:_DAYS_SHOWN_MAX])
    return shown if len(days) <= _DAYS_SHOWN_MAX else f"{shown} and {len(days) - _DAYS_SHOWN_MAX} more days"


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error).partition("\n")[0]
    return message if error.sqlstate is None else f"{message} (SQLSTATE {error.sqlstate})"


def _refresh_tables(connection: Connection[TupleRow], day: datetime, hours: Sequence[datetime]) -> None:
    connection.execute(QUERIES["begin_attempt"], {"day": day})
    with connection.transaction():
        # One snapshot for all statements: what is written meanwhile makes its hour dirty again.
        connection.execute(QUERIES["set_repeatable_read"])
        connection.execute(QUERIES["raise_work_mem"])
        mark_clean(connection, hours)
        connection.execute(QUERIES["end_attempt"], {"day": day})
        Database.create_temporary_table(connection, QUERIES["create_event_counts"])
        for span in _consecutive(hours):
            connection.execute(QUERIES["count_events"], {"start": span.start, "end": span.end})
        for query in _table_queries():
            connection.execute(query, {"hours": list(hours), "day": day})


@cache
def _table_queries() -> Sequence[bytes]:
    """Return the statements that replace hours and then the day, which is made of its hours, in each table."""
    return [
        _compose(QUERIES[query], table, resolution)
        for table in _TABLES
        for query, resolution in (
            ("delete_hour", Resolution.HOUR),
            ("insert_hour", Resolution.HOUR),
            ("delete_day", Resolution.DAY),
            ("insert_day", Resolution.DAY),
        )
    ]


def _compose(query: LiteralString, table: str, resolution: Resolution) -> bytes:
    keys, counts, histograms = _TABLES[table]
    return (
        sql.SQL(query)
        .format(
            table=sql.Identifier(f"{table}_{resolution}"),
            hours=sql.Identifier(f"{table}_{Resolution.HOUR}"),
            keys=sql.SQL(", ").join(map(sql.Identifier, keys)),
            counts=sql.SQL(QUERIES[counts]),
            histograms=sql.SQL(QUERIES[histograms]),
        )
        .as_bytes()
    )


def _consecutive(hours: Sequence[datetime]) -> Iterator[Span]:
    """Join hours that follow one another into spans."""
    start = previous = hours[0]
    for hour in hours[1:]:
        if hour - previous > HOUR:
            yield Span(start, previous + HOUR)
            start = hour
        previous = hour
    yield Span(start, previous + HOUR)
