"""What was read of a source is kept in parts, of which only those are written that have changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from kernel.db.pool import Database
from kernel.settings import DatabaseSettings
from plugins.trace.export.model import Row
from plugins.trace.store import Kept, find_source, pack, save_source

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    """An open database."""
    opened = Database(DatabaseSettings(), database, embedded=False)
    opened.open()
    yield opened
    opened.close()


def make_rows(count: int) -> list[Row]:
    """Make rows, one a minute, of two data sources in turn."""
    times = [NOW + timedelta(minutes=number) for number in range(count)]
    return [
        Row(f"page-{number}", f"source-{number % 2}", at, at, {"name": "as it was"}) for number, at in enumerate(times)
    ]


def keep(db: Database, rows: Sequence[Row]) -> None:
    """Keep rows as those of the features."""
    with db.transaction() as connection:
        save_source(connection, "features", Kept(b"mapping", pack(rows), (), {}, NOW, NOW))


def kept_of(db: Database) -> Kept:
    """Return what is kept."""
    found = find_source(db, "features")
    assert found is not None
    return found


def written(db: Database) -> list[str]:
    """Return for each part by which transaction it was written."""
    with db.connection() as connection:
        return [row[0] for row in connection.execute("SELECT xmin::text FROM trace.source_rows ORDER BY part")]


def test_rows_come_back_in_the_order_in_which_they_were_made(db: Database) -> None:
    rows = make_rows(2500)

    keep(db, rows[::-1])

    assert kept_of(db).rows == tuple(rows)
    assert len(written(db)) == 3


def test_what_is_not_there_any_more_is_not_kept(db: Database) -> None:
    rows = make_rows(2500)
    keep(db, rows)

    keep(db, rows[:700])

    assert kept_of(db).rows == tuple(rows[:700])


def test_a_source_without_rows_is_kept(db: Database) -> None:
    keep(db, [])

    assert kept_of(db).rows == ()


def test_only_the_part_with_an_edited_row_is_written_anew(db: Database) -> None:
    rows = make_rows(2500)
    keep(db, rows)
    before = written(db)

    rows[1200] = msgspec.structs.replace(rows[1200], fields={"name": "as it is"})
    keep(db, [*rows[1200:], *rows[:1200]])

    assert [old == new for old, new in zip(before, written(db), strict=True)] == [True, False, True]
    assert kept_of(db).rows == tuple(rows)


def test_ids_are_those_of_the_rows_of_some_data_sources(db: Database) -> None:
    keep(db, make_rows(1500))

    found = kept_of(db).page_ids({"source-1"})

    assert found == {f"page-{number}" for number in range(1, 1500, 2)}
