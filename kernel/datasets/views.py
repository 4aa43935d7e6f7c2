"""Views: what an application sees of a snapshot. Its filters run once for each content, and the result is cached."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from kernel.applications import Applications, NamedFilter
from kernel.cache import SizedCache
from kernel.contracts import Application, Dataset
from kernel.datasets.accounts import cached_for
from kernel.datasets.models import Snapshot
from kernel.errors import UnavailableError
from kernel.logging import Logger
from kernel.tracking import measure

_RETRY_AFTER_S = 60
# This many hidden items are named; all are counted.
HIDDEN_NAMED_MAX = 100
_REFERENCE_BYTES = 8
_OVERHEAD_BYTES = 1000


class Hidden(msgspec.Struct, frozen=True):
    """What one filter hid.

    Args:
        filter: The key under which the application registered it.
        hidden: Number of items.
        keys: Keys of the first ``HIDDEN_NAMED_MAX`` of them.
    """

    filter: str
    hidden: int
    keys: tuple[Any, ...]


class View(msgspec.Struct, frozen=True, eq=False):
    """What an application sees of a snapshot.

    Args:
        dataset: The dataset.
        snapshot: The snapshot.
        items: Its items after the filters.
        hidden: What each filter hid.
    """

    dataset: Dataset
    snapshot: Snapshot
    items: Sequence[Any]
    hidden: tuple[Hidden, ...] = ()


class _Filtered(msgspec.Struct, frozen=True):
    """What filters made of the items of a content, or why they failed."""

    items: Sequence[Any] = ()
    hidden: tuple[Hidden, ...] = ()
    failure: str | None = None


class Views:
    """Makes and caches the views of one process.

    Args:
        applications: Every application.
        cache: Where filtered items are cached.
        log: Gets filters that raise.
    """

    def __init__(self, applications: Applications, cache: SizedCache, log: Logger) -> None:
        self._applications = applications
        self._cache = cache
        self._log = log
        # By dataset and application, for current versions only.
        self._failures: dict[tuple[str, str], str] = {}
        self._locks = _KeyedLocks()

    def view(self, dataset: Dataset, snapshot: Snapshot, application: Application | None) -> View:
        """Return what an application sees of a snapshot; None sees everything.

        Raises:
            UnavailableError: A filter of the application raised. Other applications are not affected.
        """
        filters = self._applications.filters_for(application, dataset)
        if application is None or not filters:
            return View(dataset, snapshot, snapshot.items)
        key = (dataset.name, snapshot.account, snapshot.sha256, application.slug)
        filtered: _Filtered | None = self._cache.get(key)
        if filtered is None:
            # Of several requests for one view, one filters and the others wait.
            with self._locks.hold(key):
                filtered = self._cache.get(key) or self._filter(dataset, snapshot, application, filters)
                size_bytes = _OVERHEAD_BYTES + _REFERENCE_BYTES * len(filtered.items)
                name = cached_for(f"view_{application.slug}_{dataset.name}", snapshot.account)
                self._cache.set(key, filtered, size_bytes, name)
        if filtered.failure is not None:
            raise UnavailableError(filtered.failure, retry_after_s=_RETRY_AFTER_S)
        return View(dataset, snapshot, filtered.items, filtered.hidden)

    def prepare(self, dataset: Dataset, snapshot: Snapshot) -> None:
        """Make every application's view of a new current version before requests need it, and record failures."""
        for application in self._applications.all:
            key = (dataset.name, application.slug)
            try:
                self.view(dataset, snapshot, application)
            except UnavailableError as ex:
                self._failures[key] = str(ex.detail)
            else:
                self._failures.pop(key, None)

    def problems(self) -> list[str]:
        """Return which filters fail on current versions, and why."""
        return list(self._failures.values())

    def _filter(
        self, dataset: Dataset, snapshot: Snapshot, application: Application, filters: Sequence[NamedFilter]
    ) -> _Filtered:
        try:
            with measure("filters"):
                return apply_filters(dataset, snapshot.items, filters)
        except MemoryError:
            raise  # says nothing about the filter, and must not be cached
        except Exception as ex:
            self._log.error("filter_failed", application=application.slug, dataset=dataset.name, exc_info=ex)
            # Cached like a result: a pure function fails again on the same items.
            reason = f"the filter of {application.slug} for {dataset.name} failed: {type(ex).__name__}: {ex}"
            return _Filtered(failure=reason)


def apply_filters(dataset: Dataset, items: Sequence[Any], filters: Sequence[NamedFilter]) -> _Filtered:
    """Apply an application's filters to items, each to what the one before it left.

    Raises:
        TypeError: A filter returned something else than items of the dataset.
        Exception: Whatever a filter raised.
    """
    hidden: list[Hidden] = []
    for each in filters:
        # A copy: a filter that sorts or clears it must not change what others see.
        left = tuple(each.function(items=list(items)))
        for item in left:
            if not isinstance(item, dataset.item):
                raise TypeError(f"{each.key} returned {type(item).__name__}, not {dataset.item.__name__}")
        keys_left = {getattr(item, dataset.key) for item in left}
        gone = [key for item in items if (key := getattr(item, dataset.key)) not in keys_left]
        hidden.append(Hidden(each.key, len(gone), tuple(gone[:HIDDEN_NAMED_MAX])))
        items = left
    return _Filtered(items, tuple(hidden))


class _KeyedLocks:
    """A lock for each key, for as long as a thread holds or awaits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[object, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, key: object) -> Iterator[None]:
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
