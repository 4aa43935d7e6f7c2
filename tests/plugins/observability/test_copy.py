"""The search for events that the database cannot store."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest

from plugins.observability.ingest.copy import Connected, Copied, copy_storable_rows


@pytest.mark.parametrize(
    ("bad", "rejected", "copies_max"), [(range(17, 4000, 1500), 3, 100), (range(0, 4000, 2), 4000, 700)]
)
def test_the_search_for_unstorable_items_has_an_end(database: str, bad: range, rejected: int, copies_max: int) -> None:
    copies: list[int] = []

    def copy(_connection: Connected, rows: Sequence[bytes], _batch_size: int) -> Copied:
        copies.append(len(rows))
        if any(int(row) in bad for row in rows):
            raise psycopg.DataError("not storable")
        return Copied(len(rows))

    with psycopg.connect(database) as connection:
        rows = [b"%d" % number for number in range(4000)]
        copied, errors = copy_storable_rows(connection, rows, 4000, copy)

    assert set(bad) <= errors.keys()
    assert (copied.inserted + len(errors), len(copies) <= copies_max) == (4000, True)
    assert len(errors) <= rejected
