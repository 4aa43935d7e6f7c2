"""What an application sees of a snapshot: its filters, run once when the snapshot changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from kernel.applications import Applications, filters_of
from kernel.cache import SizedCache
from kernel.contracts import Application, Dataset, Filter
from kernel.datasets.model import Snapshot
from kernel.errors import UnavailableError
from kernel.logging import Logger

_RETRY_AFTER_S = 60
# Of the items that a filter hid, this many are named; all are counted.
HIDDEN_SHOWN_MAX = 100
_REFERENCE_BYTES = 8
_OVERHEAD_BYTES = 1000


class Hidden(msgspec.Struct, frozen=True):
    """What one filter hid.

    Args:
        filter: The key under which the application gave it.
        hidden: How many items.
        keys: Of those items, the first of them.
    """

    filter: str
    hidden: int
    keys: tuple[Any, ...]


class View(msgspec.Struct, frozen=True, eq=False):
    """What an application sees of a snapshot.

    Args:
        snapshot: Of it.
        items: What is left after the filters.
        hidden: What each filter hid.
    """

    snapshot: Snapshot
    items: Sequence[Any]
    hidden: tuple[Hidden, ...] = ()


class _Filtered(msgspec.Struct, frozen=True):
    """What filters made of a content, or why they failed."""

    items: Sequence[Any] = ()
    hidden: tuple[Hidden, ...] = ()
    failure: str | None = None


class Views:
    """Makes views and keeps them.

    Args:
        applications: Every application.
        cache: Holds what filters left.
        log: Hears of filters that raise.
    """

    def __init__(self, applications: Applications, cache: SizedCache, log: Logger) -> None:
        self._applications = applications
        self._cache = cache
        self._log = log
        # By dataset and application, of what serves at the moment.
        self._failures: dict[tuple[str, str], str] = {}
        self._at_work = _AtWork()

    def view(self, dataset: Dataset, snapshot: Snapshot, application: Application | None) -> View:
        """Return what an application sees; None sees everything.

        Raises:
            UnavailableError: A filter of the application raised. Other applications do not notice.
        """
        filters = {} if application is None else filters_of(application, dataset)
        if application is None or not filters:
            return View(snapshot, snapshot.items)
        key = (dataset.name, snapshot.sha256, application.slug)
        filtered = self._cache.get(key)
        if filtered is None:
            # Two requests would do the same work twice.
            with self._at_work.on(key):
                filtered = self._cache.get(key) or self._filter(key, dataset, snapshot, application, filters)
        if filtered.failure is not None:
            raise UnavailableError(filtered.failure, retry_after_s=_RETRY_AFTER_S)
        return View(snapshot, filtered.items, filtered.hidden)

    def prepare(self, dataset: Dataset, snapshot: Snapshot) -> None:
        """Run every application's filters on what serves from now on: few requests wait, and readiness knows."""
        for application in self._applications.all:
            place = (dataset.name, application.slug)
            try:
                self.view(dataset, snapshot, application)
            except UnavailableError as ex:
                self._failures[place] = str(ex.detail)
            else:
                self._failures.pop(place, None)

    def problems(self) -> list[str]:
        """Say which application lost which dataset, and why."""
        return list(self._failures.values())

    def _filter(
        self,
        key: tuple[str, str, str],
        dataset: Dataset,
        snapshot: Snapshot,
        application: Application,
        filters: Mapping[str, Filter],
    ) -> _Filtered:
        try:
            filtered = _apply(dataset, snapshot.items, filters)
        except Exception as ex:
            reason = f"the filter of {application.slug} for {dataset.name} failed: {type(ex).__name__}: {ex}"
            self._log.error("filter_failed", application=application.slug, dataset=dataset.name, exc_info=ex)
            # Kept, too: it is a pure function, and would fail again.
            filtered = _Filtered(failure=reason)
        size_bytes = _OVERHEAD_BYTES + _REFERENCE_BYTES * len(filtered.items)
        self._cache.set(key, filtered, size_bytes, f"view_{application.slug}_{dataset.name}")
        return filtered


class _AtWork:
    """One lock for each piece of work, for as long as somebody does it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[object, tuple[threading.Lock, int]] = {}

    @contextmanager
    def on(self, key: object) -> Iterator[None]:
        with self._lock:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._locks.pop(key)
                if users > 1:
                    self._locks[key] = (lock, users - 1)


def _apply(dataset: Dataset, items: Sequence[Any], filters: Mapping[str, Filter]) -> _Filtered:
    hidden: list[Hidden] = []
    for key, each in filters.items():
        # A list of its own: a filter that sorts or empties what it is given must not change what others see.
        left = tuple(each(list(items)))
        for item in left:
            if not isinstance(item, dataset.item):
                raise TypeError(f"{key} returned {type(item).__name__}, not {dataset.item.__name__}")
        hidden.append(_hidden(dataset, key, items, left))
        items = left
    return _Filtered(items, tuple(hidden))


def _hidden(dataset: Dataset, key: str, before: Sequence[Any], after: Sequence[Any]) -> Hidden:
    left = {getattr(item, dataset.key) for item in after}
    gone = [found for item in before if (found := getattr(item, dataset.key)) not in left]
    return Hidden(key, len(gone), tuple(gone[:HIDDEN_SHOWN_MAX]))
