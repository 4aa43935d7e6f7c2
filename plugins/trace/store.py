"""What is kept of sources: one function a named query."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel import Database, load_queries
from plugins.trace.export.model import Row
from plugins.trace.notion.schema import Property

QUERIES = load_queries(__package__)
_PART_ROWS = 1_000


class Kept(msgspec.Struct, frozen=True):
    """What was read of a source last.

    Args:
        mapping: A digest of what it was read for; rows of another one say nothing.
        parts: All rows, as JSON: most of the time nobody needs them as objects, which take a few times as much.
        trashed: Pages that were in the trash.
        columns: By data source, what each name of the configuration was found to be.
        read_at: What was edited before is in the rows.
        reconciled_at: When every row was read, not only those that had changed.
    """

    mapping: bytes
    parts: Sequence[bytes]
    trashed: tuple[str, ...]
    columns: Mapping[str, Mapping[str, Property]]
    read_at: datetime
    reconciled_at: datetime

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows. Those of another mapping may not be like ours."""
        return tuple(row for part in self.parts for row in msgspec.json.decode(part, type=list[Row]))

    def page_ids(self, data_source_ids: Container[str]) -> set[str]:
        """Return the ids of the rows of some data sources."""
        places = (each for part in self.parts for each in msgspec.json.decode(part, type=list[_Place]))
        return {each.id for each in places if each.data_source_id in data_source_ids}


class _Place(msgspec.Struct, frozen=True, gc=False):
    """All that has to be known of a row to miss it."""

    id: str
    data_source_id: str


def pack(rows: Sequence[Row]) -> Sequence[bytes]:
    """Return rows as they are kept. In the order in which they were made most parts stay as they are."""
    ordered = sorted(rows, key=lambda row: (row.created_time, row.id))
    return [msgspec.json.encode(ordered[start : start + _PART_ROWS]) for start in range(0, len(ordered), _PART_ROWS)]


class SourceTimes(msgspec.Struct, frozen=True):
    """When a source was read.

    Args:
        read_at: What was edited before is in what serves.
        reconciled_at: When every row was read.
    """

    read_at: datetime
    reconciled_at: datetime


def list_sources(db: Database) -> Mapping[str, SourceTimes]:
    """Return when each source was read, by its name."""
    with db.connection() as connection:
        return {row[0]: SourceTimes(*row[1:]) for row in connection.execute(QUERIES["list_sources"])}


def find_columns(db: Database, name: str, data_source_id: str) -> Mapping[str, Property]:
    """Return what each name of the configuration was in a data source when it was read last."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_columns"], {"name": name, "id": data_source_id}).fetchone()
    try:
        return msgspec.convert(row[0] or {} if row else {}, dict[str, Property])
    except msgspec.ValidationError:
        return {}


def find_source(db: Database, name: str) -> Kept | None:
    """Return what was read of a source last; None if nothing was, or another version of ours wrote it."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_source"], {"name": name}).fetchone()
        # Of the same export: only one runs at a time.
        parts = [part for (part,) in connection.execute(QUERIES["list_rows"], {"name": name}, binary=True)]
    if row is None:
        return None
    mapping, trashed, columns, read_at, reconciled_at = row
    try:
        named = msgspec.convert(columns, dict[str, dict[str, Property]])
        return Kept(mapping, parts, tuple(trashed), named, read_at, reconciled_at)
    except msgspec.ValidationError:
        return None


def save_source(connection: Connection[Any], name: str, kept: Kept) -> None:
    """Keep what was read of a source."""
    values = msgspec.structs.asdict(kept)
    values |= {"columns": Jsonb(msgspec.to_builtins(kept.columns)), "trashed": list(kept.trashed)}
    parts = values.pop("parts")
    connection.execute(QUERIES["save_source"], {"name": name, **values})
    for number, part in enumerate(parts):
        connection.execute(QUERIES["save_rows"], {"name": name, "part": number, "rows": part})
    connection.execute(QUERIES["delete_rows"], {"name": name, "parts": len(parts)})


def delete_others(connection: Connection[Any], names: Collection[str]) -> None:
    """Remove sources that are not configured any more."""
    connection.execute(QUERIES["delete_others"], {"names": list(names)})


def save_moved(db: Database, page_id: str) -> None:
    """Remember that a page was moved: from where it was it is missed by those alone who read every row."""
    with db.connection() as connection:
        connection.execute(QUERIES["save_moved"], {"id": page_id})


def list_moved(db: Database) -> Mapping[str, datetime]:
    """Return the pages that were moved since the last export, and when."""
    with db.connection() as connection:
        return {row[0]: row[1] for row in connection.execute(QUERIES["list_moved"])}


def delete_moved(connection: Connection[Any], moved: Mapping[str, datetime]) -> None:
    """Forget pages that were moved, unless they were moved again meanwhile."""
    connection.execute(QUERIES["delete_moved"], {"ids": list(moved), "times": list(moved.values())})
