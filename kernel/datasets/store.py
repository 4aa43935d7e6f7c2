"""Datasets in the database: one function for each named query. Each takes an account; ``SHARED`` is that of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from kernel.conversion import strip_nul
from kernel.datasets.models import SHARED, Content, CurrentVersion, Publication, Version
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.http.compression import compress, decompress
from kernel.notifications import notify

QUERIES = load_queries(__package__)
# Every attempt to publish notifies it, with the name of the dataset, and of the account if it is one of accounts.
CHANNEL = "tiercel_datasets"
_SEPARATOR = "@"
# This many rejected items are stored with an attempt; all are counted.
REJECTED_STORED_MAX = 100
# How many attempts are kept for each version that is kept.
_PUBLICATIONS_PER_VERSION = 10
_CODING = "zstd"


class StoredVersion(msgspec.Struct, frozen=True):
    """A version, with the key of its content."""

    version: int
    sha256: bytes
    published_at: datetime


def describe_change(dataset: str, account: int) -> str:
    """Return the payload of the notification that something was published."""
    return dataset if account == SHARED else f"{dataset}{_SEPARATOR}{account}"


def parse_changes(payloads: Sequence[str]) -> tuple[bool, set[int]]:
    """Return whether notifications tell of a shared dataset, and of which accounts."""
    accounts = {int(each.partition(_SEPARATOR)[2]) for each in payloads if _SEPARATOR in each}
    return any(_SEPARATOR not in each for each in payloads), accounts


# --- reading --------------------------------------------------------------------------------------------------------


def list_current_versions(db: Database, account: int) -> list[CurrentVersion]:
    """Return the current version of every dataset that was ever published for an account."""
    with db.connection() as connection:
        rows = connection.execute(QUERIES["list_current_versions"], {"account": account}).fetchall()
    return [
        CurrentVersion(dataset, version, sha256.hex(), published_at, size_bytes, count, confirmed_at, outcome, reason)
        for dataset, version, sha256, published_at, size_bytes, count, confirmed_at, outcome, reason in rows
    ]


def list_histories(db: Database, datasets: Sequence[str], account: int, limit: int) -> dict[str, list[Publication]]:
    """Return the newest attempts to publish each of some datasets, newest first."""
    with db.connection() as connection:
        given = {"datasets": datasets, "account": account, "limit": limit}
        rows = connection.execute(QUERIES["list_histories"], given).fetchall()
    histories: dict[str, list[Publication]] = {}
    for row in rows:
        histories.setdefault(row[1], []).append(Publication(*row))
    return histories


def list_versions(db: Database, dataset: str, account: int, limit: int) -> list[Version]:
    """Return the versions of a dataset, newest first."""
    with db.connection() as connection:
        given = {"dataset": dataset, "account": account, "limit": limit}
        rows = connection.execute(QUERIES["list_versions"], given).fetchall()
    return [Version(version, sha256.hex(), at, count, size) for version, sha256, at, size, count in rows]


def list_publications(db: Database, dataset: str, account: int, limit: int) -> list[Publication]:
    """Return the attempts to publish a dataset, newest first."""
    with db.connection() as connection:
        given = {"dataset": dataset, "account": account, "limit": limit}
        rows = connection.execute(QUERIES["list_publications"], given).fetchall()
    return [Publication(*row) for row in rows]


def list_rejected(db: Database, dataset: str, account: int) -> Any:
    """Return the items that the last successful attempt rejected, at most ``REJECTED_STORED_MAX``."""
    with db.connection() as connection:
        row = connection.execute(QUERIES["list_rejected"], {"dataset": dataset, "account": account}).fetchone()
    return row[0] if row else []


def find_version(db: Database, dataset: str, account: int, as_of: int | datetime) -> StoredVersion | None:
    """Return a version by its number, or the one that was current at a time."""
    with db.connection() as connection:
        given = {"dataset": dataset, "account": account}
        if isinstance(as_of, int):
            found = connection.execute(QUERIES["find_version"], {**given, "version": as_of}).fetchone()
        else:
            found = connection.execute(QUERIES["find_version_at"], {**given, "at": as_of}).fetchone()
    return StoredVersion(*found) if found else None


def find_version_before(db: Database, dataset: str, account: int, version: int) -> StoredVersion | None:
    """Return the version before another."""
    with db.connection() as connection:
        given = {"dataset": dataset, "account": account, "version": version}
        found = connection.execute(QUERIES["find_version_before"], given).fetchone()
    return StoredVersion(*found) if found else None


def find_last_time_current(db: Database, dataset: str, account: int, version: int) -> datetime | None:
    """Return the last time at which a version was current; None if it still is."""
    with db.connection() as connection:
        given = {"dataset": dataset, "account": account, "version": version}
        row = connection.execute(QUERIES["find_superseded_at"], given).fetchone()
    return row[0] - timedelta(microseconds=1) if row and row[0] else None


def read_content(db: Database, account: int, sha256: bytes) -> bytes:
    """Return the data of a content, a JSON list.

    Raises:
        LookupError: Its last version was removed meanwhile.
    """
    with db.connection() as connection:
        row = connection.execute(QUERIES["read_content"], {"account": account, "sha256": sha256}).fetchone()
    if row is None:
        raise LookupError(f"there is no content {sha256.hex()}")
    compressed, size_bytes = row
    return b"".join(decompress([compressed], _CODING, size_bytes))


# --- publishing, inside a transaction -------------------------------------------------------------------------------


def lock(connection: Connection[Any], dataset: str, account: int) -> None:
    """Keep other transactions from publishing a dataset until the transaction ends. Readers do not wait."""
    connection.execute(QUERIES["lock_dataset"], {"dataset": dataset, "account": account})


def find_current(connection: Connection[Any], dataset: str, account: int) -> tuple[int, bytes] | None:
    """Return number and hash of the current version; None before the first."""
    row = connection.execute(QUERIES["find_current"], {"dataset": dataset, "account": account}).fetchone()
    return (row[0], row[1]) if row else None


def insert_version(
    connection: Connection[Any], dataset: str, account: int, version: int, content: Content, at: datetime
) -> None:
    """Store a version and, unless it is stored already, its content."""
    connection.execute(
        QUERIES["insert_content"],
        {
            "account": account,
            "sha256": content.sha256,
            "items": compress(content.data, _CODING),
            "size_bytes": len(content.data),
            "item_count": content.item_count,
        },
    )
    given = {"dataset": dataset, "account": account, "version": version, "sha256": content.sha256, "at": at}
    connection.execute(QUERIES["insert_version"], given)


def insert_publication(
    connection: Connection[Any], publication: Publication, account: int, rejected: Sequence[object]
) -> int:
    """Record an attempt to publish, notify every process, and return the attempt's id."""
    given = {
        "account": account,
        "dataset": publication.dataset,
        "at": publication.at,
        "outcome": publication.outcome,
        "version": publication.version,
        "source": publication.source,
        "job_id": publication.job_id,
        "item_count": publication.items,
        "rejected_count": publication.rejected,
        "rejected": _jsonb(rejected[:REJECTED_STORED_MAX]),
        "reason": publication.reason,
        "details": None if publication.details is None else _jsonb(publication.details),
    }
    row = connection.execute(QUERIES["insert_publication"], given).fetchone()
    notify(connection, CHANNEL, describe_change(publication.dataset, account))
    return int(row[0]) if row else 0


