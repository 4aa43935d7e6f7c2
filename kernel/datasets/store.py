"""Datasets in the database: one function a named query."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel.datasets.model import Content, Head, Publication, Version
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.http.compression import compress, decompress

QUERIES = load_queries(__package__)
# Of the items that were kept aside, this many are shown; all are counted.
REJECTED_SHOWN_MAX = 100
_CODING = "zstd"


class Found(msgspec.Struct, frozen=True):
    """A version and where its content is."""

    version: int
    sha256: bytes
    published_at: datetime


def list_heads(db: Database) -> list[Head]:
    """Return what serves at the moment, of every dataset that was ever published."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_heads"]).fetchall()
    return [
        Head(dataset, version, sha256.hex(), published_at, size_bytes, count, confirmed_at, outcome, reason)
        for dataset, version, sha256, published_at, size_bytes, count, confirmed_at, outcome, reason in rows
    ]


def list_histories(db: Database, datasets: Sequence[str], limit: int) -> dict[str, list[Publication]]:
    """Return the newest attempts to publish each of some datasets, newest first."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_histories"], {"datasets": datasets, "limit": limit}).fetchall()
    histories: dict[str, list[Publication]] = {}
    for row in rows:
        histories.setdefault(row[1], []).append(Publication(*row))
    return histories


def list_versions(db: Database, dataset: str, limit: int) -> list[Version]:
    """Return the versions of a dataset, newest first."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_versions"], {"dataset": dataset, "limit": limit}).fetchall()
    return [Version(version, sha256.hex(), at, count, size) for version, sha256, at, size, count in rows]


def list_publications(db: Database, dataset: str, limit: int) -> list[Publication]:
    """Return the attempts to publish a dataset, newest first."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_publications"], {"dataset": dataset, "limit": limit}).fetchall()
    return [Publication(*row) for row in rows]


def list_rejected(db: Database, dataset: str) -> Any:
    """Return the items that the last good publication kept aside."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["list_rejected"], {"dataset": dataset}).fetchone()
    return row[0] if row else []


def find_version(db: Database, dataset: str, as_of: int | datetime) -> Found | None:
    """Return a version by its number, or the one that served at a time."""
    with db.connection() as connection:
        if isinstance(as_of, int):
            found = connection.execute(QUERIES["find_version"], {"dataset": dataset, "version": as_of}).fetchone()
        else:
            found = connection.execute(QUERIES["find_version_at"], {"dataset": dataset, "at": as_of}).fetchone()
    return Found(*found) if found else None


def find_version_before(db: Database, dataset: str, version: int) -> Found | None:
    """Return the version before another."""
    with db.connection() as connection:
        given = {"dataset": dataset, "version": version}
        found = connection.execute(QUERIES["find_version_before"], given).fetchone()
    return Found(*found) if found else None


def find_end(db: Database, dataset: str, version: int) -> datetime | None:
    """Return the last moment at which a version served; None if it does so still."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["find_end"], {"dataset": dataset, "version": version}).fetchone()
    return row[0] - timedelta(microseconds=1) if row and row[0] else None


def read_content(db: Database, sha256: bytes) -> bytes:
    """Return the items of a content as JSON.

    Raises:
        LookupError: Its last version was removed meanwhile.
    """
    with db.connection() as connection:
        row = connection.execute(QUERIES["read_content"], {"sha256": sha256}).fetchone()
    if row is None:
        raise LookupError(f"there is no content {sha256.hex()}")
    packed, size_bytes = row
    return b"".join(decompress([packed], _CODING, size_bytes))


def lock(connection: Connection[Any], dataset: str) -> None:
    """Be the only one that publishes a dataset until the transaction ends."""
    connection.execute(QUERIES["lock_dataset"], {"dataset": dataset})


def find_head(connection: Connection[Any], dataset: str) -> tuple[int, bytes] | None:
    """Return version and hash of what serves; None before the first version."""
    row = connection.execute(QUERIES["find_head"], {"dataset": dataset}).fetchone()
    return (row[0], row[1]) if row else None


def insert_version(connection: Connection[Any], dataset: str, version: int, content: Content, at: datetime) -> None:
    """Store a version and, unless it is there already, its content."""
    packed = compress(content.data, _CODING)
    connection.execute(
        QUERIES["insert_content"],
        {
            "sha256": content.sha256,
            "items": packed,
            "size_bytes": len(content.data),
            "item_count": content.item_count,
        },
    )
    given = {"dataset": dataset, "version": version, "sha256": content.sha256, "at": at}
    connection.execute(QUERIES["insert_version"], given)


def insert_publication(connection: Connection[Any], publication: Publication, content: Content | None) -> int:
    """Record an attempt and tell every process; return its id."""
    rejected = [] if content is None else list(content.rejected[:REJECTED_SHOWN_MAX])
    given = {
        "dataset": publication.dataset,
        "at": publication.at,
        "outcome": publication.outcome,
        "version": publication.version,
        "source": publication.source,
        "job_id": publication.job_id,
        "item_count": publication.items,
        "rejected_count": publication.rejected,
        "rejected": _json(rejected),
        "reason": publication.reason,
        "details": None if publication.details is None else _json(publication.details),
    }
    row = connection.execute(QUERIES["insert_publication"], given).fetchone()
    connection.execute(QUERIES["notify"], {"dataset": publication.dataset})
    return int(row[0]) if row else 0


def remove_old(db: Database, dataset: str, keep: int) -> None:
    """Remove all but some versions, what only they held, and all but ten times as many attempts."""
    # Somebody may be publishing just that content anew; the next to publish cleans up.
    with suppress(psycopg.errors.ForeignKeyViolation), db.transaction() as connection:
        gone = connection.execute(QUERIES["delete_old_versions"], {"dataset": dataset, "keep": keep}).rowcount
        if gone:
            connection.execute(QUERIES["delete_unused_contents"])
        connection.execute(QUERIES["delete_old_publications"], {"dataset": dataset, "keep": keep * 10})


def _json(value: object) -> Jsonb:
    # PostgreSQL's jsonb has no null character.
    return Jsonb(value, dumps=lambda given: msgspec.json.encode(given, enc_hook=str).replace(rb"\u0000", b"\\ufffd"))
