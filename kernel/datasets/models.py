"""The data model: what a dataset must be, its snapshots and versions, and attempts to publish it."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from kernel.contracts import Dataset
from kernel.conversion import base_type, describe_type, field_types, is_sequence, struct_fields

Outcome = Literal["published", "unchanged", "refused"]

# Of a key, percent-encoded. Servers limit the line of a request, gunicorn to 4,094 bytes with the query string.
KEY_BYTES_MAX = 2000

# Stands for the account of what is shared by all. No account has this number, and no session is scoped to it.
SHARED = -2

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")

# --- datasets as plugins register them ------------------------------------------------------------------------------


def file_pattern(dataset: Dataset) -> str:
    """Return the name of a dataset's file; with a field in braces it has a file for each value of that field."""
    return dataset.file or f"{dataset.name}.json"


def pattern_fields(pattern: str) -> list[str]:
    """Return the fields in braces of a file name or a path."""
    return _FIELD.findall(pattern)


def validate_dataset(dataset: Dataset) -> None:
    """Validate a dataset, without regard to others.

    Raises:
        ValueError: Its name is not allowed, its items can be changed, or it names a field that items do not have.
    """
    if not _NAME.fullmatch(dataset.name):
        raise ValueError(f"dataset {dataset.name!r:.80}: expected small letters, digits, '-' and '_'")
    if not dataset.item.__struct_config__.frozen:
        # All applications share the items; a filter that changed one would change it for all.
        raise ValueError(f"dataset {dataset.name!r}: {dataset.item.__name__} must be frozen")
    known = {field.name for field in struct_fields(dataset.item).values()}
    ordered = (field.removeprefix("-") for field in dataset.order)
    named = {dataset.key, *ordered, *pattern_fields(file_pattern(dataset)), *dataset.relations}
    if unknown := sorted(named - known):
        raise ValueError(f"dataset {dataset.name!r}: {dataset.item.__name__} has no field {', '.join(unknown)}")


def find_invalid_relation(owned: Sequence[tuple[str, Dataset]]) -> tuple[str, ValueError] | None:
    """Find a dataset with a relation to a dataset that does not exist, or by a field that cannot hold its keys.

    Leaving out the plugin that owns it may invalidate relations of others: call this again afterwards.

    Args:
        owned: Every dataset, with the plugin that registered it.

    Returns:
        The plugin and the error; None if all relations are valid.
    """
    datasets = {dataset.name: dataset for _, dataset in owned}
    for owner, dataset in owned:
        for field, name in dataset.relations.items():
            if reason := _relation_error(dataset, field, name, datasets.get(name)):
                return owner, ValueError(f"dataset {dataset.name!r}: relation {field!r}: {reason}")
    return None


def _relation_error(dataset: Dataset, field: str, name: str, other: Dataset | None) -> str | None:
    if other is None:
        return f"there is no dataset {name!r}"
    if other.per_account and not dataset.per_account:
        return f"{name!r} is a dataset of accounts, and what all share cannot refer to it"
    if base_type(field_types(other.item)[other.key]) is not str:
        return f"keys of {name!r} are not of type str"
    annotation = field_types(dataset.item)[field]
    held = typing.get_args(base_type(annotation))[0] if is_sequence(annotation) else annotation
    if base_type(held) is str:
        return None
    return f"expected str, str | None or tuple of str, not {describe_type(annotation)}"


def find_key_problem(key: object) -> str | None:
    """Return why an item of this key cannot be fetched by its URL; None if it can."""
    if not isinstance(key, str):
        return None
    if not key.strip():
        return "is empty"
    if key in {".", ".."}:
        return "cannot be part of a URL: clients resolve it as a relative path (RFC 3986, 5.2.4)"
    size_bytes = len(quote(key, safe=""))
    if size_bytes > KEY_BYTES_MAX:
        return f"takes {size_bytes:,} bytes in a URL, more than {KEY_BYTES_MAX:,}"
    return None


