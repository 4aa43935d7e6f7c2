"""A month of events in 1,000 series, inserted directly into the table, with rollups computed by the product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from kernel import Database
from kernel.cli.output import progress
from kernel.settings import DatabaseSettings
from plugins.observability.queries import QUERIES
from plugins.observability.rollups.refresh import Rollups

DAYS = 30
SHARES = 10

Connected = psycopg.Connection[Any]


class Month(msgspec.Struct, frozen=True):
    """Thirty whole days, up to today.

    Args:
        start: Of the first.
    """

    start: datetime

    @property
    def days(self) -> Sequence[datetime]:
        """The start of each day."""
        return [self.start + timedelta(days=number) for number in range(DAYS)]


def last_month() -> Month:
    """Return the thirty days before today."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Month(today - timedelta(days=DAYS))


def make_series(connection: Connected) -> None:
    """Make 20 services of 25 endpoints of 2 methods."""
    connection.execute(
        """INSERT INTO observability.series (service, endpoint, method)
           SELECT 'service-' || s, '/api/v1/resource-' || e, m
           FROM generate_series(0, 19) AS s, generate_series(0, 24) AS e, unnest(ARRAY['GET', 'POST']) AS m"""
    )


def fill(connection: Connected, month: Month, events: int, shares: range) -> None:
    """Store some tenths of the events, day by day as they would come.

    Args:
        connection: In autocommit mode.
        month: When.
        events: How many all tenths have together.
        shares: Which of the tenths.
    """
    with progress("events", total=DAYS) as bar:
        for day in month.days:
            fill_span(connection, day, timedelta(days=1), events // DAYS, shares)
            bar.advance(1)
    connection.execute("VACUUM ANALYZE observability.event")


def fill_span(
    connection: Connected, start: datetime, span: timedelta, events: int, shares: range = range(SHARES)
) -> None:
    """Store some tenths of the events of a part of a day, and say which hours they touch."""
    connection.execute(QUERIES["ensure_partitions"], {"days": [start.date()]})
    span_ms = span // timedelta(milliseconds=1)
    given = {"start": start, "span_ms": span_ms, "events": events, "first": shares.start, "last": shares.stop - 1}
    connection.execute(_FILL, given)
    connection.execute(
        """INSERT INTO observability.rollup_touched (hour)
           SELECT generate_series(%s::timestamptz, %s::timestamptz - interval '1 ms', '1 hour')""",
        [start, start + span],
    )


# Most events go to few series; latencies are log-normal, slower in some services than in others.
_FILL = """
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(md5, 1, 3) || '8' || substr(md5, 4, 15))::uuid,
       to_timestamp(ms / 1000.0), series, (ARRAY[200, 200, 200, 200, 200, 200, 201, 204, 404, 500])[1 + n %% 10],
       exp(3 + series %% 20 / 10.0 + random_normal(0, 0.8))::integer, md5, 'user-' || n %% 500, '{"env": "prod"}'
FROM (SELECT n, md5(n::text || %(start)s) AS md5, 1 + floor(random() * random() * 1000)::integer AS series,
             (extract(epoch FROM %(start)s::timestamptz) * 1000)::bigint + n * %(span_ms)s::bigint / %(events)s AS ms
      FROM generate_series(0, %(events)s::bigint - 1) AS n
      WHERE n / 7 %% 10 BETWEEN %(first)s AND %(last)s) AS numbered
"""


@contextmanager
def rollups(conninfo: str) -> Iterator[Rollups]:
    """Yield a ``Rollups`` that refreshes outside of the service."""
    database = Database(DatabaseSettings(), conninfo, embedded=True)
    database.open()
    try:
        yield Rollups(database)
    finally:
        database.close()
