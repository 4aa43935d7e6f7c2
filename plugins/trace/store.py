"""What is kept of sources: one function a named query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel import Database, load_queries
from plugins.trace.export.model import Row
from plugins.trace.notion.schema import Schema

QUERIES = load_queries(__package__)


class Kept(msgspec.Struct, frozen=True):
    """What was read of a source last.

    Args:
        mapping: A digest of what it was read for; rows of another one say nothing.
        rows: All of them.
        schemas: Of its data sources, by id.
        read_at: What was edited before is in the rows.
        reconciled_at: When every row was read, not only those that had changed.
    """

    mapping: bytes
    rows: tuple[Row, ...]
    schemas: Mapping[str, Schema]
    read_at: datetime
    reconciled_at: datetime


def find_source(db: Database, name: str) -> Kept | None:
    """Return what was read of a source last; None if nothing was, or another version of ours wrote it."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_source"], {"name": name}).fetchone()
    if row is None:
        return None
    mapping, rows, schemas, read_at, reconciled_at = row
    try:
        decoded = msgspec.json.decode(rows, type=tuple[Row, ...])
        return Kept(mapping, decoded, msgspec.convert(schemas, dict[str, Schema]), read_at, reconciled_at)
    except msgspec.ValidationError:
        return None


def save_source(connection: Connection[Any], name: str, kept: Kept) -> None:
    """Keep what was read of a source."""
    values = msgspec.structs.asdict(kept)
    values |= {"rows": msgspec.json.encode(kept.rows), "schemas": Jsonb(msgspec.to_builtins(kept.schemas))}
    connection.execute(QUERIES["save_source"], {"name": name, **values})


def delete_others(connection: Connection[Any], names: Collection[str]) -> None:
    """Remove sources that are not configured any more."""
    connection.execute(QUERIES["delete_others"], {"names": list(names)})