def remove_old(db: Database, dataset: str, account: int, keep_versions: int) -> None:
    """Remove old versions, contents that no version has any more, and old attempts."""
    # Raised while another publisher stores the same content again; the next one cleans up.
    with suppress(psycopg.errors.ForeignKeyViolation), db.transaction() as connection:
        given = {"dataset": dataset, "account": account, "keep": keep_versions}
        if connection.execute(QUERIES["delete_old_versions"], given).rowcount:
            connection.execute(QUERIES["delete_unused_contents"], {"account": account})
        given = {"dataset": dataset, "account": account, "keep": keep_versions * _PUBLICATIONS_PER_VERSION}
        connection.execute(QUERIES["delete_old_publications"], given)


def purge_account(db: Database, account: int, limit: int = 1000) -> Iterator[int]:
    """Remove the datasets of an account; see ``Services.purge_accounts_with``."""
    for name in ("purge_publications", "purge_versions", "purge_contents"):
        removed = limit
        while removed == limit:
            with db.connection() as connection:
                removed = connection.execute(QUERIES[name], {"account": account, "limit": limit}).rowcount
            yield removed


def _jsonb(value: object) -> Jsonb:
    return Jsonb(strip_nul(msgspec.to_builtins(value, enc_hook=str)), dumps=msgspec.json.encode)
