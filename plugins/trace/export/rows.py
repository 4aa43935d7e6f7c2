"""Read one data source under one binding: every row, proven by a second count, or what has changed since a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from plugins.trace.export.mapping import Binding
from plugins.trace.export.model import DataSourceReport, Row, WindowReport
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.longvalues import read_whole, witnesses
from plugins.trace.notion.query import Question, is_trashed
from plugins.trace.notion.schema import Schema
from plugins.trace.notion.walk import Walk, Window

# Rows that were made, edited or removed while they were read are asked for one by one; more than this cannot settle.
_CORRECTED_MAX = 500


class Rows(msgspec.Struct, frozen=True):
    """The rows of a data source.

    Args:
        report: How they were read.
        fresh: Those that were read now, by the id of their page.
        held: Those that were read earlier and have not changed.
        trashed: Pages in the trash, and archived ones that came; None if Notion does not tell.
        lost: Those that one reading found and that are not here now: perhaps they were moved.
    """

    report: DataSourceReport
    fresh: Mapping[str, Row]
    held: Mapping[str, Row]
    trashed: Collection[str] | None
    lost: Collection[str]


class DataSourceReader:
    """Reads one data source, under one binding. Use it once.

    Args:
        api: Asks Notion.
        schema: Its columns.
        binding: What is read of them.
        on_page: Told how many rows there are so far.
    """

    def __init__(self, api: NotionApi, schema: Schema, binding: Binding, on_page: Callable[[int], None]) -> None:
        self._api = api
        self.schema = schema
        self.binding = binding
        self._on_page = on_page
        self._put_away: set[str] = set()
        self._columns = (binding.title, *(each.property for each in binding.columns))
        ids = (*binding.property_ids, *witnesses(schema, self._columns))
        self._whole = Question(schema.data_source_id, ids, schema.unique_id)
        # Rows that only need to be known by their ids come with the one column that is never long.
        self._brief = self._counted = Question(schema.data_source_id, (binding.title.id,), schema.unique_id)

    def full(self) -> Rows:
        """Read every row.

        Raises:
            NotionError: They cannot be read, or two counts do not agree.
        """
        self.begin()
        return self.finish()

    def begin(self, held: Mapping[str, Row] | None = None, since: datetime | None = None) -> None:
        """Read the rows for the first time.

        Args:
            held: Every row as of an earlier time; None if there are none.
            since: That time: only what has changed from then on is read. None reads all.

        Raises:
            NotionError: As ``full``.
        """
        self._held = held or {}
        if since is not None:
            edited = {"edited_since": since.isoformat()}
            self._whole = msgspec.structs.replace(self._whole, **edited)
            self._counted = msgspec.structs.replace(self._brief, **edited)
        self._walk = Walk(self._api, self._whole, self._on_page)
        self._found = self._rows(self._walk)

    def finish(self) -> Rows:
        """Prove by a count that these are all. Where there are several data sources, after the first reading of each.

        A row that is moved from one to another is in neither, if one was read to the end before the other was begun.

        Raises:
            NotionError: As ``full``.
        """
        rows, read = self._found, len(self._found)
        counted = _count(Walk(self._api, self._counted))
        corrected = self._correct(rows, counted)
        windows: tuple[WindowReport, ...] = ()
        if self._whole.edited_since is None:
            windows = _windows(self._walk.windows, [row.created_time for row in rows.values()], counted.values())
        # All of it: whether a row counts as edited when it is thrown away, or taken out again, is not documented.
        trashed = self._trashed()
        away = self._put_away - rows.keys()
        if trashed is not None:
            trashed |= away
        thrown_away = trashed or away
        gone = {*thrown_away, *corrected, *rows}
        return Rows(
            report=self._report(read, trashed, windows, corrected),
            fresh={page_id: row for page_id, row in rows.items() if page_id not in thrown_away},
            held={page_id: row for page_id, row in self._held.items() if page_id not in gone},
            trashed=trashed,
            lost=corrected - rows.keys(),
        )

    def row(self, page: Mapping[str, Any]) -> Row:
        """Make a row of a page, with what the page itself does not show.

        Raises:
            NotionError: It does not have what the binding says, or cannot be read whole.
        """
        whole = read_whole(self._api, page, self._columns)
        try:
            return self.binding.row(self.schema.data_source_id, whole)
        except (ValueError, KeyError, TypeError) as ex:
            raise NotionError("changed", f"{self.schema.title}: {ex}") from ex

    def _rows(self, walk: Walk) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for page in walk.rows():
            if not is_live(page):
                # Whether lists leave out what is archived is not documented.
                self._put_away.add(page["id"])
                continue
            try:
                rows[page["id"]] = self.row(page)
            except NotionError as ex:
                # It was deleted before the rest of it was read. If it is there, the count knows of it.
                if ex.kind != "missing":
                    raise
                rows.pop(page["id"], None)
        return rows

    def _trashed(self) -> frozenset[str] | None:
        walk = Walk(self._api, msgspec.structs.replace(self._brief, in_trash=True))
        try:
            return frozenset(page["id"] for page in walk.rows())
        except NotionError as ex:
            # Its client can ask for the trash; whether Notion listens, its reference does not promise.
            if ex.kind != "invalid":
                raise
            return None

    def _correct(self, rows: dict[str, Row], counted: dict[str, _Times]) -> set[str]:
        """Read again, one by one, what the count found to be otherwise. Both know the same rows afterwards."""
        differing = {
            *(rows.keys() ^ counted.keys()),
            *(id_ for id_ in rows.keys() & counted.keys() if rows[id_].last_edited_time != counted[id_].edited),
        }
        if len(differing) > _CORRECTED_MAX:
            reason = f"two counts of {self.schema.title} differ by {len(differing):,} rows"
            raise NotionError("incomplete", reason, retry=True)
        for page_id in sorted(differing):
            rows.pop(page_id, None)
            counted.pop(page_id, None)
            page = find_page(self._api, page_id)
            if page is not None and parent_of(page) == self.schema.data_source_id:
                rows[page_id] = self.row(page)
                counted[page_id] = _times(page)
        return differing

    def _report(
        self, read: int, trashed: Collection[str] | None, windows: tuple[WindowReport, ...], corrected: Collection[str]
    ) -> DataSourceReport:
        schema = self.schema
        return DataSourceReport(
            id=schema.data_source_id,
            title=schema.title,
            fingerprint=schema.fingerprint,
            rows=read,
            read=read,
            trashed=None if trashed is None else len(trashed),
            windows=windows,
            corrected=len(corrected),
            others=self._walk.others,
        )


def is_live(page: Mapping[str, Any]) -> bool:
    """Tell whether a row is a page, and not in the trash."""
    return page["object"] == "page" and not is_trashed(page)


def find_page(api: NotionApi, page_id: str) -> dict[str, Any] | None:
    """Return a page; None if it is in the trash, or is not there at all.

    Raises:
        NotionError: Notion does not answer.
    """
    try:
        page = api.page(page_id)
    except NotionError as ex:
        if ex.kind == "missing":
            return None
        raise
    return page if is_live(page) else None


def parent_of(page: Mapping[str, Any]) -> str | None:
    """Return the data source that a page is a row of."""
    parent: Mapping[str, Any] = page.get("parent") or {}
    return parent.get("data_source_id")


class _Times(msgspec.Struct, frozen=True, gc=False):
    """All that has to be known of a row to count it: pages are large, and there are many."""

    created: datetime
    edited: datetime


def _times(page: Mapping[str, Any]) -> _Times:
    created, edited = (datetime.fromisoformat(page[name]) for name in ("created_time", "last_edited_time"))
    return _Times(created, edited)


def _count(walk: Walk) -> dict[str, _Times]:
    return {page["id"]: _times(page) for page in walk.rows() if is_live(page)}


def _windows(
    windows: Sequence[Window], fetched: Sequence[datetime], counted: Iterable[_Times]
) -> tuple[WindowReport, ...]:
    expected = [each.created for each in counted]
    starts = [None if each.start is None else datetime.fromisoformat(each.start) for each in windows]
    ends = [*starts[1:], None]
    return tuple(
        WindowReport(
            each.start,
            _between(expected, start, end),
            _between(fetched, start, end),
            each.requests,
            each.cut_off,
            each.parts,
            each.split_by,
        )
        for each, start, end in zip(windows, starts, ends, strict=True)
    )


def _between(times: Sequence[datetime], start: datetime | None, end: datetime | None) -> int:
    return sum(1 for each in times if (start is None or each >= start) and (end is None or each < end))
