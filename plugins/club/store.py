"""The table ``club.source``: the last content and the state of each source. One function per named query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from psycopg import Connection

from kernel import Database, load_queries
from plugins.club.fetch.results import Fetched, FetchResult, RejectedItem, SourceFailure, Validators
from plugins.club.models import HeroMetric, Item, MostPresent
from plugins.club.settings import Source

QUERIES = load_queries(__package__)
T = TypeVar("T")


class SourceContent(msgspec.Struct, Generic[T], frozen=True):
    """The content of a source as of its last successful fetch.

    Args:
        items: The valid items.
        rejected: The invalid ones.
        validators: For conditional requests; None if the source sends none.
    """

    items: tuple[T, ...]
    rejected: tuple[RejectedItem, ...] = ()
    validators: Validators | None = None


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "hero-metrics": msgspec.json.Decoder(SourceContent[HeroMetric]),
    "most-present": msgspec.json.Decoder(SourceContent[MostPresent]),
}


class SourceState(msgspec.Struct, frozen=True):
    """When and how the last fetches of a source ended.

    Args:
        name: The source.
        dataset: The dataset that the content belongs to.
        items: Number of valid items of the last successful fetch.
        rejected: Number of its invalid items.
        changed_at: When the content was fetched.
        succeeded_at: When it was last fetched or confirmed by a 304; None before the first success.
        attempted_at: When the last fetch ended.
        failed_at: When the last failed fetch ended.
        failure: Reason of that failure.
        failures: Number of failures since the last success.
    """

    name: str
    dataset: str
    items: int
    rejected: int
    changed_at: datetime | None
    succeeded_at: datetime | None
    attempted_at: datetime
    failed_at: datetime | None
    failure: str | None
    failures: int


class DatabaseUsage(msgspec.Struct, frozen=True):
    """Size and connections of the database.

    Args:
        size_bytes: Size of the whole database.
        connections: Open connections to it, of all processes.
        connections_max: Connections that the server allows.
        sources: Rows of ``club.source``.
    """

    size_bytes: int
    connections: int
    connections_max: int
    sources: int


def list_states(db: Database, names: Collection[str]) -> dict[str, SourceState]:
    """Return the states of sources by name. Sources that were never fetched are left out."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_states"], {"names": list(names)}).fetchall()
    return {row[0]: SourceState(*row) for row in rows}


def read_contents(db: Database, sources: Mapping[str, Source]) -> dict[str, SourceContent[Item]]:
    """Return the last contents of sources by name, without those of another dataset or an incompatible version."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_contents"], {"names": list(sources)}).fetchall()
    contents = {name: _decode(dataset, data) for name, dataset, data in rows if dataset == sources[name].dataset}
    return {name: content for name, content in contents.items() if content is not None}


def save_result(connection: Connection[Any], source: Source, result: FetchResult, at: datetime) -> None:
    """Store the result of fetching a source."""
    values: dict[str, object] = {"name": result.source, "dataset": source.dataset, "at": at}
    if isinstance(result, Fetched):
        content = SourceContent(result.items, result.rejected, result.validators)
        values |= {"item_count": len(result.items), "rejected_count": len(result.rejected)}
        connection.execute(QUERIES["save_fetched"], {**values, "content": msgspec.json.encode(content)})
    elif isinstance(result, SourceFailure):
        # PostgreSQL's text cannot contain null characters.
        values |= {"kind": result.kind, "reason": result.reason.replace("\x00", "")}
        connection.execute(QUERIES["save_failure"], values)
    else:
        connection.execute(QUERIES["save_unchanged"], values)


def delete_others(connection: Connection[Any], names: Collection[str]) -> None:
    """Delete the rows of sources that are no longer configured."""
    connection.execute(QUERIES["delete_others"], {"names": list(names)})


def read_database_usage(db: Database) -> DatabaseUsage:
    """Return size and connections of the database."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["read_database_usage"]).fetchone()
    return DatabaseUsage(*row) if row else DatabaseUsage(0, 0, 0, 0)


def _decode(dataset: str, data: bytes) -> SourceContent[Item] | None:
    try:
        decoded: SourceContent[Item] = _DECODERS[dataset].decode(data)
    except msgspec.ValidationError:
        return None  # written by a version with other items; the source is fetched again without validators
    return decoded
