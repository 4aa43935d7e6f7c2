"""What there is to know about a dataset: snapshots, versions, publications."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

Outcome = Literal["published", "unchanged", "refused"]


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """The items of a dataset as of one version.

    Args:
        dataset: Its name.
        version: Counts up from 1.
        sha256: Of the content, hexadecimal.
        published_at: When this version was published.
        items: Structs of the dataset, in its order.
        size_bytes: Of the items as JSON.
        confirmed_at: When an export last found this to be so; None for versions that no longer serve.
        warning: Why the last attempt to publish was refused, if it was.
    """

    dataset: str
    version: int
    sha256: str
    published_at: datetime
    items: tuple[Any, ...]
    size_bytes: int
    confirmed_at: datetime | None = None
    warning: str | None = None


class Version(msgspec.Struct, frozen=True):
    """One version of a dataset.

    Args:
        version: Counts up from 1.
        sha256: Of the content, hexadecimal; two versions with the same content have the same.
        published_at: When it began to serve.
        items: How many.
        size_bytes: Of the items as JSON.
    """

    version: int
    sha256: str
    published_at: datetime
    items: int
    size_bytes: int


class Rejected(msgspec.Struct, frozen=True):
    """An item that was kept aside.

    Args:
        index: Its place in what was to be published, from 0.
        reason: What is wrong with it.
        item: As it came.
    """

    index: int
    reason: str
    item: Any


class Publication(msgspec.Struct, frozen=True):
    """One attempt to publish a dataset.

    Args:
        id: Counts up over all datasets.
        dataset: Its name.
        at: When.
        outcome: ``published`` made a version, ``unchanged`` found nothing new, ``refused`` let the last one serve on.
        version: The one that serves after this attempt; None if there is none yet.
        source: Where the items came from: a job, a command, a file.
        job_id: The job that ran it, if one did.
        items: How many were good.
        rejected: How many were kept aside.
        reason: Why it was refused.
        details: What else the publisher had to say, such as a certificate.
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


class Head(msgspec.Struct, frozen=True):
    """What serves at the moment, without its items."""

    dataset: str
    version: int
    sha256: str
    published_at: datetime
    size_bytes: int
    item_count: int
    confirmed_at: datetime
    last_outcome: Outcome
    last_reason: str | None


class Content(msgspec.Struct, frozen=True):
    """Items as they are stored.

    Args:
        sha256: Of ``data``.
        data: A JSON list, in the dataset's order.
        item_count: How many items it holds.
        rejected: Those that are not in it.
    """

    sha256: bytes
    data: bytes
    item_count: int
    rejected: Sequence[Rejected]
