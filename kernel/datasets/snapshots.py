"""The snapshots that one process holds: what serves at the moment, and older ones that were asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from kernel.cache import SizedCache
from kernel.contracts import Dataset
from kernel.datasets import store
from kernel.datasets.content import read_items
from kernel.datasets.model import Head, Snapshot
from kernel.db.pool import Database
from kernel.errors import NotFoundError, UnavailableError

_NOT_PUBLISHED_RETRY_AFTER_S = 30


class _ContentKey(msgspec.Struct, frozen=True):
    """Finds the items of a content among older ones."""

    dataset: str
    sha256: str

    @property
    def name(self) -> str:
        """The name for people."""
        return f"{self.dataset}@{self.sha256[:12]}"


class Snapshots:
    """Reads datasets and keeps what it read.

    What serves at the moment is held for as long as it serves, so that it goes on serving while the database is away.

    Args:
        db: Where they are kept.
        cache: Holds older snapshots.
    """

    def __init__(self, db: Database, cache: SizedCache) -> None:
        self._db = db
        self._cache = cache
        self._datasets: dict[str, Dataset] = {}
        self._current: dict[str, Snapshot] = {}
        self._lock = threading.Lock()
        self._read = False
        # Somebody hears of new versions and calls ``refresh``; else every question asks the database.
        self.is_watched = False

    def install(self, datasets: Iterable[Dataset]) -> None:
        """Take what the plugins registered, in place of what was there."""
        self._datasets = {dataset.name: dataset for dataset in datasets}

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Every dataset by its name."""
        return self._datasets

    def dataset(self, name: str) -> Dataset:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        try:
            return self._datasets[name]
        except KeyError:
            known = ", ".join(sorted(self._datasets)) or "none"
            raise NotFoundError(f"Unknown dataset: {name:.80}", detail=f"datasets: {known}") from None

    def current(self, dataset: str) -> Snapshot:
        """Return what serves at the moment.

        Raises:
            UnavailableError: Nothing was published yet, or it cannot be read.
        """
        if not (self.is_watched and self._read):
            self.refresh()
        try:
            return self._current[dataset]
        except KeyError:
            reason = f"the dataset {dataset!r} has not been published yet"
            raise UnavailableError(reason, retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S) from None

    def as_of(self, dataset: str, as_of: int | datetime) -> Snapshot:
        """Return the snapshot of a version, or the one that served at a time.

        Raises:
            NotFoundError: There is none.
        """
        found = store.find_version(self._db, dataset, as_of)
        if found is None:
            what = f"version {as_of}" if isinstance(as_of, int) else f"version at {as_of.isoformat()}"
            raise NotFoundError(f"{dataset} has no {what}.")
        return self._load(self.dataset(dataset), found)

    def before(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot before another; None if that is the first."""
        found = store.find_version_before(self._db, snapshot.dataset, snapshot.version)
        return None if found is None else self._load(self.dataset(snapshot.dataset), found)

    def refresh(self) -> tuple[Snapshot, ...]:
        """Read what serves at the moment, as far as it changed.

        Returns:
            Snapshots with items that were not there before.

        Raises:
            UnavailableError: The database is not there; what was read before stays.
        """
        with self._lock:
            fresh: list[Snapshot] = []
            current: dict[str, Snapshot] = {}
            for head in store.list_heads(self._db):
                dataset = self._datasets.get(head.dataset)
                if dataset is None:
                    continue
                known = self._current.get(head.dataset)
                if known is not None and known.sha256 == head.sha256:
                    current[head.dataset] = _with_head(known, head)
                    continue
                found = store.Found(head.version, bytes.fromhex(head.sha256), head.published_at)
                current[head.dataset] = _with_head(self._read_one(dataset, found), head)
                fresh.append(current[head.dataset])
            # One assignment: readers see all of it or nothing.
            self._current = current
            self._read = True
            return tuple(fresh)

    def _load(self, dataset: Dataset, found: store.Found) -> Snapshot:
        current = self._current.get(dataset.name)
        if current is not None and current.sha256 == found.sha256.hex():
            return Snapshot(
                dataset.name, found.version, current.sha256, found.published_at, current.items, current.size_bytes
            )
        key = _ContentKey(dataset.name, found.sha256.hex())
        kept = self._cache.get(key)
        if kept is None:
            kept = self._read_one(dataset, found)
            # Structs take a few times the bytes of their JSON.
            self._cache.set(key, kept, 4 * kept.size_bytes + 1000)
        return Snapshot(dataset.name, found.version, kept.sha256, found.published_at, kept.items, kept.size_bytes)

    def _read_one(self, dataset: Dataset, found: store.Found) -> Snapshot:
        try:
            data = store.read_content(self._db, found.sha256)
            items = read_items(dataset, data)
        except LookupError:
            raise UnavailableError(f"{dataset.name} changed while it was read") from None
        except msgspec.ValidationError as ex:
            reason = f"version {found.version} of {dataset.name} does not fit what the plugin expects: {ex}"
            raise UnavailableError(reason, retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S) from ex
        return Snapshot(dataset.name, found.version, found.sha256.hex(), found.published_at, items, len(data))


def _with_head(snapshot: Snapshot, head: Head) -> Snapshot:
    return msgspec.structs.replace(
        snapshot,
        version=head.version,
        published_at=head.published_at,
        confirmed_at=head.confirmed_at,
        warning=head.last_reason if head.last_outcome == "refused" else None,
    )
