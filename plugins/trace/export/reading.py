"""Read one source: every row, proven by a second count, or what has changed since the last time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from kernel import Dataset
from plugins.trace.export.mapping import Binding, bind, digest
from plugins.trace.export.model import DataSourceReport, Row, SourceReport, WindowReport
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Schema, read_schema
from plugins.trace.notion.walk import Question, Walk, Window
from plugins.trace.settings import Source
from plugins.trace.store import Kept

# Notion rounds times to the minute, and its index may be behind for a moment.
OVERLAP = timedelta(minutes=2)
# Rows that were made, edited or removed while they were read are asked for one by one; more than this cannot settle.
_CORRECTED_MAX = 500
_ROUNDS_MAX = 3
OnProgress = Callable[[str, int], None]


class Reading(msgspec.Struct, frozen=True):
    """A source that was read.

    Args:
        report: How.
        kept: What to keep, when it is published.
    """

    report: SourceReport
    kept: Kept


class SourceReader:
    """Reads a source.

    Args:
        api: Asks Notion.
        dataset: What its rows become.
        source: Its configuration.
        sources: Names of all sources.
        earlier: What was read last.
        on_progress: Told how many rows of which data source there are.
    """

    def __init__(
        self,
        api: NotionApi,
        dataset: Dataset,
        source: Source,
        sources: Sequence[str],
        earlier: Kept | None,
        on_progress: OnProgress,
    ) -> None:
        self._api = api
        self._dataset = dataset
        self._source = source
        self._sources = sources
        self._mapping = digest(source)
        self._earlier = earlier
        self._on_progress = on_progress
        self._warnings: list[str] = []

    def read(self, *, full: bool) -> Reading:
        """Read the source.

        Args:
            full: Every row; else those that have changed, as far as what was read last still holds.

        Raises:
            NotionError: It cannot be read whole.
        """
        earlier = self._earlier
        if full or earlier is None or earlier.mapping != self._mapping:
            earlier = None
        read_at = self._api.now() - OVERLAP
        rows: dict[str, Row] = {}
        schemas: dict[str, Schema] = {}
        reports: dict[str, DataSourceReport] = {}
        for _ in range(_ROUNDS_MAX):
            ids = self._data_sources()
            if not (fresh := [each for each in ids if each not in reports]):
                break
            for each in fresh:
                reports[each], schemas[each], found = self._one(each, earlier)
                rows |= found
        else:
            raise NotionError("changed", "data sources are added faster than they can be read")
        if gone := reports.keys() - set(ids):
            raise NotionError("changed", f"data sources went away while they were read: {', '.join(sorted(gone))}")
        mode: Literal["full", "incremental"] = "full" if earlier is None else "incremental"
        report = SourceReport(
            self._dataset.name, mode, tuple(reports.values()), len(rows), warnings=tuple(dict.fromkeys(self._warnings))
        )
        reconciled_at = read_at if earlier is None else earlier.reconciled_at
        return Reading(report, Kept(self._mapping, tuple(rows.values()), schemas, read_at, reconciled_at))

    def _data_sources(self) -> Sequence[str]:
        ids = list(self._source.data_sources)
        for database_id in self._source.databases:
            ids += [each["id"] for each in self._api.database(database_id)["data_sources"]]
        return list(dict.fromkeys(ids))

    def _one(self, data_source_id: str, earlier: Kept | None) -> tuple[DataSourceReport, Schema, dict[str, Row]]:
        known = None if self._earlier is None else self._earlier.schemas.get(data_source_id)
        schema = read_schema(self._api.data_source(data_source_id))
        binding = self._bind(schema, known)
        reader = _DataSourceReader(self._api, schema, binding, lambda rows: self._on_progress(schema.title, rows))
        before = None if earlier is None else earlier.schemas.get(data_source_id)
        # Columns that are not what they were: every row may say something else.
        if earlier is None or before is None or not self._bind(before, None).same_columns(binding):
            report, rows = reader.full()
        else:
            held = {row.id: row for row in earlier.rows if row.data_source_id == data_source_id}
            report, rows = reader.changes(held, earlier.read_at)
        after = read_schema(self._api.data_source(data_source_id))
        if after.fingerprint != schema.fingerprint and not self._bind(after, schema).same_columns(binding):
            raise NotionError("changed", f"the columns of {schema.title} changed while they were read")
        return report, after, rows

    def _bind(self, schema: Schema, earlier: Schema | None) -> Binding:
        binding = bind(self._dataset, self._source, schema, earlier, self._sources)
        texts = {each: f"{each.field}: {each.property!r} {each.trouble}: {each.detail}" for each in binding.problems}
        if binding.failures:
            raise NotionError("refused", "; ".join(texts[each] for each in binding.failures))
        self._warnings += texts.values()
        return binding


class _DataSourceReader:
    """Reads one data source, under one binding."""

    def __init__(self, api: NotionApi, schema: Schema, binding: Binding, on_page: Callable[[int], None]) -> None:
        self._api = api
        self._schema = schema
        self._binding = binding
        self._on_page = on_page
        self._whole = Question(schema.data_source_id, binding.property_ids)
        # Rows that only need to be known by their ids come with the one column that is never long.
        self._brief = Question(schema.data_source_id, (binding.title.id,))

    def full(self) -> tuple[DataSourceReport, dict[str, Row]]:
        walk = Walk(self._api, self._whole, self._on_page)
        rows = {page["id"]: self._row(page) for page in walk.rows() if _is_live(page)}
        read = len(rows)
        counted = {page["id"]: page for page in Walk(self._api, self._brief).rows() if _is_live(page)}
        corrected = self._correct(rows, counted)
        trashed = sum(1 for _ in Walk(self._api, msgspec.structs.replace(self._brief, in_trash=True)).rows())
        windows = _windows(walk.windows, [row.created_time for row in rows.values()], list(counted.values()))
        report = self._report(rows, read, trashed)
        return msgspec.structs.replace(report, windows=windows, corrected=corrected), rows

    def changes(self, held: Mapping[str, Row], since: datetime) -> tuple[DataSourceReport, dict[str, Row]]:
        """Return the rows that were held, with what has changed since a time."""
        edited = {"along": "last_edited_time", "since": since.isoformat()}
        rows = dict(held)
        changed = Walk(self._api, msgspec.structs.replace(self._whole, **edited), self._on_page)
        read = 0
        for page in changed.rows():
            if _is_live(page):
                rows[page["id"]] = self._row(page)
                read += 1
        gone = Walk(self._api, msgspec.structs.replace(self._brief, in_trash=True, **edited))
        trashed = [rows.pop(page["id"], None) for page in gone.rows()]
        return self._report(rows, read, len(trashed)), rows

    def _correct(self, rows: dict[str, Row], counted: dict[str, Any]) -> int:
        """Read again, one by one, what the count found to be otherwise. Both know the same rows afterwards."""
        differing = {
            *(rows.keys() ^ counted.keys()),
            *(id_ for id_ in rows.keys() & counted.keys() if rows[id_].last_edited_time != _edited(counted[id_])),
        }
        if len(differing) > _CORRECTED_MAX:
            reason = f"two counts of {self._schema.title} differ by {len(differing):,} rows"
            raise NotionError("incomplete", reason, retry=True)
        for page_id in sorted(differing):
            rows.pop(page_id, None)
            counted.pop(page_id, None)
            if (page := self._find(page_id)) is not None:
                rows[page_id] = self._row(page)
                counted[page_id] = page
        return len(differing)

    def _find(self, page_id: str) -> dict[str, Any] | None:
        try:
            page = self._api.page(page_id)
        except NotionError as ex:
            if ex.kind == "missing":
                return None
            raise
        parent = page.get("parent") or {}
        return page if _is_live(page) and parent.get("data_source_id") == self._schema.data_source_id else None

    def _row(self, page: Mapping[str, Any]) -> Row:
        try:
            return self._binding.row(self._schema.data_source_id, page)
        except (ValueError, KeyError, TypeError) as ex:
            raise NotionError("changed", f"{self._schema.title}: {ex}") from ex

    def _report(self, rows: Mapping[str, Row], read: int, trashed: int) -> DataSourceReport:
        schema = self._schema
        return DataSourceReport(schema.data_source_id, schema.title, schema.fingerprint, len(rows), read, trashed)


def _is_live(page: Mapping[str, Any]) -> bool:
    # Version 2026-03-11 says in_trash alone.
    return page["object"] == "page" and not page.get("in_trash") and not page.get("archived")


def _edited(page: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(page["last_edited_time"])


def _windows(
    windows: Sequence[Window], fetched: Sequence[datetime], counted: Sequence[Mapping[str, Any]]
) -> tuple[WindowReport, ...]:
    expected = [datetime.fromisoformat(page["created_time"]) for page in counted]
    starts = [None if each.start is None else datetime.fromisoformat(each.start) for each in windows]
    ends = [*starts[1:], None]
    return tuple(
        WindowReport(
            each.start, _between(expected, start, end), _between(fetched, start, end), each.requests, each.cut_off
        )
        for each, start, end in zip(windows, starts, ends, strict=True)
    )


def _between(times: Sequence[datetime], start: datetime | None, end: datetime | None) -> int:
    return sum(1 for each in times if (start is None or each >= start) and (end is None or each < end))
