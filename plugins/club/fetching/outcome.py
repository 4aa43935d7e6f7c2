"""What becomes of a source."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from plugins.club.model import Item

FailureKind = Literal[
    "configuration",  # an environment variable is missing
    "unreachable",
    "timeout",
    "status",
    "redirect",
    "too-large",
    "cut",  # the connection ended before the answer did
    "malformed",  # no JSON
    "content",  # JSON, but not what the configuration expects
    "stopped",
    "internal",
]
State = Literal["fetching", "retrying", "fetched", "unchanged", "failed"]


class PageValidator(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of the version of a page, as it said it."""

    url: str
    etag: str | None = None
    last_modified: str | None = None


class Validators(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask with whether a source has changed. Keep it with the items it came with, and give both up together.

    Args:
        fingerprint: Of the source's configuration; if that has changed, so may the items of the same bytes.
        pages: Every page of the last good answer.
    """

    fingerprint: str
    pages: tuple[PageValidator, ...]


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An item that is not what the mapping expects.

    Args:
        index: Its place in the source's list, from 0, counted over all pages.
        reason: For people.
        raw: As it came.
    """

    index: int
    reason: str
    raw: Any


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A source answered.

    Args:
        source: Its name.
        items: The good ones, no key twice.
        rejected: The others.
        validators: For the next time; None if the source gives none for every page.
        pages: How many there were.
        bytes: What was read, decompressed.
        ms: How long it took, waits and all.
    """

    source: str
    items: tuple[Item, ...]
    rejected: tuple[Rejected, ...]
    validators: Validators | None
    pages: int
    bytes: int
    ms: int


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """A source says that nothing has changed since the answer that the validators came with."""

    source: str
    validators: Validators
    ms: int


class SourceFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A source could not be fetched.

    Args:
        source: Its name.
        kind: For programs.
        reason: For people. Holds no header and no query of a URL: there may be secrets in them.
        ms: How long it took to find out.
    """

    source: str
    kind: FailureKind
    reason: str
    ms: int


Outcome = Fetched | Unchanged | SourceFailure


class SourceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a source is.

    Args:
        source: Its name.
        state: What it is at.
        items: Good ones so far.
        bytes: Read so far, decompressed.
        ms: Since the start.
        detail: Why it is tried again, or has failed.
    """

    source: str
    state: State
    items: int = 0
    bytes: int = 0
    ms: int = 0
    detail: str | None = None


class FetchError(Exception):
    """A request, or its source, failed.

    Args:
        kind: For programs.
        reason: For people.
        retry: Whether another try may help.
        retry_after_s: What the server asked for.
    """

    def __init__(
        self, kind: FailureKind, reason: str, *, retry: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry = retry
        self.retry_after_s = retry_after_s