# --- what is published ----------------------------------------------------------------------------------------------


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """The items of one version of a dataset.

    Args:
        dataset: Name of the dataset.
        version: Counts from 1; 0 for an account that has published nothing yet.
        sha256: Of the content, hexadecimal.
        published_at: When this version was published.
        items: Structs of the dataset, in its order.
        size_bytes: Size of the items as JSON.
        fresh_at: When the items were last known to be up to date: confirmed, or published.
        confirmed_at: When an export last found these items unchanged; None for versions that are not current.
        warning: Why the last attempt to publish was refused, if it was.
        account: Whose it is; ``SHARED`` for a dataset that all share.
    """

    dataset: str
    version: int
    sha256: str
    published_at: datetime
    items: tuple[Any, ...]
    size_bytes: int
    fresh_at: datetime
    confirmed_at: datetime | None = None
    warning: str | None = None
    account: int = SHARED


class Version(msgspec.Struct, frozen=True):
    """One version of a dataset, without its items.

    Args:
        version: Counts from 1.
        sha256: Of the content, hexadecimal; versions with equal content have equal hashes.
        published_at: When it was published.
        items: Number of items.
        size_bytes: Size of the items as JSON.
    """

    version: int
    sha256: str
    published_at: datetime
    items: int
    size_bytes: int


class CurrentVersion(msgspec.Struct, frozen=True):
    """The current version of a dataset, without its items, and how the last attempt to publish ended."""

    dataset: str
    version: int
    sha256: str
    published_at: datetime
    size_bytes: int
    item_count: int
    confirmed_at: datetime
    last_outcome: Outcome
    last_reason: str | None


class Rejected(msgspec.Struct, frozen=True):
    """An item that was not published because it is invalid.

    Args:
        index: Its position among the items that were given, from 0.
        reason: What is wrong with it.
        item: The item as it was given.
    """

    index: int
    reason: str
    item: Any


class Publication(msgspec.Struct, frozen=True):
    """One attempt to publish a dataset.

    Args:
        id: Counts over all datasets.
        dataset: Name of the dataset.
        at: When.
        outcome: ``published`` made a version, ``unchanged`` found the current content, ``refused`` left all as it was.
        version: The current version after this attempt; None before the first.
        source: Where the items came from: a job, a command, a file.
        job_id: The job that ran it, if one did.
        items: Number of valid items.
        rejected: Number of items that were rejected.
        reason: Why it was refused.
        details: Further information from the publisher, such as a certificate.
    """

    id: int
    dataset: str
    at: datetime
    outcome: Outcome
    version: int | None
    source: str
    job_id: int | None
    items: int
    rejected: int
    reason: str | None = None
    details: Any = None


class DatasetReport(msgspec.Struct, frozen=True):
    """What became of a dataset, for the report of a job that publishes some.

    Args:
        dataset: Its name.
        outcome: ``published`` a new version; ``unchanged``; ``refused`` keeps the last version.
        version: The current version; None before the first.
        items: Number of valid items.
        rejected: Number of rejected items.
        reason: Why it was refused.
    """

    dataset: str
    outcome: Outcome
    version: int | None
    items: int
    rejected: int
    reason: str | None = None


def report_publications(publications: Mapping[str, Publication]) -> tuple[DatasetReport, ...]:
    """Report what became of datasets, sorted by name."""
    return tuple(
        DatasetReport(each.dataset, each.outcome, each.version, each.items, each.rejected, each.reason)
        for _, each in sorted(publications.items())
    )


class Content(msgspec.Struct, frozen=True):
    """Items as they are stored.

    Args:
        sha256: Of ``data``.
        data: A JSON list, in the dataset's order.
        item_count: Number of items in it.
        rejected: Items that were left out as invalid.
    """

    sha256: bytes
    data: bytes
    item_count: int
    rejected: Sequence[Rejected]


def decode_items(dataset: Dataset, data: bytes) -> tuple[Any, ...]:
    """Decode the data of a content.

    Raises:
        msgspec.ValidationError: The Struct has changed since, in a way that old items do not fit.
    """
    return msgspec.json.decode(data, type=tuple[dataset.item, ...])  # type: ignore[name-defined]
