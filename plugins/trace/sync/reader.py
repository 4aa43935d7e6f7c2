"""Read a source of the configuration: every row of its data sources, or what has changed since the last export.

``SourceReader.read`` is called once for each source. It finds the data sources, makes a ``DataSourceReader`` for each,
which reads its rows and verifies them by a second count, and retrieves separately every page about which lists do not
say enough: rows that disappeared, left the trash or moved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from kernel import Dataset
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import PageObject, RowQuery, RowScan, find_live_page, is_live, parent_data_source
from plugins.trace.notion.schema import Property, Schema, read_schema
from plugins.trace.notion.values import complete_values, truncation_witnesses
from plugins.trace.settings import TraceSettings
from plugins.trace.store import SourceState, pack_rows
from plugins.trace.sync.completeness import (
    DataSourceReport,
    PageTimes,
    SourceReport,
    WindowReport,
    count_pages,
    differing_pages,
    page_times,
    report_windows,
)
from plugins.trace.sync.mapping import ColumnMapping, Row, map_columns, mapping_digest

if TYPE_CHECKING:
    from plugins.trace.notion.client import NotionClient

# Notion rounds times to the minute, and its index may lag behind for a moment.
OVERLAP = timedelta(minutes=2)
# Each lookup costs a request: beyond this, reading every row takes fewer.
LOOKUPS_MAX = 300
_ROUNDS_MAX = 3
_TRASH_NOT_LISTED = "Notion does not list rows in the trash: deleted rows are found only when every row is read"


class FullReadRequiredError(Exception):
    """The changes do not say enough: every row has to be read."""


# --- one data source -------------------------------------------------------------------------------------------------


class DataSourceRows(msgspec.Struct, frozen=True):
    """The rows of a data source.

    Args:
        report: How they were read.
        read: Those that were read now, by the id of their page.
        stored: Those of the last export that have not changed.
        trashed: Ids of pages in the trash, and of archived ones that were listed; None if Notion does not list them.
        unconfirmed: Ids that one pass listed, but that are not in the data source: perhaps they were moved.
    """

    report: DataSourceReport
    read: Mapping[str, Row]
    stored: Mapping[str, Row]
    trashed: Collection[str] | None
    unconfirmed: Collection[str]


class DataSourceReader:
    """Reads one data source under one mapping. Not reusable: call ``read_rows``, then ``verify``.

    Args:
        client: Sends the requests.
        schema: The columns of the data source.
        mapping: Which of them are read.
        on_progress: Called with the number of rows so far.
        published_key: Returns the key under which a page is published, by its id.
    """

    def __init__(
        self,
        client: NotionClient,
        schema: Schema,
        mapping: ColumnMapping,
        on_progress: Callable[[int], None],
        published_key: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._published_key = published_key
        self._client = client
        self.schema = schema
        self.mapping = mapping
        self._on_progress = on_progress
        self._not_live: set[str] = set()
        self._columns = (mapping.title, *(each.property for each in mapping.columns))
        property_ids = (*mapping.property_ids, *truncation_witnesses(schema, self._columns))
        self._row_query = RowQuery(schema.data_source_id, property_ids, schema.unique_id)
        # To count rows or list the trash, ids are enough: request the title alone, which is never long.
        self._id_query = RowQuery(schema.data_source_id, (mapping.title.id,), schema.unique_id)
        self._stored: Mapping[str, Row] = {}
        self._edited_since: str | None = None

    def read_rows(self, stored: Mapping[str, Row] | None = None, since: datetime | None = None) -> None:
        """Read the rows, for the first of two times.

        Args:
            stored: The rows of the last export by id, if only changes are to be read.
            since: The time of that export: only rows that were edited at this time or later are read. None reads all.

        Raises:
            NotionError: They cannot be read completely.
        """
        self._stored = stored or {}
        self._edited_since = None if since is None else since.isoformat()
        self._scan = RowScan(self._client, self._since(self._row_query), self._on_progress)
        self._rows = self._read_scan(self._scan)

    def verify(self) -> DataSourceRows:
        """Count the rows again, and correct what differs. Call it when all data sources of the source were read.

        A row that moves from one data source to another is in neither if one is finished before the other is begun.

        Raises:
            NotionError: The counts differ by too much, or rows cannot be read completely.
        """
        rows, read_count = self._rows, len(self._rows)
        counted = count_pages(RowScan(self._client, self._since(self._id_query)))
        corrected = self._correct(rows, counted)
        windows: tuple[WindowReport, ...] = ()
        if self._edited_since is None:
            windows = report_windows(self._scan.windows, rows.values(), counted.values())
        # The whole trash: it is not documented whether moving a row into it or out of it counts as an edit.
        trash = self._list_trash()
        not_live = self._not_live - rows.keys()
        trashed = None if trash is None else trash | not_live
        excluded = trashed or not_live
        gone = {*excluded, *corrected, *rows}
        return DataSourceRows(
            report=DataSourceReport(
                id=self.schema.data_source_id,
                title=self.schema.title,
                fingerprint=self.schema.fingerprint,
                rows=read_count,
                read=read_count,
                trashed=None if trashed is None else len(trashed),
                windows=windows,
                corrected=len(corrected),
                others=self._scan.nested_data_sources,
            ),
            read={page_id: row for page_id, row in rows.items() if page_id not in excluded},
            stored={page_id: row for page_id, row in self._stored.items() if page_id not in gone},
            trashed=trashed,
            unconfirmed=corrected - rows.keys(),
        )

    def read_page(self, page: PageObject) -> Row:
        """Convert a page object to a row; retrieve the values that it shows only in part.

        Raises:
            NotionError: A value cannot be read, or the columns are not those of the mapping.
        """
        complete = complete_values(self._client, page, self._columns)
        try:
            return self.mapping.make_row(self.schema.data_source_id, complete, self._published_key)
        except (ValueError, KeyError, TypeError) as ex:
            raise NotionError("changed", f"{self.schema.title}: {ex}") from ex

    def _since(self, query: RowQuery) -> RowQuery:
        return msgspec.structs.replace(query, edited_since=self._edited_since)

    def _read_scan(self, scan: RowScan) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for page in scan.rows():
            if not is_live(page):
                # It is not documented whether queries leave out archived pages.
                self._not_live.add(page["id"])
                continue
            try:
                rows[page["id"]] = self.read_page(page)
            except NotionError as ex:
                # Deleted before its long values were retrieved. If it still exists, the second count will list it.
                if ex.kind != "not_found":
                    raise
                rows.pop(page["id"], None)
        return rows

    def _correct(self, rows: dict[str, Row], counted: dict[str, PageTimes]) -> set[str]:
        """Retrieve the pages on which rows and count differ; update both. Return the ids of those pages."""
        differing = differing_pages(self.schema.title, rows, counted)
        for page_id in sorted(differing):
            rows.pop(page_id, None)
            counted.pop(page_id, None)
            page = find_live_page(self._client, page_id)
            if page is not None and parent_data_source(page) == self.schema.data_source_id:
                rows[page_id] = self.read_page(page)
                counted[page_id] = page_times(page)
        return differing

    def _list_trash(self) -> frozenset[str] | None:
        """Return the ids of the rows in the trash; None if Notion does not list them."""
        scan = RowScan(self._client, msgspec.structs.replace(self._id_query, in_trash=True))
        try:
            return frozenset(page["id"] for page in scan.rows())
        except NotionError as ex:
            # The SDK accepts in_trash; the API reference does not promise that Notion heeds it.
            if ex.kind != "invalid":
                raise
            return None


# --- one source ------------------------------------------------------------------------------------------------------


class SourceRows(msgspec.Struct, frozen=True):
    """The rows of a source.

    Args:
        report: How they were read.
        rows: All of them.
        state: What to store when they are published.
    """

    report: SourceReport
    rows: tuple[Row, ...]
    state: SourceState


class SourceReader:
    """Reads one source. Not reusable.

    Args:
        client: Sends the requests.
        dataset: What its rows become.
        settings: Of the plugin.
        last: The state of the source as of its last export, if there was one.
        moved: Ids of pages that were moved since, from webhooks.
        find_page: Returns a live page by its id, or None.
        on_progress: Called with the title of a data source and the number of its rows so far.
    """

    def __init__(
        self,
        client: NotionClient,
        dataset: Dataset,
        settings: TraceSettings,
        last: SourceState | None,
        moved: Collection[str],
        find_page: Callable[[str], PageObject | None],
        on_progress: Callable[[str, int], None],
    ) -> None:
        self._client = client
        self._dataset = dataset
        self._source = settings.sources[dataset.name]
        self._source_names = list(settings.sources)
        # Another version of Notion's API may return the same values in another form.
        self._mapping_digest = mapping_digest(self._source, settings.api_version)
        self._full_after = timedelta(seconds=settings.full_after_s)
        self._last = last
        self._moved = moved
        self._find_page = find_page
        self._on_progress = on_progress
        self._warnings: list[str] = []
        self._read_at: datetime | None = None
        # The state that changes are added to; None if every row has to be read.
        self._base: SourceState | None = None
        self._columns: dict[str, Mapping[str, Property]] = {}
        self._readers: dict[str, DataSourceReader] = {}

    def read(self, *, full: bool) -> SourceRows:
        """Read the source.

        Args:
            full: Every row; else those that have changed, as far as the last state is still valid.

        Raises:
            NotionError: It cannot be read completely.
            FullReadRequiredError: Not from changes alone.
        """
        if not full and self._last is not None and self._last.mapping_digest == self._mapping_digest:
            self._base = self._last
        read = self._read_data_sources()
        rows = self._merge(read)
        if any(each.trashed is None for each in read.values()):
            self._warnings.append(_TRASH_NOT_LISTED)
        trashed = frozenset(page_id for each in read.values() for page_id in each.trashed or ())
        missing = self._look_up_unlisted(rows, read, trashed)
        read_at = self._read_at or self._client.now() - OVERLAP
        reconciled_at = read_at if self._base is None else self._base.reconciled_at
        merged = tuple(rows.values())
        state = SourceState(
            mapping_digest=self._mapping_digest,
            chunks=pack_rows(merged),
            trashed=tuple(sorted(trashed)),
            columns=self._columns,
            read_at=read_at,
            reconciled_at=reconciled_at,
        )
        return SourceRows(self._report(read, rows, missing, reconciled_at), merged, state)

    @cached_property
    def _published_keys(self) -> Mapping[str, str]:
        return {} if self._last is None else self._last.published_keys(self._dataset.key)

    @cached_property
    def _base_rows(self) -> Sequence[Row]:
        return () if self._base is None else self._base.rows

    def _read_data_sources(self) -> dict[str, DataSourceRows]:
        """Read every data source by its id; again for those that are added meanwhile."""
        read: dict[str, DataSourceRows] = {}
        for _ in range(_ROUNDS_MAX):
            ids = self._list_data_sources()
            if not (unread := [each for each in ids if each not in read]):
                break
            for each in unread:
                self._read_data_source(each)
            read |= {each: self._verify_data_source(each) for each in unread}
        else:
            raise NotionError("changed", "data sources are added faster than they can be read", retry=True)
        if removed := read.keys() - set(ids):
            names = ", ".join(sorted(removed))
            raise NotionError("changed", f"data sources were removed while they were read: {names}", retry=True)
        return read

    def _list_data_sources(self) -> Sequence[str]:
        ids = list(self._source.data_sources)
        for database_id in self._source.databases:
            ids += [each["id"] for each in self._client.retrieve_database(database_id)["data_sources"]]
        return list(dict.fromkeys(ids))

    def _read_data_source(self, data_source_id: str) -> None:
        last_columns = {} if self._last is None else self._last.columns.get(data_source_id, {})
        schema = read_schema(self._client.retrieve_data_source(data_source_id))
        self._note_start()
        mapping = self._map_columns(schema, last_columns)
        reader = DataSourceReader(
            self._client,
            schema,
            mapping,
            lambda rows: self._on_progress(schema.title, rows),
            lambda page_id: self._published_keys.get(page_id),
        )
        self._columns[data_source_id], self._readers[data_source_id] = mapping.by_name, reader
        # If the data source is new, or its columns are not what they were, any row may have other values.
        base = self._base
        if base is None or data_source_id not in base.columns or not mapping.is_compatible(last_columns):
            reader.read_rows()
        else:
            stored = {row.id: row for row in self._base_rows if row.data_source_id == data_source_id}
            reader.read_rows(stored, base.read_at)

    def _verify_data_source(self, data_source_id: str) -> DataSourceRows:
        reader = self._readers[data_source_id]
        rows = reader.verify()
        if rows.read:
            self._ensure_columns_unchanged(reader.schema, reader.mapping)
        return rows

    def _note_start(self) -> None:
        """Note, by Notion's clock, a time before the first row is read; drop the base if it is not valid then."""
        if self._read_at is None:
            now = self._client.now()
            self._read_at = now - OVERLAP
            if self._base is not None and not self._is_valid(self._base, now):
                self._base = None

    def _is_valid(self, base: SourceState, now: datetime) -> bool:
        # If Notion's clock was ahead, edits made until it is right again would never be requested.
        was_ahead = base.read_at > now
        # What leaves no trace, such as a page that was moved away, is only found by reading every row.
        return not was_ahead and now - OVERLAP - base.reconciled_at <= self._full_after

    def _ensure_columns_unchanged(self, schema: Schema, mapping: ColumnMapping) -> None:
        after = read_schema(self._client.retrieve_data_source(schema.data_source_id))
        if after.fingerprint == schema.fingerprint:
            return
        if not self._map_columns(after, mapping.by_name).is_compatible(mapping.by_name):
            raise NotionError("changed", f"the columns of {schema.title} changed while they were read", retry=True)

    def _map_columns(self, schema: Schema, earlier: Mapping[str, Property]) -> ColumnMapping:
        mapping = map_columns(self._dataset, self._source, schema, earlier, self._source_names)
        if mapping.errors:
            raise NotionError("refused", f"{self._dataset.name}: {'; '.join(map(str, mapping.errors))}")
        self._warnings += map(str, mapping.problems)
        return mapping

    def _merge(self, read: Mapping[str, DataSourceRows]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for each in read.values():
            rows |= each.stored
        # Last: a page that was moved is stored under its old data source, and read from its new one.
        for each in read.values():
            rows |= each.read
        return rows

    def _look_up_unlisted(
        self, rows: dict[str, Row], read: Mapping[str, DataSourceRows], trashed: Collection[str]
    ) -> int:
        """Retrieve each page about which no list says enough; return how many rows of the last export are missing.

        These are rows of the last export that were not listed, rows that only one pass listed, pages that left the
        trash, and pages that Notion reported as moved.
        """
        stored_ids = set() if self._last is None else self._last.page_ids(self._readers)
        unlisted = (stored_ids - rows.keys()).union(*(each.unconfirmed for each in read.values()))
        if self._base is not None:
            unlisted |= {*self._base.trashed, *self._moved}
        unlisted.difference_update(trashed, *(each.read for each in read.values()))
        if self._base is not None and len(unlisted) > LOOKUPS_MAX:
            raise FullReadRequiredError
        missing = 0
        for page_id in sorted(unlisted):
            rows.pop(page_id, None)
            page = self._find_page(page_id)
            reader = None if page is None else self._readers.get(parent_data_source(page) or "")
            if page is not None and reader is not None:
                rows[page_id] = reader.read_page(page)
            elif page_id in stored_ids:
                missing += 1
        return missing

    def _report(
        self, read: Mapping[str, DataSourceRows], rows: Mapping[str, Row], missing: int, reconciled_at: datetime
    ) -> SourceReport:
        counts = dict.fromkeys(read, 0)
        for row in rows.values():
            counts[row.data_source_id] += 1
        return SourceReport(
            source=self._dataset.name,
            mode="full" if self._base is None else "incremental",
            reconciled_at=reconciled_at,
            data_sources=tuple(msgspec.structs.replace(each.report, rows=counts[id_]) for id_, each in read.items()),
            rows=len(rows),
            missing=missing,
            warnings=tuple(dict.fromkeys(self._warnings)),
        )
