"""What is stored of sources: one function a named query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from psycopg import Connection

from kernel import Database, load_queries
from plugins.club.fetching.outcome import Fetched, Outcome, Rejected, SourceFailure, Validators
from plugins.club.model import HeroMetric, Item, MostPresent
from plugins.club.settings import Source

QUERIES = load_queries(__package__)
T = TypeVar("T")


class Content(msgspec.Struct, Generic[T], frozen=True):
    """What a source gave with its last good answer.

    Args:
        items: The good ones.
        rejected: The others.
        validators: What to ask with whether it has changed.
    """

    items: tuple[T, ...]
    rejected: tuple[Rejected, ...] = ()
    validators: Validators | None = None


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "hero-metrics": msgspec.json.Decoder(Content[HeroMetric]),
    "most-present": msgspec.json.Decoder(Content[MostPresent]),
}


class SourceState(msgspec.Struct, frozen=True):
    """How a source has been.

    Args:
        name: Which.
        dataset: What its content belongs to.
        items: How many good ones it gave last.
        rejected: How many others.
        changed_at: When they came.
        succeeded_at: When they were last found to be so; None before the first good answer.
        attempted_at: When it was last tried.
        failed_at: When it last failed.
        failure: Why.
        failures: How often since its last good answer.
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


class Figures(msgspec.Struct, frozen=True):
    """Figures of the database.

    Args:
        size_bytes: Of everything in it.
        connections: That are open to it, of all processes.
        connections_max: That the server allows.
        sources: Rows of the table of sources.
    """

    size_bytes: int
    connections: int
    connections_max: int
    sources: int


def list_states(db: Database, names: Collection[str]) -> dict[str, SourceState]:
    """Return how sources have been, by name; those that were never tried are not among them."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_states"], {"names": list(names)}).fetchall()
    return {row[0]: SourceState(*row) for row in rows}


def read_contents(db: Database, sources: Mapping[str, Source]) -> dict[str, Content[Item]]:
    """Return what sources gave last, by name, as far as it still fits."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_contents"], {"names": list(sources)}).fetchall()
    found = {name: _decoded(dataset, data) for name, dataset, data in rows if dataset == sources[name].dataset}
    return {name: content for name, content in found.items() if content is not None}


def save_outcome(connection: Connection[Any], source: Source, outcome: Outcome, at: datetime) -> None:
    """Store what became of a source."""
    given: dict[str, object] = {"name": outcome.source, "dataset": source.dataset, "at": at}
    if isinstance(outcome, Fetched):
        content = Content(outcome.items, outcome.rejected, outcome.validators)
        given |= {"item_count": len(outcome.items), "rejected_count": len(outcome.rejected)}
        connection.execute(QUERIES["save_fetched"], {**given, "content": msgspec.json.encode(content)})
    elif isinstance(outcome, SourceFailure):
        # PostgreSQL's text has no null characters.
        given |= {"kind": outcome.kind, "reason": outcome.reason.replace("\x00", "")}
        connection.execute(QUERIES["save_failure"], given)
    else:
        connection.execute(QUERIES["save_unchanged"], given)


def delete_others(connection: Connection[Any], names: Collection[str]) -> None:
    """Remove sources that are not configured any more."""
    connection.execute(QUERIES["delete_others"], {"names": list(names)})


def read_figures(db: Database) -> Figures:
    """Return figures of the database."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["read_figures"]).fetchone()
    return Figures(*row) if row else Figures(0, 0, 0, 0)


def _decoded(dataset: str, data: bytes) -> Content[Item] | None:
    try:
        decoded: Content[Item] = _DECODERS[dataset].decode(data)
    except msgspec.ValidationError:
        return None  # written by a version that had other items; the source is asked for everything again
    return decoded
