"""The results of fetching a source, its progress, and the errors on the way.

Does not import httpx, so that processes that only read stored results do not either.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from plugins.club.models import Item

FailureKind = Literal[
    "configuration",  # an environment variable is missing or invalid
    "unreachable",
    "timeout",
    "status",
    "redirect",  # a redirect or a next page that may not be followed
    "too-large",
    "cut",  # the connection ended before the response did
    "malformed",  # not JSON, or not the announced encoding
    "content",  # JSON, but not as the source is configured
    "stopped",
    "internal",
]
State = Literal["fetching", "retrying", "fetched", "unchanged", "failed"]


class PageValidator(msgspec.Struct, frozen=True, kw_only=True):
    """The validators of a page, exactly as the server sent them (RFC 9110, 8.8)."""

    url: str
    etag: str | None = None
    last_modified: str | None = None


class Validators(msgspec.Struct, frozen=True, kw_only=True):
    """What conditional requests for a source need. Only useful together with the items they were sent with.

    Args:
        fingerprint: Hash of the source's configuration, without which equal responses may mean other items.
        pages: Every page of the last successful fetch.
    """

    fingerprint: str
    pages: tuple[PageValidator, ...]


class RejectedItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a source that does not fit the mapping, or repeats a key.

    Args:
        index: Position in the source's list, from 0, counted over all pages.
        reason: What is wrong with it.
        raw: The item as the source sent it.
    """

    index: int
    reason: str
    raw: Any


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A source sent its items.

    Args:
        source: Its name.
        items: The valid items; each key once.
        rejected: The invalid ones.
        validators: For conditional requests; None if a page has none.
        pages: Number of pages.
        bytes: Size of all pages, decompressed.
        ms: Duration in milliseconds, waits included.
    """

    source: str
    items: tuple[Item, ...]
    rejected: tuple[RejectedItem, ...]
    validators: Validators | None
    pages: int
    bytes: int
    ms: int


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """A source answered 304 for every page: nothing has changed since the validators were sent."""

    source: str
    validators: Validators
    ms: int


class SourceFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A source could not be fetched.

    Args:
        source: Its name.
        kind: Category of the failure.
        reason: Description. Never contains headers or the query of a URL, which may be secret.
        ms: Duration in milliseconds.
    """

    source: str
    kind: FailureKind
    reason: str
    ms: int


FetchResult = Fetched | Unchanged | SourceFailure


class SourceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of fetching a source.

    Args:
        source: Its name.
        state: What it is doing.
        items: Valid items so far.
        bytes: Bytes so far, decompressed.
        ms: Milliseconds since the start.
        detail: Why it is retried, or why it failed.
    """

    source: str
    state: State
    items: int = 0
    bytes: int = 0
    ms: int = 0
    detail: str | None = None


class FetchError(Exception):
    """A request failed, or its response cannot be used.

    Args:
        kind: Category of the failure.
        reason: Description, without secrets.
        retry: Whether a retry may succeed.
        retry_after_s: Delay that the server asked for, in seconds.
    """

    def __init__(
        self, kind: FailureKind, reason: str, *, retry: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry = retry
        self.retry_after_s = retry_after_s
