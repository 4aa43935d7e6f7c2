"""What an application sees of a snapshot: its filters, run once when the snapshot changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kernel.applications import Applications, filters_of
from kernel.cache import SizedCache
from kernel.contracts import Application, Dataset, Filter
from kernel.datasets.model import Snapshot
from kernel.errors import BootError, UnavailableError
from kernel.log import Logger

_RETRY_AFTER_S = 60
# Of the items that a filter hid, this many are named; all are counted.
HIDDEN_SHOWN_MAX = 100


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


class _ViewKey(msgspec.Struct, frozen=True):
    """Finds a view again."""

    dataset: str
    sha256: str
    slug: str

    @property
    def name(self) -> str:
        """The name for people."""
        return f"view_{self.slug}_{self.dataset}"


class _Kept(msgspec.Struct, frozen=True):
    items: Sequence[Any]
    hidden: tuple[Hidden, ...]


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
        # By dataset and application: the content a filter failed on, and why.
        self._failures: dict[tuple[str, str], tuple[str, str]] = {}
        self._lock = threading.Lock()

    def view(self, dataset: Dataset, snapshot: Snapshot, application: Application | None) -> View:
        """Return what an application sees; None sees everything.

        Raises:
            UnavailableError: A filter of the application raised. Other applications do not notice.
        """
        filters = {} if application is None else filters_of(application, dataset)
        if application is None or not filters:
            return View(snapshot, snapshot.items)
        key = _ViewKey(dataset.name, snapshot.sha256, application.slug)
        kept = self._cache.get(key)
        if kept is None:
            # Two requests would do the same work twice.
            with self._lock:
                kept = self._cache.get(key) or self._filter(key, dataset, snapshot, application, filters)
        return View(snapshot, kept.items, kept.hidden)

    def prepare(self, dataset: Dataset, snapshot: Snapshot) -> None:
        """Run every application's filters on a new snapshot, so that no request waits and readiness knows."""
        for application in self._applications.all:
            try:
                self.view(dataset, snapshot, application)
            except UnavailableError:
                continue  # logged, and shown in readiness

    def check(self) -> None:
        """Fail while a filter fails, for readiness.

        Raises:
            BootError: Says which application lost which dataset, and why.
        """
        if self._failures:
            raise BootError("; ".join(reason for _, reason in self._failures.values()))

    def _filter(
        self,
        key: _ViewKey,
        dataset: Dataset,
        snapshot: Snapshot,
        application: Application,
        filters: Mapping[str, Filter],
    ) -> _Kept:
        place = (dataset.name, application.slug)
        failed_on, reason = self._failures.get(place, ("", ""))
        if failed_on == snapshot.sha256:
            raise UnavailableError(reason, retry_after_s=_RETRY_AFTER_S)  # it is a pure function: it would fail again
        try:
            kept = _apply(dataset, snapshot.items, filters)
        except Exception as ex:
            reason = f"the filter of {application.slug} for {dataset.name} failed: {type(ex).__name__}: {ex}"
            self._failures[place] = (snapshot.sha256, reason)
            self._log.error("filter_failed", application=application.slug, dataset=dataset.name, exc_info=ex)
            raise UnavailableError(reason, retry_after_s=_RETRY_AFTER_S) from ex
        self._failures.pop(place, None)
        self._cache.set(key, kept, 1000 + 8 * len(kept.items))
        return kept


def _apply(dataset: Dataset, items: Sequence[Any], filters: Mapping[str, Filter]) -> _Kept:
    hidden: list[Hidden] = []
    for key, each in filters.items():
        # A list of its own: a filter that sorts or empties what it is given must not change what others see.
        left = tuple(each(list(items)))
        for item in left:
            if not isinstance(item, dataset.item):
                raise TypeError(f"{key} returned {type(item).__name__}, not {dataset.item.__name__}")
        hidden.append(_hidden(dataset, key, items, left))
        items = left
    return _Kept(items, tuple(hidden))


def _hidden(dataset: Dataset, key: str, before: Sequence[Any], after: Sequence[Any]) -> Hidden:
    left = {getattr(item, dataset.key) for item in after}
    gone = [found for item in before if (found := getattr(item, dataset.key)) not in left]
    return Hidden(key, len(gone), tuple(gone[:HIDDEN_SHOWN_MAX]))
