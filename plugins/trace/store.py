"""What the plugin stores in PostgreSQL: the state of its sources, moved pages, and verification tokens of webhooks.

One function for each named query. The request budget is stored by ``notion.rate_limit``.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel import Database, load_queries
from plugins.trace.notion.schema import Property
from plugins.trace.sync.mapping import Row

QUERIES = load_queries(__package__)
_CHUNK_ROWS = 1_000
# Anybody can send a token, so the latest few are kept: the expected one is among them.
VERIFICATION_TOKENS_MAX = 5


# --- the state of sources --------------------------------------------------------------------------------------------


class SourceState(msgspec.Struct, frozen=True):
    """A source as of its last export: what an incremental export adds changes to.

    Args:
        mapping_digest: Of the mapping that its rows were read with; under another one they are useless.
        chunks: All rows, as chunks of JSON: decoded they take several times the memory, and are rarely needed.
        trashed: Ids of pages that were in the trash.
        columns: By data source, the column that each configured name stood for.
        read_at: All edits before this time are in the rows.
        reconciled_at: When every row was read, and not only those that had changed.
    """

    mapping_digest: bytes
    chunks: Sequence[bytes]
    trashed: tuple[str, ...]
    columns: Mapping[str, Mapping[str, Property]]
    read_at: datetime
    reconciled_at: datetime

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows. Under another mapping digest they may not decode."""
        return tuple(row for chunk in self.chunks for row in msgspec.json.decode(chunk, type=list[Row]))

    def page_ids(self, data_source_ids: Container[str]) -> set[str]:
        """Return the ids of the rows of some data sources."""
        rows = (each for chunk in self.chunks for each in msgspec.json.decode(chunk, type=list[_RowId]))
        return {each.id for each in rows if each.data_source_id in data_source_ids}

    def published_keys(self, key: str) -> Mapping[str, str]:
        """Return the keys of the items that were made of the rows, by the id of their page.

        Args:
            key: The field that identifies an item.
        """
        keys: dict[str, str] = {}
        pages: dict[str, str] = {}
        # In the order of creation: of two rows with the same key, the older one has it.
        for row in (each for chunk in self.chunks for each in msgspec.json.decode(chunk, type=list[_RowKey])):
            found = row.fields.get(key)
            if isinstance(found, str) and not row.errors and pages.setdefault(found, row.id) == row.id:
                keys[row.id] = found
        return keys


class _RowKey(msgspec.Struct, frozen=True):
    """The members of a stored row from which its key is known."""

    id: str
    fields: Mapping[str, Any]
    errors: tuple[str, ...] = msgspec.field(default=(), name="misfits")


class _RowId(msgspec.Struct, frozen=True, gc=False):
    """The members of a stored row that do not depend on the mapping."""

    id: str
    data_source_id: str


class SourceTimes(msgspec.Struct, frozen=True):
    """When a source was read.

    Args:
        read_at: All edits before this time are published.
        reconciled_at: When every row was read.
    """

    read_at: datetime
    reconciled_at: datetime


def pack_rows(rows: Sequence[Row]) -> Sequence[bytes]:
    """Return rows as chunks of JSON. In the order of creation most chunks stay the same from export to export."""
    ordered = sorted(rows, key=lambda row: (row.created_time, row.id))
    return [msgspec.json.encode(ordered[start : start + _CHUNK_ROWS]) for start in range(0, len(ordered), _CHUNK_ROWS)]


def list_sources(db: Database) -> Mapping[str, SourceTimes]:
    """Return when each source was read, by its name."""
    with db.connection() as connection:
        return {row[0]: SourceTimes(*row[1:]) for row in connection.execute(QUERIES["list_sources"])}


def find_columns(db: Database, name: str, data_source_id: str) -> Mapping[str, Property]:
    """Return the column of a data source that each configured name stood for in the last export."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_columns"], {"name": name, "id": data_source_id}).fetchone()
    try:
        return msgspec.convert(row[0] or {} if row else {}, dict[str, Property])
    except msgspec.ValidationError:
        return {}


def find_source(db: Database, name: str) -> SourceState | None:
    """Return the state of a source; None if it was never exported, or by a version with another format."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_source"], {"name": name}).fetchone()
        # Both queries see the same export: only one runs at a time.
        chunks = [chunk for (chunk,) in connection.execute(QUERIES["list_rows"], {"name": name}, binary=True)]
    if row is None:
        return None
    digest, trashed, columns, read_at, reconciled_at = row
    try:
        decoded = msgspec.convert(columns, dict[str, dict[str, Property]])
        return SourceState(digest, chunks, tuple(trashed), decoded, read_at, reconciled_at)
    except msgspec.ValidationError:
        return None


def save_source(connection: Connection[Any], name: str, state: SourceState) -> None:
    """Store the state of a source."""
    connection.execute(
        QUERIES["save_source"],
        {
            "name": name,
            "mapping": state.mapping_digest,
            "trashed": list(state.trashed),
            "columns": Jsonb(msgspec.to_builtins(state.columns)),
            "read_at": state.read_at,
            "reconciled_at": state.reconciled_at,
        },
    )
    for number, chunk in enumerate(state.chunks):
        connection.execute(QUERIES["save_rows"], {"name": name, "part": number, "rows": chunk})
    connection.execute(QUERIES["delete_rows"], {"name": name, "parts": len(state.chunks)})


def delete_other_sources(connection: Connection[Any], names: Collection[str]) -> None:
    """Delete the state of all sources but these: they are no longer configured."""
    connection.execute(QUERIES["delete_other_sources"], {"names": list(names)})


# --- moved pages -----------------------------------------------------------------------------------------------------


def save_moved_page(db: Database, page_id: str) -> None:
    """Store that a page was moved: its old data source shows no trace of it unless every row is read."""
    with db.connection() as connection:
        connection.execute(QUERIES["save_moved_page"], {"id": page_id})


def list_moved_pages(db: Database) -> Mapping[str, datetime]:
    """Return the pages that were moved since the last export, and when."""
    with db.connection() as connection:
        return {row[0]: row[1] for row in connection.execute(QUERIES["list_moved_pages"])}


def delete_moved_pages(connection: Connection[Any], moved: Mapping[str, datetime]) -> None:
    """Delete pages that were moved, unless they were moved again in the meantime."""
    connection.execute(QUERIES["delete_moved_pages"], {"ids": list(moved), "times": list(moved.values())})


# --- verification tokens of webhooks ---------------------------------------------------------------------------------


class VerificationToken(msgspec.Struct, frozen=True):
    """A token that was sent to verify a new webhook.

    Args:
        token: The secret.
        offered_at: When it was received last.
    """

    token: str
    offered_at: datetime


def save_verification_token(db: Database, token: str) -> None:
    """Store a token; keep only the latest ones."""
    with db.transaction() as connection:
        connection.execute(QUERIES["save_verification_token"], {"token": token})
        connection.execute(QUERIES["delete_old_verification_tokens"], {"keep": VERIFICATION_TOKENS_MAX})


def list_verification_tokens(db: Database) -> Sequence[VerificationToken]:
    """Return the tokens that were received within a day, latest first."""
    with db.connection() as connection:
        return [VerificationToken(*row) for row in connection.execute(QUERIES["list_verification_tokens"])]


def delete_verification_tokens(db: Database) -> None:
    """Delete all tokens."""
    with db.connection() as connection:
        connection.execute(QUERIES["delete_verification_tokens"])
