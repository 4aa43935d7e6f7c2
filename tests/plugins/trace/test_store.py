"""The rows of a source are stored in chunks; only chunks that have changed are written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from kernel.db.pool import Database
from plugins.trace.store import SourceState, find_source, pack_rows, save_source
from plugins.trace.sync.mapping import Row

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def empty(db: Database) -> None:
    """Delete what another test stored."""
    with db.connection() as connection:
        connection.execute("TRUNCATE trace.source CASCADE")


def make_rows(count: int) -> list[Row]:
    """Make rows, one per minute, of two data sources in turn."""
    times = [NOW + timedelta(minutes=number) for number in range(count)]
    return [
        Row(f"page-{number}", f"source-{number % 2}", at, at, {"name": "before"}) for number, at in enumerate(times)
    ]


def save(db: Database, rows: Sequence[Row]) -> None:
    """Store rows as those of the features."""
    with db.transaction() as connection:
        save_source(connection, "features", SourceState(b"mapping", pack_rows(rows), (), {}, NOW, NOW))


def load(db: Database) -> SourceState:
    """Return the stored state."""
    found = find_source(db, "features")
    assert found is not None
    return found


def writers(db: Database) -> list[str]:
    """Return the id of the transaction that wrote each chunk."""
    with db.connection() as connection:
        return [row[0] for row in connection.execute("SELECT xmin::text FROM trace.source_rows ORDER BY part")]


def test_rows_are_stored_in_the_order_of_creation(db: Database) -> None:
    rows = make_rows(2500)

    save(db, rows[::-1])

    assert load(db).rows == tuple(rows)
    assert len(writers(db)) == 3


def test_rows_that_are_gone_are_deleted(db: Database) -> None:
    rows = make_rows(2500)
    save(db, rows)

    save(db, rows[:700])

    assert load(db).rows == tuple(rows[:700])


def test_a_source_without_rows_is_stored(db: Database) -> None:
    save(db, [])

    assert load(db).rows == ()


def test_only_the_chunk_with_an_edited_row_is_written(db: Database) -> None:
    rows = make_rows(2500)
    save(db, rows)
    before = writers(db)

    rows[1200] = msgspec.structs.replace(rows[1200], fields={"name": "after"})
    save(db, [*rows[1200:], *rows[:1200]])

    assert [old == new for old, new in zip(before, writers(db), strict=True)] == [True, False, True]
    assert load(db).rows == tuple(rows)


def test_page_ids_are_those_of_the_given_data_sources(db: Database) -> None:
    save(db, make_rows(1500))

    found = load(db).page_ids({"source-1"})

    assert found == {f"page-{number}" for number in range(1, 1500, 2)}
