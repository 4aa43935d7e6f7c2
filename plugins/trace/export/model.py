"""What an export reads, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

Outcome = Literal["published", "unchanged", "refused"]


class Row(msgspec.Struct, frozen=True):
    """A row of a source, as far as it is mapped.

    Args:
        id: Of its page.
        data_source_id: Where it is.
        created_time: As Notion says, to the minute.
        last_edited_time: The same.
        fields: Of the item; relations hold ids of pages.
        properties: Further ones.
        pages: Fields that hold ids of pages, and not names.
        misfits: Why no item can be made of it.
    """

    id: str
    data_source_id: str
    created_time: datetime
    last_edited_time: datetime
    fields: Mapping[str, Any]
    properties: Mapping[str, Any] = {}
    pages: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()


class WindowReport(msgspec.Struct, frozen=True):
    """A part of a data source, and whether all its rows came.

    Args:
        start: Rows made from then on; None from the first.
        expected: Rows that a count by itself found.
        fetched: Rows that were read.
        requests: Pages it took.
        cut_off: Whether one query could not give them all, and another went on.
        parts: Of a minute that had more rows than a query gives, how many queries gave all of it.
        split_by: What they were told apart by.
    """

    start: str | None
    expected: int
    fetched: int
    requests: int
    cut_off: bool
    parts: int = 1
    split_by: tuple[str, ...] = ()


class DataSourceReport(msgspec.Struct, frozen=True):
    """What was read from one data source.

    Args:
        id: Which.
        title: Of it.
        fingerprint: Of its schema.
        rows: That are in it.
        read: That were read anew.
        trashed: In the trash, or archived: left out; None if Notion does not tell.
        windows: Where every row was read.
        corrected: Rows that were made, edited or removed meanwhile, and read again.
        others: Data sources among the rows, as a wiki has them: left out.
    """

    id: str
    title: str
    fingerprint: str
    rows: int
    read: int
    trashed: int | None
    windows: tuple[WindowReport, ...] = ()
    corrected: int = 0
    others: int = 0


class SourceReport(msgspec.Struct, frozen=True):
    """The certificate of a source.

    Args:
        source: Of the configuration; the dataset that it makes.
        mode: Whether every row was read, or those that changed.
        reconciled_at: When every row was read last.
        data_sources: What was read.
        rows: In all.
        missing: Rows that were there the last time, and were looked for in vain: not those in the trash.
        links: Relations to other rows, all of which are there.
        unlinked: Relations to pages in the trash: left out.
        warnings: What somebody should look at.
    """

    source: str
    mode: Literal["full", "incremental"]
    reconciled_at: datetime
    data_sources: tuple[DataSourceReport, ...]
    rows: int
    missing: int = 0
    links: int = 0
    unlinked: int = 0
    warnings: tuple[str, ...] = ()


class DatasetReport(msgspec.Struct, frozen=True):
    """What became of a dataset.

    Args:
        dataset: Its name.
        outcome: ``published`` made a version, ``unchanged`` found nothing new, ``refused`` let the last one serve on.
        version: The one that serves; None before the first.
        items: How many were published.
        rejected: How many rows were kept aside.
        reason: Why it was refused.
    """

    dataset: str
    outcome: Outcome
    version: int | None
    items: int
    rejected: int
    reason: str | None = None


class Certificate(msgspec.Struct, frozen=True):
    """The result of an export: what proves that it is complete.

    Args:
        sources: One certificate each.
        datasets: What became of them.
        requests: To Notion, the failed ones included.
        retries: How many of them asked again for what had failed.
        received_bytes: Over the wire.
        duration_s: From the first request to the last.
    """

    sources: tuple[SourceReport, ...] = ()
    datasets: tuple[DatasetReport, ...] = ()
    requests: int = 0
    retries: int = 0
    received_bytes: int = 0
    duration_s: float = 0.0
