"""The snapshots that one process holds: the current version of every dataset, and older ones that were asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel.cache import SizedCache
from kernel.contracts import Dataset
from kernel.datasets import store
from kernel.datasets.accounts import AccountVersions, cached_for
from kernel.datasets.models import SHARED, CurrentVersion, Publication, Snapshot, decode_items
from kernel.db.pool import Database
from kernel.errors import NotFoundError, UnavailableError

_NOT_PUBLISHED_RETRY_AFTER_S = 30
# A request that comes before the first refresh waits for it this long.
_FIRST_REFRESH_TIMEOUT_S = 5.0
# Attempts to publish that are held of each dataset.
HISTORY_HELD = 20
# Structs take a few times the bytes of their JSON.
_STRUCT_BYTES_PER_JSON_BYTE = 4


class UnreadableError(UnavailableError):
    """A version does not fit what the plugin expects."""


class _State(msgspec.Struct, frozen=True):
    """What one refresh read; replaced as a whole.

    Args:
        current: The current snapshot, by dataset.
        previous: The snapshot before it, for datasets whose previous version is held.
        history: The newest attempts to publish, by dataset.
        unreadable: Hash of the content that cannot be read and why, by dataset.
    """

    current: Mapping[str, Snapshot]
    previous: Mapping[str, Snapshot]
    history: Mapping[str, Sequence[Publication]]
    unreadable: Mapping[str, tuple[str, str]]


_EMPTY = _State({}, {}, {}, {})


class Snapshots:
    """Reads snapshots and holds them in memory.

    Current snapshots that all accounts share are never evicted, so that they are served while the database is
    unavailable. Methods that take an account take the one that ``account_of`` returns for the dataset.

    Args:
        db: Where they are stored.
        cache: Where older snapshots are cached, and those of accounts.
        accounts: What is current for accounts.
        now: Returns the time.
    """

    def __init__(self, db: Database, cache: SizedCache, accounts: AccountVersions, now: Callable[[], datetime]) -> None:
        self._db = db
        self._cache = cache
        self._accounts = accounts
        self._now = now
        self._datasets: dict[str, Dataset] = {}
        self._with_previous: set[str] = set()
        self._state: _State | None = None
        self._lock = threading.Lock()
        self._first_refresh = threading.Event()
        self._failure = "the datasets are being read"
        # Whether the listener calls ``refresh`` for new versions. If not, every read queries the database.
        self.is_refreshed = False

    def install(self, datasets: Iterable[Dataset]) -> None:
        """Install the datasets that the plugins registered, in place of those that were installed."""
        self._datasets = {dataset.name: dataset for dataset in datasets}

    def hold_previous(self, dataset: str) -> None:
        """Hold the version before the current one as well, because a derivation reads both."""
        self._with_previous.add(dataset)

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

    # --- reading ----------------------------------------------------------------------------------------------------

    def current(self, dataset: str, account: int = SHARED) -> Snapshot:
        """Return the current snapshot of a dataset. That of an account which has published nothing is empty.

        Raises:
            UnavailableError: Nothing was published yet, or it cannot be read.
        """
        if account != SHARED:
            return self._current_of(account, dataset, self._versions_of(account))
        # Every request calls this, so the common case makes no further call.
        state = (self._state if self.is_refreshed else None) or self._get_state()
        snapshot = state.current.get(dataset)
        if snapshot is None:
            raise _unavailable(state, dataset)
        return snapshot

    def _versions_of(self, account: int) -> Mapping[str, CurrentVersion]:
        return self._accounts.current(account, is_refreshed=self.is_refreshed)

    def _current_of(self, account: int, dataset: str, versions: Mapping[str, CurrentVersion]) -> Snapshot:
        version = versions.get(dataset)
        if version is None:
            now = self._now()
            return Snapshot(dataset, 0, "", now, (), 0, now, account=account)
        stored = store.StoredVersion(version.version, bytes.fromhex(version.sha256), version.published_at)
        return _with_current(self._load(self.dataset(dataset), account, stored), version)

    def as_of(self, dataset: str, as_of: int | datetime, account: int = SHARED) -> Snapshot:
        """Return the snapshot of a version, or the one that was current at a time.

        Raises:
            NotFoundError: There is none.
        """
        state = self._state if account == SHARED and self.is_refreshed else None
        current = None if state is None else state.current.get(dataset)
        if current is not None and as_of == current.version:
            return current
        found = store.find_version(self._db, dataset, account, as_of)
        if found is None:
            what = f"version {as_of}" if isinstance(as_of, int) else f"version at {as_of.isoformat()}"
            raise NotFoundError(f"{dataset} has no {what}.")
        return self._load(self.dataset(dataset), account, found)

    def at_same_time(
        self, datasets: Sequence[str], as_of: int | datetime | None = None, account: int = SHARED
    ) -> list[Snapshot]:
        """Return snapshots of several datasets that were all current at the same time.

        Args:
            datasets: Names of the datasets.
            account: Whose versions are read of those that are datasets of accounts.
            as_of: A time, or a version of the first dataset, meaning the last time it was current; now by
                default.

        Raises:
            NotFoundError: There is no such version, or a dataset was not published yet at that time.
            UnavailableError: A dataset was never published, or cannot be read.
        """
        first, *others = datasets
        owners = {each: account if self.dataset(each).per_account else SHARED for each in datasets}
        if as_of is not None and not others:
            return [self.as_of(first, as_of, owners[first])]
        # All from one state, because a publication of several datasets may replace it meanwhile.
        state = self._get_state()
        versions = {} if account == SHARED else self._versions_of(account)

        def current(dataset: str) -> Snapshot:
            if owners[dataset] == SHARED:
                return _current_in(state, dataset)
            return self._current_of(account, dataset, versions)

        if as_of is None:
            return [current(each) for each in datasets]
        known = state.current.get(first) if owners[first] == SHARED else versions.get(first)
        if known is not None and known.version == as_of:
            return [current(each) for each in datasets]
        found = self.as_of(first, as_of, owners[first])
        time: datetime | None
        if isinstance(as_of, datetime):
            time = as_of
        else:
            time = store.find_last_time_current(self._db, first, owners[first], as_of)
        return [found, *(current(each) if time is None else self.as_of(each, time, owners[each]) for each in others)]

    def previous(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot before another, of the same account; None if that is the first."""
        if snapshot.account != SHARED:
            return self._find_previous(snapshot)
        state = self._state or _EMPTY
        current = state.current.get(snapshot.dataset)
        if self.is_refreshed and current is not None and current.version == snapshot.version:
            return state.previous.get(snapshot.dataset)
        return self._find_previous(snapshot)

    def history(self, dataset: str, account: int = SHARED) -> Sequence[Publication]:
        """Return the newest attempts to publish, at most ``HISTORY_HELD``.

        Raises:
            UnavailableError: They cannot be read.
        """
        if account != SHARED:
            return store.list_publications(self._db, dataset, account, HISTORY_HELD)
        return self._get_state().history.get(dataset, ())

    def problems(self) -> list[str]:
        """Return which versions cannot be read, and why."""
        return [reason for _, reason in (self._state or _EMPTY).unreadable.values()]

    def _get_state(self) -> _State:
        if self.is_refreshed:
            if self._state is None and (not self._first_refresh.wait(_FIRST_REFRESH_TIMEOUT_S) or self._state is None):
                raise UnavailableError(self._failure)
        else:
            self.refresh()
        return self._state or _EMPTY

    # --- refreshing -------------------------------------------------------------------------------------------------

    def refresh(self) -> tuple[Snapshot, ...]:
        """Read the current versions that all share, as far as they changed. What was read stays if that fails.

        Returns:
            Current snapshots with other items than before.

        Raises:
            UnavailableError: The database is not available.
        """
        with self._lock:
            old = self._state or _EMPTY
            # Before the versions, so that a version is current once its attempt is in the history.
            shared = {name for name, dataset in self._datasets.items() if not dataset.per_account}
            history = store.list_histories(self._db, list(shared), SHARED, HISTORY_HELD)
            unreadable: dict[str, tuple[str, str]] = {}
            current: dict[str, Snapshot] = {}
            for version in store.list_current_versions(self._db, SHARED):
                if version.dataset in shared:
                    snapshot = self._advance(old, version, unreadable)
                    if snapshot is not None:
                        current[version.dataset] = snapshot
            # One assignment: readers see the whole new state or the whole old one.
            self._state = _State(current, self._read_previous(old, current), history, unreadable)
            self._first_refresh.set()
            return tuple(each for name, each in current.items() if not _has_same_items(old.current.get(name), each))

    def report_failure(self, reason: str) -> None:
        """Report to readers that wait for the first refresh why it failed."""
        self._failure = reason
        self._first_refresh.set()

    def _advance(self, old: _State, version: CurrentVersion, unreadable: dict[str, tuple[str, str]]) -> Snapshot | None:
        known = old.current.get(version.dataset)
        if known is not None and known.sha256 == version.sha256:
            return _with_current(known, version)
        failed_on, reason = old.unreadable.get(version.dataset, ("", ""))
        if failed_on != version.sha256:
            try:
                stored = store.StoredVersion(version.version, bytes.fromhex(version.sha256), version.published_at)
                return _with_current(self._load(self._datasets[version.dataset], SHARED, stored), version)
            except UnreadableError as ex:
                reason = str(ex.detail)
        # The version that can be read stays current; other datasets are not affected.
        unreadable[version.dataset] = (version.sha256, reason)
        return None if known is None else msgspec.structs.replace(known, warning=reason)

    def _read_previous(self, old: _State, current: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        found: dict[str, Snapshot] = {}
        for name in self._with_previous & current.keys():
            known = old.current.get(name)
            if known is not None and known.version == current[name].version:
                previous = old.previous.get(name)
            else:
                try:
                    previous = self._find_previous(current[name])
                except UnreadableError:
                    previous = None  # It is of an older form of the Struct: there is nothing to compare with.
            if previous is not None:
                found[name] = previous
        return found

    # --- loading ----------------------------------------------------------------------------------------------------

    def _find_previous(self, snapshot: Snapshot) -> Snapshot | None:
        found = store.find_version_before(self._db, snapshot.dataset, snapshot.account, snapshot.version)
        return None if found is None else self._load(self.dataset(snapshot.dataset), snapshot.account, found)

    def _load(self, dataset: Dataset, account: int, version: store.StoredVersion) -> Snapshot:
        sha256 = version.sha256.hex()
        loaded = (self._state or _EMPTY).current.get(dataset.name) if account == SHARED else None
        if loaded is None or loaded.sha256 != sha256:
            key = (dataset.name, account, sha256)
            loaded = self._cache.get(key)
            if loaded is None:
                loaded = self._read(dataset, account, version)
                size_bytes = _STRUCT_BYTES_PER_JSON_BYTE * loaded.size_bytes
                self._cache.set(key, loaded, size_bytes, f"{cached_for(dataset.name, account)}@{sha256[:12]}")
        return _make_snapshot(dataset, account, version, loaded.items, loaded.size_bytes)

    def _read(self, dataset: Dataset, account: int, version: store.StoredVersion) -> Snapshot:
        try:
            data = store.read_content(self._db, account, version.sha256)
            items = decode_items(dataset, data)
        except LookupError:
            raise UnavailableError(f"{dataset.name} changed while it was read") from None
        except msgspec.ValidationError as ex:
            reason = f"version {version.version} of {dataset.name} does not fit what the plugin expects: {ex}"
            raise UnreadableError(reason, retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S) from ex
        return _make_snapshot(dataset, account, version, items, len(data))


def _make_snapshot(
    dataset: Dataset, account: int, version: store.StoredVersion, items: tuple[Any, ...], size_bytes: int
) -> Snapshot:
    return Snapshot(
        dataset=dataset.name,
        version=version.version,
        sha256=version.sha256.hex(),
        published_at=version.published_at,
        items=items,
        size_bytes=size_bytes,
        fresh_at=version.published_at,
        account=account,
    )


def _current_in(state: _State, dataset: str) -> Snapshot:
    try:
        return state.current[dataset]
    except KeyError:
        raise _unavailable(state, dataset) from None


def _unavailable(state: _State, dataset: str) -> UnavailableError:
    if dataset in state.unreadable:
        reason = state.unreadable[dataset][1]
    else:
        reason = f"the dataset {dataset!r} has not been published yet"
        refused = next((each.reason for each in state.history.get(dataset, ()) if each.reason), None)
        if refused:
            reason = f"{reason}: {refused}"
    return UnavailableError(reason, retry_after_s=_NOT_PUBLISHED_RETRY_AFTER_S)


def _has_same_items(one: Snapshot | None, other: Snapshot) -> bool:
    return one is not None and one.sha256 == other.sha256


def _with_current(snapshot: Snapshot, version: CurrentVersion) -> Snapshot:
    return msgspec.structs.replace(
        snapshot,
        version=version.version,
        published_at=version.published_at,
        fresh_at=version.confirmed_at,
        confirmed_at=version.confirmed_at,
        warning=version.last_reason if version.last_outcome == "refused" else None,
    )
