"""Where TimescaleDB differs from PostgreSQL.

Under either licence, events live in a hypertable (``migrations/0001_events.sql``): TimescaleDB creates its chunks
itself, so that ``partitions.py`` has nothing to create, and retention drops chunks in place of partitions.

Under the community licence, rollups are continuous aggregates (``migrations/0002_rollups.sql``), which a procedure
refreshes and a policy keeps up to date, and old chunks are compressed (``migrations/0003_policies.sql``). Elsewhere
rollups are tables, which ``rollups/refresh.py`` computes. Both are read through the same views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from kernel import Database, UnavailableError
from plugins.observability.queries import QUERIES
from plugins.observability.resolution import Resolution

# Of a query that asks more at once: whether rollups are continuous aggregates, of which old hours are columns.
HAS_CONTINUOUS_AGGREGATES = QUERIES["has_continuous_aggregates"]
_KINDS = ("rollup", "histogram", "coarse", "coarse_totals")
# When events happened is told as long as they are kept, as elsewhere.
_AGGREGATES: Mapping[Resolution, Sequence[str]] = {
    Resolution.RAW: ("seen_day",),
    Resolution.HOUR: [f"{kind}_hour" for kind in _KINDS],
    Resolution.DAY: [f"{kind}_day" for kind in _KINDS],
}


def is_hypertable(connection: Connection[TupleRow]) -> bool:
    """Tell whether events are in a hypertable; otherwise in partitions."""
    # Not whether the extension exists now: it may have been created since the migrations ran.
    row = connection.execute(QUERIES["is_hypertable"]).fetchone()
    return row is not None and bool(row[0])


def has_continuous_aggregates(connection: Connection[TupleRow]) -> bool:
    """Tell whether the rollups of this database are continuous aggregates."""
    # Not what the licence allows now: it may have changed since the migrations ran.
    row = connection.execute(HAS_CONTINUOUS_AGGREGATES).fetchone()
    return row is not None and bool(row[0])


def ensure_licensed(db: Database) -> None:
    """Check that the server's licence still allows what the tables were made with.

    Raises:
        UnavailableError: It was changed: continuous aggregates cannot be refreshed, and compressed chunks not be read.
    """
    try:
        # Remembered: elsewhere, a server that does not answer fails one check, and not two.
        if db.engine.timescaledb_version is None:
            return
        with db.connection() as connection:
            row = connection.execute(QUERIES["find_lost_license"]).fetchone()
    except UnavailableError:
        # Reported by the check of the database.
        return
    if row is not None:
        raise UnavailableError(
            f"timescaledb.license of the database server is {row[0]}, but the tables were made under 'timescale': set"
            " it to that again, and reload the server's configuration"
        )


def end_of_columns(db: Database, connection: Connection[TupleRow]) -> datetime | None:
    """Return up to where events may be in columnar chunks, whose rows lack system columns; None if none are."""
    if db.engine.timescaledb_version is None:
        return None
    row = connection.execute(QUERIES["end_of_columns"]).fetchone()
    return None if row is None else row[0]


def continuous_aggregates(connection: Connection[TupleRow], resolution: Resolution) -> Sequence[str]:
    """Return the continuous aggregates that are kept as long as a resolution; none where rollups are tables."""
    return _AGGREGATES[resolution] if has_continuous_aggregates(connection) else []


def refresh_continuous_aggregates(connection: Connection[TupleRow], day: datetime, hours: Sequence[datetime]) -> None:
    """Refresh the aggregates of some hours of a day, and of the day, and commit.

    Args:
        connection: In autocommit mode.
        day: Its start, UTC.
        hours: The starts of dirty hours; they are clean afterwards, unless written to meanwhile.
    """
    query = QUERIES["refresh_continuous_aggregates"]
    Database.execute_outside_transaction(connection, query, {"day": day, "hours": list(hours)})


def drop_chunks(connection: Connection[TupleRow], table: str, before: datetime) -> int:
    """Drop the chunks of a hypertable or aggregate that lie before a time as a whole; return how many."""
    return _count(connection, "drop_chunks", table, before)


def count_chunks(connection: Connection[TupleRow], table: str, before: datetime) -> int:
    """Return how many chunks ``drop_chunks`` would drop."""
    return _count(connection, "count_chunks", table, before)


def _count(connection: Connection[TupleRow], query: str, table: str, before: datetime) -> int:
    row = connection.execute(QUERIES[query], {"table": f"observability.{table}", "before": before}).fetchone()
    return 0 if row is None else int(row[0])
