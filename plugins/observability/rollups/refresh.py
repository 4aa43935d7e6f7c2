"""Refresh rollups: compute dirty hours, and their days, from the events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import LiteralString

import msgspec
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kernel import ConflictError, Database
from kernel.identity import acting_as
from plugins.observability.resolution import BEGINNING, END, HOUR, Resolution, Span
from plugins.observability.rollups.dirty_buckets import QUERIES, deduplicate, list_dirty_days, mark_clean
from plugins.observability.timescale import has_continuous_aggregates, refresh_continuous_aggregates

# The policy of TimescaleDB (migrations/0003_policies.sql) and retention take the same lock.
LOCK = "observability.rollups"
# For one statement over a day of events.
_STATEMENT_TIMEOUT_S = 600.0
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
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> RefreshReport:
        """Compute dirty hours and their days, the oldest day first, in one transaction a day.

        Args:
            start: Hours before this are left dirty.
            end: Hours from this on are left dirty.
            running_hour_wait_s: The running hour is left alone until it has been dirty for this long: while events
                keep coming, each refresh computes all of it again.
            progress: Called with the number of days done and the number of all days; may raise to stop.

        Raises:
            ConflictError: Another session is refreshing.
            UnavailableError: The database cannot be reached; the days that are done stay done.
        """
        with self._lock() as connection:
            days = list_dirty_days(connection, Span(start, end), running_hour_wait_s)
            refresh_day = refresh_continuous_aggregates if has_continuous_aggregates(connection) else _refresh_tables
            progress(0, len(days))
            for done, (day, hours) in enumerate(days, 1):
                refresh_day(connection, day, hours)
                progress(done, len(days))
            # Under the lock: an entry that is newer than the snapshot of another refresh must outlive that refresh.
            deduplicate(connection)
        return RefreshReport(len(days), sum(len(hours) for _, hours in days))

    @contextmanager
    def _lock(self) -> Iterator[Connection[TupleRow]]:
        with self._db.try_lock(LOCK, _STATEMENT_TIMEOUT_S) as connection:
            if connection is None:
                raise ConflictError("Somebody else is refreshing the rollups.")
            yield connection


def _refresh_tables(connection: Connection[TupleRow], day: datetime, hours: Sequence[datetime]) -> None:
    with connection.transaction():
        # One snapshot for all statements: what is written meanwhile makes its hour dirty again.
        connection.execute(QUERIES["set_repeatable_read"])
        connection.execute(QUERIES["raise_work_mem"])
        mark_clean(connection, hours)
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
