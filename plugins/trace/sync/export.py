"""Read all sources and resolve their relations: everything that happens before anything is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import cache, partial

import msgspec

from kernel import Dataset, Services
from plugins.trace.notion import connect
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import find_live_page, is_trashed, parent_data_source
from plugins.trace.settings import TraceSettings
from plugins.trace.store import SourceState, find_source, list_moved_pages
from plugins.trace.sync.completeness import ExportReport
from plugins.trace.sync.reader import FullReadRequiredError, SourceReader, SourceRows
from plugins.trace.sync.relations import RelationResolver, ResolvedItems

_SLEEP_STEP_S = 0.5


class ExportMonitor(msgspec.Struct, frozen=True):
    """Follows an export, and may stop it.

    Args:
        check: Called often; raises to stop the export.
        progress: Called with the number of rows so far and a message; may raise as well.
        warn: Called with the reason when a request is retried.
    """

    check: Callable[[], None]
    progress: Callable[[int, str], None]
    warn: Callable[[str], None]


class Export(msgspec.Struct, frozen=True):
    """What was read, complete.

    Args:
        items: By dataset.
        states: By dataset, the state to store when its items are published.
        moved: Pages that were moved before the export, and when.
        report: Without the datasets, which are not published yet.
    """

    items: Mapping[Dataset, ResolvedItems]
    states: Mapping[Dataset, SourceState]
    moved: Mapping[str, datetime]
    report: ExportReport


def read_export(services: Services, monitor: ExportMonitor, *, full: bool) -> Export:
    """Read every source.

    Args:
        services: Of this plugin.
        monitor: Follows the export.
        full: Every row, and not only those that have changed.

    Raises:
        NotionError: A source cannot be read completely, or a relation is broken.
    """
    reader = _ExportReader(services, monitor)
    try:
        return reader.read(full=full)
    finally:
        reader.close()


class _ExportReader:
    def __init__(self, services: Services, monitor: ExportMonitor) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)
        self._monitor = monitor
        self._started_at = time.monotonic()
        self._row_counts: dict[str, int] = {}
        self._trashed: dict[str, bool] = {}
        self._data_source_ids: set[str] = set()
        self._client = connect(services, self._sleep, monitor.warn)
        self.close = self._client.close
        # Every source looks up the pages that were moved.
        self._find_page = cache(partial(find_live_page, self._client))

    def read(self, *, full: bool) -> Export:
        moved = list_moved_pages(self._services.db)
        sources = {each: self._read_source(each, moved, full=full) for each in self._settings.datasets}
        for source in sources.values():
            self._data_source_ids |= source.state.columns.keys()
            self._trashed |= dict.fromkeys(source.state.trashed, True)
        resolver = RelationResolver({dataset: each.rows for dataset, each in sources.items()}, self._is_trashed)
        items = {dataset: resolver.resolve(dataset) for dataset in sources}
        states = {dataset: each.state for dataset, each in sources.items()}
        return Export(items, states, moved, self._report(sources, items))

    def _read_source(self, dataset: Dataset, moved: Collection[str], *, full: bool) -> SourceRows:
        last = find_source(self._services.db, dataset.name)
        arguments = (self._client, dataset, self._settings, last, moved, self._find_page, self._progress)
        try:
            return SourceReader(*arguments).read(full=full)
        except FullReadRequiredError:
            return SourceReader(*arguments).read(full=True)

    def _is_trashed(self, page_id: str) -> bool:
        # Many rows may point to the same page.
        if page_id not in self._trashed:
            self._trashed[page_id] = self._look_up_trashed(page_id)
        return self._trashed[page_id]

    def _look_up_trashed(self, page_id: str) -> bool:
        try:
            page = self._client.retrieve_page(page_id)
        except NotionError as ex:
            if ex.kind == "not_found":
                return False
            raise
        if is_trashed(page):
            return True
        if parent_data_source(page) in self._data_source_ids:
            raise NotionError("changed", f"page {page_id} was added while the sources were read", retry=True)
        return False

    def _report(self, sources: Mapping[Dataset, SourceRows], items: Mapping[Dataset, ResolvedItems]) -> ExportReport:
        return ExportReport(
            sources=tuple(
                msgspec.structs.replace(each.report, links=items[dataset].links, unlinked=items[dataset].unlinked)
                for dataset, each in sources.items()
            ),
            requests=self._client.request_count,
            retries=self._client.retry_count,
            received_bytes=self._client.received_bytes,
            duration_s=round(time.monotonic() - self._started_at, 3),
        )

    def _progress(self, title: str, rows: int) -> None:
        self._row_counts[title] = rows
        self._monitor.progress(sum(self._row_counts.values()), f"{title}: {rows:,} rows")

    def _sleep(self, seconds: float) -> None:
        """Wait in short steps, so that the monitor can stop a long wait."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._monitor.check()
            time.sleep(min(left_s, _SLEEP_STEP_S))
        self._monitor.check()
