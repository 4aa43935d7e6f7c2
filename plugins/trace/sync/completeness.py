"""Prove that an export is complete: a second count of every data source, and the report that says what was read.

Notion does not report the number of rows, and a page of results may silently lack some. So each data source is read
twice, with its columns and again for titles alone; a row on which the two disagree is retrieved separately. Nothing is
published unless all of it could be read. An export is refused (``NotionError``) where

- a query cannot be read to its end, or has more rows than can be split (``notion.query``, ``notion.pagination``);
- the two counts of a data source differ by too many rows (``differing_pages``);
- columns or data sources change while they are read, or are not as configured (``sync.reader``);
- a value cannot be read completely (``notion.values``);
- a relation points to a row that is not exported (``sync.relations``).

``trace.jobs`` records the refusal with its reason; the last good version is still served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from kernel.datasets import DatasetReport
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import PageObject, RowScan, ScanWindow, is_live
from plugins.trace.sync.mapping import Row

# Rows that are created, edited or deleted during an export are retrieved one by one; more are not worth the requests.
_DIFFERENCES_MAX = 500


# --- the second count ------------------------------------------------------------------------------------------------


class PageTimes(msgspec.Struct, frozen=True, gc=False):
    """All that a count needs of a page: page objects are large, and there are many."""

    created: datetime
    edited: datetime


def page_times(page: PageObject) -> PageTimes:
    """Return when a page was created and edited last."""
    created, edited = (datetime.fromisoformat(page[name]) for name in ("created_time", "last_edited_time"))
    return PageTimes(created, edited)


def count_pages(scan: RowScan) -> dict[str, PageTimes]:
    """Return the times of all live pages of a scan, by id.

    Raises:
        NotionError: They cannot be read to the end.
    """
    return {page["id"]: page_times(page) for page in scan.rows() if is_live(page)}


def differing_pages(title: str, rows: Mapping[str, Row], counted: Mapping[str, PageTimes]) -> set[str]:
    """Return the ids of pages that only one of two passes found, or found with another time of their last edit.

    Args:
        title: Of the data source.
        rows: From the first pass, by id.
        counted: From the second.

    Raises:
        NotionError: There are too many to retrieve separately.
    """
    differing = {
        *(rows.keys() ^ counted.keys()),
        *(id_ for id_ in rows.keys() & counted.keys() if rows[id_].last_edited_time != counted[id_].edited),
    }
    if len(differing) > _DIFFERENCES_MAX:
        raise NotionError("incomplete", f"two counts of {title} differ by {len(differing):,} rows", retry=True)
    return differing


# --- the report ------------------------------------------------------------------------------------------------------


class WindowReport(msgspec.Struct, frozen=True):
    """A span of creation times, and whether all its rows were read.

    Args:
        start: Rows created from then on; None from the first.
        expected: Rows that the second count found.
        fetched: Rows that were read.
        requests: How many it took.
        cut_off: Whether there were more rows than one query can return.
        parts: Into how many queries a minute with too many rows was split.
        split_by: By which columns.
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
        id: Which one.
        title: For people.
        fingerprint: Of its schema.
        rows: How many it has.
        read: How many of them were read in this export.
        trashed: How many are in the trash or archived, and left out; None if Notion does not list them.
        windows: Where every row was read.
        corrected: How many rows changed during the export and were retrieved again.
        others: How many data sources were among the rows, as in a wiki, and left out.
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
    """What was read from one source of the configuration.

    Args:
        source: Its name, which is that of the dataset.
        mode: Whether every row was read, or those that changed.
        reconciled_at: When every row was read last.
        data_sources: What was read from each.
        rows: How many there are in all.
        missing: How many rows of the last export are gone without being in the trash.
        links: Relations to other rows; every target exists.
        unlinked: Relations to pages in the trash, left out.
        warnings: Problems that did not stop the export.
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


class ExportReport(msgspec.Struct, frozen=True):
    """The result of an export, with the figures that prove that it is complete.

    Args:
        sources: What was read from each source.
        datasets: What was published.
        requests: To Notion, the failed ones included.
        retries: How many of them repeated a failed one.
        received_bytes: As transferred.
        duration_s: From the first request to the last.
    """

    sources: tuple[SourceReport, ...] = ()
    datasets: tuple[DatasetReport, ...] = ()
    requests: int = 0
    retries: int = 0
    received_bytes: int = 0
    duration_s: float = 0.0


def report_windows(
    windows: Sequence[ScanWindow], rows: Iterable[Row], counted: Iterable[PageTimes]
) -> tuple[WindowReport, ...]:
    """Compare what was read with what was counted, window by window."""
    fetched = [row.created_time for row in rows]
    expected = [each.created for each in counted]
    starts = [None if each.start is None else datetime.fromisoformat(each.start) for each in windows]
    ends = [*starts[1:], None]
    return tuple(
        WindowReport(
            start=window.start,
            expected=_count_between(expected, start, end),
            fetched=_count_between(fetched, start, end),
            requests=window.requests,
            cut_off=window.cut_off,
            parts=window.parts,
            split_by=window.split_by,
        )
        for window, start, end in zip(windows, starts, ends, strict=True)
    )


def _count_between(times: Sequence[datetime], start: datetime | None, end: datetime | None) -> int:
    return sum(1 for each in times if (start is None or each >= start) and (end is None or each < end))
