"""What events and their rollups take on disk."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.figures import Figure
from tests.bench.month import Connected

ROLLUPS = ("rollup_hour", "coarse_hour", "rollup_day", "coarse_day")


def disk(connection: Connected, events: int) -> Iterator[Figure]:
    """Measure bytes per event; ``VACUUM ANALYZE`` was run."""
    heap, indexes = _partitions(connection)
    sizes = {name: _table(connection, name) for name in ROLLUPS}
    total = sum(sizes.values())
    raw = f"bytes an event: raw {(heap + indexes) / events:.0f}, of it {indexes / events:.0f} indexes"
    parts = ", ".join(f"{name} {size / events:.1f}" for name, size in sizes.items())
    yield Figure("disk, rollups against events", total / (heap + indexes), 0.5, "at most", detail=f"{raw}, {parts}")


def _partitions(connection: Connected) -> tuple[int, int]:
    row = connection.execute(
        """SELECT sum(pg_table_size(inhrelid))::bigint, sum(pg_indexes_size(inhrelid))::bigint
           FROM pg_inherits WHERE inhparent = 'observability.event'::regclass"""
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _table(connection: Connected, name: str) -> int:
    row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [f"observability.{name}"]).fetchone()
    assert row is not None
    return int(row[0])
