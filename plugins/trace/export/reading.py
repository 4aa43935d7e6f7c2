"""Read one source, of one or more data sources: every row, or what has changed since the last time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import msgspec

from kernel import Dataset
from plugins.trace.export.mapping import Binding, bind, digest
from plugins.trace.export.model import Row, SourceReport
from plugins.trace.export.rows import DataSourceReader, Rows, parent_of
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, Schema, read_schema
from plugins.trace.settings import TraceSettings
from plugins.trace.store import Kept, pack

# Notion rounds times to the minute, and its index may be behind for a moment.
OVERLAP = timedelta(minutes=2)
_ROUNDS_MAX = 3
# Each costs a request: where more are in doubt than this, reading every row is quicker.
DOUBTFUL_MAX = 300
_UNKNOWN_TRASH = "rows in the trash cannot be asked for: what is deleted is found when every row is read"
OnProgress = Callable[[str, int], None]
Raw = Mapping[str, Any]
FindPage = Callable[[str], Raw | None]


class DoubtfulError(Exception):
    """What has changed does not say enough: every row has to be read."""


class Reading(msgspec.Struct, frozen=True):
    """A source that was read.

    Args:
        report: How.
        rows: All of them.
        kept: What to keep, when it is published.
    """

    report: SourceReport
    rows: tuple[Row, ...]
    kept: Kept


class SourceReader:
    """Reads a source. Use it once.

    Args:
        api: Asks Notion.
        dataset: What its rows become.
        settings: Its configuration is among them.
        earlier: What was read last.
        moved: Pages that were moved since.
        find_page: Returns a page; None where it is not there.
        on_progress: Told how many rows of which data source there are.
    """

    def __init__(
        self,
        api: NotionApi,
        dataset: Dataset,
        settings: TraceSettings,
        earlier: Kept | None,
        moved: Collection[str],
        find_page: FindPage,
        on_progress: OnProgress,
    ) -> None:
        self._api = api
        self._dataset = dataset
        self._source = settings.sources[dataset.name]
        self._sources = list(settings.sources)
        # Another version of Notion's API may give the same values otherwise.
        self._mapping = digest(self._source, settings.api_version)
        self._full_after = timedelta(seconds=settings.full_after_s)
        self._earlier = earlier
        self._moved = moved
        self._find_page = find_page
        self._on_progress = on_progress
        self._warnings: list[str] = []
        self._read_at: datetime | None = None
        # What changes can be added to; None if every row has to be read.
        self._base: Kept | None = None
        self._columns: dict[str, Mapping[str, Property]] = {}
        self._readers: dict[str, DataSourceReader] = {}

    def read(self, *, full: bool) -> Reading:
        """Read the source.

        Args:
            full: Every row; else those that have changed, as far as what was read last still holds.

        Raises:
            NotionError: It cannot be read whole.
            DoubtfulError: Not without reading every row.
        """
        if not full and self._earlier is not None and self._earlier.mapping == self._mapping:
            self._base = self._earlier
        found: dict[str, Rows] = {}
        for _ in range(_ROUNDS_MAX):
            ids = self._data_sources()
            if not (fresh := [each for each in ids if each not in found]):
                break
            for each in fresh:
                self._begin_one(each)
            found |= {each: self._finish_one(each) for each in fresh}
        else:
            raise NotionError("changed", "data sources are added faster than they can be read", retry=True)
        if gone := found.keys() - set(ids):
            where = ", ".join(sorted(gone))
            raise NotionError("changed", f"data sources went away while they were read: {where}", retry=True)
        rows = self._join(found)
        if any(each.trashed is None for each in found.values()):
            self._warnings.append(_UNKNOWN_TRASH)
        trashed = frozenset(page_id for each in found.values() for page_id in each.trashed or ())
        missing = self._look_at_others(rows, found, trashed)
        read_at = self._read_at or self._api.now() - OVERLAP
        reconciled_at = read_at if self._base is None else self._base.reconciled_at
        report = self._report(found, rows, missing, reconciled_at)
        joined = tuple(rows.values())
        kept = Kept(self._mapping, pack(joined), tuple(sorted(trashed)), self._columns, read_at, reconciled_at)
        return Reading(report, joined, kept)

    @cached_property
    def _base_rows(self) -> Sequence[Row]:
        return () if self._base is None else self._base.rows

    def _data_sources(self) -> Sequence[str]:
        ids = list(self._source.data_sources)
        for database_id in self._source.databases:
            ids += [each["id"] for each in self._api.database(database_id)["data_sources"]]
        return list(dict.fromkeys(ids))

    def _begin_one(self, data_source_id: str) -> None:
        known = {} if self._earlier is None else self._earlier.columns.get(data_source_id, {})
        schema = read_schema(self._api.data_source(data_source_id))
        self._begin()
        binding = self._bind(schema, known)
        reader = DataSourceReader(self._api, schema, binding, lambda rows: self._on_progress(schema.title, rows))
        self._columns[data_source_id], self._readers[data_source_id] = binding.named, reader
        # A data source that is new, or columns that are not what they were: every row may say something else.
        base = self._base
        if base is None or data_source_id not in base.columns or not binding.same_columns(known):
            reader.begin()
        else:
            held = {row.id: row for row in self._base_rows if row.data_source_id == data_source_id}
            reader.begin(held, base.read_at)

    def _finish_one(self, data_source_id: str) -> Rows:
        reader = self._readers[data_source_id]
        rows = reader.finish()
        if rows.fresh:
            self._refuse_changed(reader.schema, reader.binding)
        return rows

    def _begin(self) -> None:
        """Note when the first row will be read, by Notion's clock: of an answer that came before."""
        if self._read_at is None:
            now = self._api.now()
            self._read_at = now - OVERLAP
            if self._base is not None and not self._holds(self._base, now):
                self._base = None

    def _holds(self, base: Kept, now: datetime) -> bool:
        # By a clock that was ahead, what was edited before it is right again would never be asked for.
        was_ahead = base.read_at > now
        # What leaves no trace, such as a page that was moved away, is found by reading every row alone.
        return not was_ahead and now - OVERLAP - base.reconciled_at <= self._full_after

    def _refuse_changed(self, schema: Schema, binding: Binding) -> None:
        after = read_schema(self._api.data_source(schema.data_source_id))
        if after.fingerprint != schema.fingerprint and not self._bind(after, binding.named).same_columns(binding.named):
            raise NotionError("changed", f"the columns of {schema.title} changed while they were read", retry=True)

    def _bind(self, schema: Schema, earlier: Mapping[str, Property]) -> Binding:
        binding = bind(self._dataset, self._source, schema, earlier, self._sources)
        if binding.failures:
            raise NotionError("refused", f"{self._dataset.name}: {'; '.join(map(str, binding.failures))}")
        self._warnings += map(str, binding.problems)
        return binding

    def _join(self, found: dict[str, Rows]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for each in found.values():
            rows |= each.held
        # A page that was moved is held where it was, and read where it is.
        for each in found.values():
            rows |= each.fresh
        return rows

    def _look_at_others(self, rows: dict[str, Row], found: Mapping[str, Rows], trashed: Collection[str]) -> int:
        """Look at each page by itself that no list tells of; return how many rows are not there any more.

        Rows that were held and did not come, those that were found only once, pages that left the trash, and those
        that Notion says were moved.
        """
        held = set() if self._earlier is None else self._earlier.page_ids(self._readers)
        doubtful = (held - rows.keys()).union(*(each.lost for each in found.values()))
        if self._base is not None:
            doubtful |= {*self._base.trashed, *self._moved}
        doubtful.difference_update(trashed, *(each.fresh for each in found.values()))
        if self._base is not None and len(doubtful) > DOUBTFUL_MAX:
            raise DoubtfulError
        missing = 0
        for page_id in sorted(doubtful):
            rows.pop(page_id, None)
            page = self._find_page(page_id)
            reader = None if page is None else self._readers.get(parent_of(page) or "")
            if page is not None and reader is not None:
                rows[page_id] = reader.row(page)
            elif page_id in held:
                missing += 1
        return missing

    def _report(
        self, found: dict[str, Rows], rows: dict[str, Row], missing: int, reconciled_at: datetime
    ) -> SourceReport:
        mode: Literal["full", "incremental"] = "full" if self._base is None else "incremental"
        counts = dict.fromkeys(found, 0)
        for row in rows.values():
            counts[row.data_source_id] += 1
        return SourceReport(
            source=self._dataset.name,
            mode=mode,
            reconciled_at=reconciled_at,
            data_sources=tuple(msgspec.structs.replace(each.report, rows=counts[id_]) for id_, each in found.items()),
            rows=len(rows),
            missing=missing,
            warnings=tuple(dict.fromkeys(self._warnings)),
        )
