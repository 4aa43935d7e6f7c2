"""Read all sources, link their rows, and say how it was done. Imported by those alone who read."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from functools import cache, partial

import msgspec

from kernel import Dataset, Services
from plugins.trace.export.exporting import Exported, Watcher, exported_datasets
from plugins.trace.export.linking import Linked, Linker
from plugins.trace.export.model import Certificate
from plugins.trace.export.reading import DoubtfulError, Reading, SourceReader
from plugins.trace.export.rows import find_page, parent_of
from plugins.trace.notion.connect import connect
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import is_trashed
from plugins.trace.settings import TraceSettings
from plugins.trace.store import find_source, list_moved

_WAIT_STEP_S = 0.5


class Export:
    """One export. Close it.

    Args:
        services: Of this plugin.
        watcher: Hears of progress; may end it.
    """

    def __init__(self, services: Services, watcher: Watcher) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)
        self._watcher = watcher
        self._started_s = time.monotonic()
        self._rows: dict[str, int] = {}
        self._trashed: dict[str, bool] = {}
        self._read_ids: set[str] = set()
        self._api = connect(services, self._wait, watcher.warn)
        self.close = self._api.close
        # Each source asks for the pages that were moved.
        self._find_page = cache(partial(find_page, self._api))

    def read(self, *, full: bool) -> Exported:
        """Read all sources. Raises as ``read_all``."""
        moved = list_moved(self._services.db)
        readings = {each: self._read(each, moved, full=full) for each in exported_datasets(self._settings)}
        for reading in readings.values():
            self._read_ids |= reading.kept.columns.keys()
            self._trashed |= dict.fromkeys(reading.kept.trashed, True)
        linker = Linker({dataset: each.rows for dataset, each in readings.items()}, self._is_trashed)
        linked = {dataset: linker.link(dataset) for dataset in readings}
        kept = {dataset: each.kept for dataset, each in readings.items()}
        return Exported(kept, linked, self._certificate(readings, linked), moved)

    def _read(self, dataset: Dataset, moved: Collection[str], *, full: bool) -> Reading:
        kept = find_source(self._services.db, dataset.name)
        given = (self._api, dataset, self._settings, kept, moved, self._find_page, self._progress)
        try:
            return SourceReader(*given).read(full=full)
        except DoubtfulError:
            return SourceReader(*given).read(full=True)

    def _is_trashed(self, page_id: str) -> bool:
        # Many rows may lead to the same page.
        if page_id not in self._trashed:
            self._trashed[page_id] = self._look(page_id)
        return self._trashed[page_id]

    def _look(self, page_id: str) -> bool:
        try:
            page = self._api.page(page_id)
        except NotionError as ex:
            if ex.kind == "missing":
                return False
            raise
        if is_trashed(page):
            return True
        if parent_of(page) in self._read_ids:
            raise NotionError("changed", f"page {page_id} came while everything else was read", retry=True)
        return False

    def _certificate(self, readings: Mapping[Dataset, Reading], linked: Mapping[Dataset, Linked]) -> Certificate:
        sources = tuple(
            msgspec.structs.replace(each.report, links=linked[dataset].links, unlinked=linked[dataset].unlinked)
            for dataset, each in readings.items()
        )
        duration_s = round(time.monotonic() - self._started_s, 3)
        api = self._api
        return Certificate(sources, (), api.requests, api.retries, api.received_bytes, duration_s)

    def _progress(self, title: str, rows: int) -> None:
        self._rows[title] = rows
        self._watcher.progress(sum(self._rows.values()), f"{title}: {rows:,} rows")

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._watcher.check()
            time.sleep(min(left_s, _WAIT_STEP_S))
        self._watcher.check()
