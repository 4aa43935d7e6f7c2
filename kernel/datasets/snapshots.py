"""The snapshots that one process holds: what serves at the moment, and older ones that were asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from kernel.cache import SizedCache
from kernel.contracts import Dataset
from kernel.datasets import store
from kernel.datasets.content import read_items
from kernel.datasets.model import Head, Publication, Snapshot
from kernel.db.pool import Database
from kernel.errors import NotFoundError, UnavailableError

_NOT_PUBLISHED_RETRY_AFTER_S = 30
# A request that comes before the first look waits for it this long.
_FIRST_LOOK_S = 5.0
# Attempts to publish that are held of each dataset.
HISTORY_KEPT = 20
# Structs take a few times the bytes of their JSON.
_STRUCTS_PER_JSON = 4


class UnreadableError(UnavailableError):
    """A version does not fit what the plugin expects."""


class _State(msgspec.Struct, frozen=True):
    """What was found at one look."""

    current: Mapping[str, Snapshot]
    before: Mapping[str, Snapshot]
    history: Mapping[str, Sequence[Publication]]
    # By dataset: content that cannot be read, and why.
    unreadable: Mapping[str, tuple[str, str]]


_NOTHING = _State({}, {}, {}, {})


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
        self._wants_before: set[str] = set()
        self._state: _State | None = None
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._failure = "the datasets are being read"
        # Somebody hears of new versions and calls ``refresh``; else every question asks the database.
        self.is_watched = False

    def install(self, datasets: Iterable[Dataset]) -> None:
        """Take what the plugins registered, in place of what was there."""
        self._datasets = {dataset.name: dataset for dataset in datasets}

    def keep_before(self, dataset: str) -> None:
        """Hold the version before the one that serves, too: somebody compares the two."""
        self._wants_before.add(dataset)

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
        state = self._state if self.is_watched else None
        found = (state or self._look()).current.get(dataset)
        if found is None:
            raise self._unavailable(dataset)
        return found

    def together(self, datasets: Sequence[str], as_of: int | datetime | None = None) -> list[Snapshot]:
        """Return snapshots that served together: each was seen beside all the others.

        Args:
            datasets: Which ones.
            as_of: A time, or a version of the first, which then is read with what the others were when it last
                served; what serves at the moment by default.

        Raises:
            NotFoundError: There is no such version, or one of them was not published yet at that time.
            UnavailableError: Nothing was published yet of one of them, or it cannot be read.
        """
        # One state: a new one may come with a publication of several datasets at once.
        state = (self._state if self.is_watched else None) or self._look()
        first, *others = datasets
        current = state.current.get(first)
        if as_of is None or (current is not None and current.version == as_of):
            return [self._serving(state, each) for each in datasets]
        found = self.as_of(first, as_of)
        until = as_of if isinstance(as_of, datetime) else store.find_end(self._db, first, as_of)
        return [found, *(self._serving(state, each) if until is None else self.as_of(each, until) for each in others)]

    def history(self, dataset: str) -> Sequence[Publication]:
        """Return the newest attempts to publish, at most ``HISTORY_KEPT``.

        Raises:
            UnavailableError: They cannot be read.
        """
        state = self._state if self.is_watched else None
        return (state or self._look()).history.get(dataset, ())

    def as_of(self, dataset: str, as_of: int | datetime) -> Snapshot:
        """Return the snapshot of a version, or the one that served at a time.

        Raises:
            NotFoundError: There is none.
        """
        current = self._state.current.get(dataset) if self._state is not None and self.is_watched else None
        if current is not None and as_of == current.version:
            return current
        found = store.find_version(self._db, dataset, as_of)
        if found is None:
            what = f"version {as_of}" if isinstance(as_of, int) else f"version at {as_of.isoformat()}"
            raise NotFoundError(f"{dataset} has no {what}.")
        return self._load(self.dataset(dataset), found)

    def before(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot before another; None if that is the first."""
        state = self._state or _NOTHING
        current = state.current.get(snapshot.dataset)
        if self.is_watched and current is not None and current.version == snapshot.version:
            return state.before.get(snapshot.dataset)
        return self._find_before(snapshot)

    def refresh(self) -> tuple[Snapshot, ...]:
        """Read what serves at the moment, as far as it changed. What was read before stays where that fails.

        Returns:
            Snapshots with items that were not there before.

        Raises:
            UnavailableError: The database is not there.
        """
        with self._lock:
            old = self._state or _NOTHING
            # First, so that whoever sees an attempt here sees what it published.
            history = store.list_histories(self._db, list(self._datasets), HISTORY_KEPT)
            heads = {head.dataset: head for head in store.list_heads(self._db) if head.dataset in self._datasets}
            unreadable: dict[str, tuple[str, str]] = {}
            current: dict[str, Snapshot] = {}
            for name, head in heads.items():
                found = self._advance(old, head, unreadable)
                if found is not None:
                    current[name] = found
            # One assignment: readers see all of it or nothing.
            self._state = _State(current, self._all_before(old, current), history, unreadable)
            self._looked.set()
            return tuple(each for name, each in current.items() if not _is_same(old.current.get(name), each))

    def fail(self, reason: str) -> None:
        """Tell those who wait for the first look that it failed."""
        self._failure = reason
        self._looked.set()

    def problems(self) -> list[str]:
        """Say which version cannot be read, and why."""
        return [reason for _, reason in (self._state or _NOTHING).unreadable.values()]

    def _look(self) -> _State:
        if not self.is_watched:
            self.refresh()
        elif not self._looked.wait(_FIRST_LOOK_S) or self._state is None:
            raise UnavailableError(self._failure)
        return self._state or _NOTHING

    def _serving(self, state: _State, dataset: str) -> Snapshot:
        try:
            return state.current[dataset]
        except KeyError:
            raise self._unavailable(dataset) from None

    def _unavailable(self, dataset: str) -> UnavailableError:
        return UnavailableError(self._reason(dataset), retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S)

    def _reason(self, dataset: str) -> str:
        state = self._state or _NOTHING
        if dataset in state.unreadable:
            return state.unreadable[dataset][1]
        reason = f"the dataset {dataset!r} has not been published yet"
        refused = next((each.reason for each in state.history.get(dataset, ()) if each.reason), None)
        return f"{reason}: {refused}" if refused else reason

    def _advance(self, old: _State, head: Head, unreadable: dict[str, tuple[str, str]]) -> Snapshot | None:
        known = old.current.get(head.dataset)
        if known is not None and known.sha256 == head.sha256:
            return _with_head(known, head)
        failed_on, reason = old.unreadable.get(head.dataset, ("", ""))
        if failed_on != head.sha256:
            try:
                found = store.Found(head.version, bytes.fromhex(head.sha256), head.published_at)
                return _with_head(self._load(self._datasets[head.dataset], found), head)
            except UnreadableError as ex:
                reason = str(ex.detail)
        # That costs this dataset its new version, nobody else anything.
        unreadable[head.dataset] = (head.sha256, reason)
        return None if known is None else msgspec.structs.replace(known, warning=reason)

    def _all_before(self, old: _State, current: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        found: dict[str, Snapshot] = {}
        for name in self._wants_before & current.keys():
            known = old.current.get(name)
            same = known is not None and known.version == current[name].version
            before = old.before.get(name) if same else self._readable_before(current[name])
            if before is not None:
                found[name] = before
        return found

    def _readable_before(self, snapshot: Snapshot) -> Snapshot | None:
        try:
            return self._find_before(snapshot)
        except UnreadableError:
            return None  # older than what the plugin expects now: there is nothing to compare with

    def _find_before(self, snapshot: Snapshot) -> Snapshot | None:
        found = store.find_version_before(self._db, snapshot.dataset, snapshot.version)
        return None if found is None else self._load(self.dataset(snapshot.dataset), found)

    def _load(self, dataset: Dataset, found: store.Found) -> Snapshot:
        sha256 = found.sha256.hex()
        current = (self._state or _NOTHING).current.get(dataset.name)
        if current is not None and current.sha256 == sha256:
            kept = current
        else:
            key = (dataset.name, sha256)
            kept = self._cache.get(key)
            if kept is None:
                kept = self._read(dataset, found)
                self._cache.set(key, kept, _STRUCTS_PER_JSON * kept.size_bytes, f"{dataset.name}@{sha256[:12]}")
        return Snapshot(dataset.name, found.version, sha256, found.published_at, kept.items, kept.size_bytes)

    def _read(self, dataset: Dataset, found: store.Found) -> Snapshot:
        try:
            data = store.read_content(self._db, found.sha256)
            items = read_items(dataset, data)
        except LookupError:
            raise UnavailableError(f"{dataset.name} changed while it was read") from None
        except msgspec.ValidationError as ex:
            reason = f"version {found.version} of {dataset.name} does not fit what the plugin expects: {ex}"
            raise UnreadableError(reason, retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S) from ex
        return Snapshot(dataset.name, found.version, found.sha256.hex(), found.published_at, items, len(data))


def _is_same(one: Snapshot | None, other: Snapshot) -> bool:
    return one is not None and one.sha256 == other.sha256


def _with_head(snapshot: Snapshot, head: Head) -> Snapshot:
    return msgspec.structs.replace(
        snapshot,
        version=head.version,
        published_at=head.published_at,
        confirmed_at=head.confirmed_at,
        warning=head.last_reason if head.last_outcome == "refused" else None,
    )
