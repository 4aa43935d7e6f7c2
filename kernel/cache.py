"""Bounded caches of one process, each with a name and figures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class CacheStats(msgspec.Struct, frozen=True):
    """Figures of one cache since the process started."""

    items: int
    items_max: int | None
    hits: int
    misses: int
    size_bytes: int | None = None
    size_max_bytes: int | None = None


class Cache(Generic[K, V]):
    """Keep the most recently used values, safe for threads.

    Args:
        items_max: Values beyond this number push out the least recently used.
    """

    def __init__(self, items_max: int) -> None:
        # In order of use, the latest last.
        self._items: OrderedDict[K, V] = OrderedDict()
        self._items_max = items_max
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        return self.get_many((key,)).get(key)

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of the keys that are here."""
        items = self._items
        found: dict[K, V] = {}
        misses = 0
        with self._lock:
            for key in keys:
                value = items.get(key)
                if value is None:
                    misses += 1
                else:
                    items.move_to_end(key)
                    found[key] = value
            self._hits += len(found)
            self._misses += misses
        return found

    def set(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            if len(self._items) > self._items_max:
                self._items.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()

    def stats(self) -> CacheStats:
        """Return the figures of this cache."""
        with self._lock:
            return CacheStats(len(self._items), self._items_max, self._hits, self._misses)


class SizedCache:
    """Keep the most recently used values, as many as fit into a number of bytes; safe for threads.

    Args:
        bytes_max: Values beyond this size in all push out the least recently used. One that is larger is not kept.
    """

    def __init__(self, bytes_max: int) -> None:
        # In order of use, the latest last: value, size and name. cachetools would take thrice the time for a look.
        self._items: OrderedDict[Hashable, tuple[Any, int, str]] = OrderedDict()
        self._bytes_max = bytes_max
        self._size_bytes = 0
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def get(self, key: Hashable) -> Any:
        """Return the value of a key, or None."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                self._misses += 1
                return None
            self._items.move_to_end(key)
            self._hits += 1
            return found[0]

    def set(self, key: Hashable, value: object, size_bytes: int, name: str) -> None:
        """Keep a value.

        Args:
            key: Finds it again.
            value: What to keep.
            size_bytes: What it takes, key included, near enough.
            name: Under which people know it, such as ``club_data_skyflow_hero-metrics.json``. Need not be unique.
        """
        with self._lock:
            self._remove(key)
            if size_bytes > self._bytes_max:
                return
            self._items[key] = (value, size_bytes, name)
            self._size_bytes += size_bytes
            while self._size_bytes > self._bytes_max:
                self._remove(next(iter(self._items)))

    def clear(self, pattern: str = "*") -> int:
        """Forget values whose names match a pattern, as ``club_*``; return how many."""
        with self._lock:
            gone = [key for key, (_, _, name) in self._items.items() if fnmatchcase(name, pattern)]
            for key in gone:
                self._remove(key)
            return len(gone)

    def names(self) -> dict[str, int]:
        """Return how many bytes are kept under each name."""
        sizes: dict[str, int] = {}
        with self._lock:
            for _, size_bytes, name in self._items.values():
                sizes[name] = sizes.get(name, 0) + size_bytes
        return sizes

    def stats(self) -> CacheStats:
        """Return the figures of this cache."""
        with self._lock:
            return CacheStats(len(self._items), None, self._hits, self._misses, self._size_bytes, self._bytes_max)

    def _remove(self, key: Hashable) -> None:
        gone = self._items.pop(key, None)
        if gone is not None:
            self._size_bytes -= gone[1]


class Caches:
    """The caches of one process by name."""

    def __init__(self) -> None:
        self._caches: dict[str, Cache[Hashable, object] | SizedCache] = {}

    def create(self, name: str, items_max: int) -> Cache[K, V]:
        """Make a cache.

        Raises:
            ValueError: There is one of that name.
        """
        if name in self._caches:
            raise ValueError(f"cache {name!r} exists")
        made: Cache[K, V] = Cache(items_max)
        self._caches[name] = made  # type: ignore[assignment]
        return made

    def create_sized(self, name: str, bytes_max: int) -> SizedCache:
        """Make a cache that is bounded in bytes.

        Raises:
            ValueError: There is one of that name.
        """
        if name in self._caches:
            raise ValueError(f"cache {name!r} exists")
        made = self._caches[name] = SizedCache(bytes_max)
        return made

    def clear(self, pattern: str = "*") -> int:
        """Forget values by name: whole caches whose name matches, and named values in sized ones.

        Args:
            pattern: As ``club_*``.

        Returns:
            How many values went.
        """
        gone = 0
        for name, cache in self._caches.items():
            if isinstance(cache, SizedCache):
                gone += cache.clear("*" if fnmatchcase(name, pattern) else pattern)
            elif fnmatchcase(name, pattern):
                gone += cache.stats().items
                cache.clear()
        return gone

    def names(self) -> dict[str, int]:
        """Return how many bytes the sized caches keep under each name."""
        sizes: dict[str, int] = {}
        for cache in self._caches.values():
            if isinstance(cache, SizedCache):
                sizes |= cache.names()
        return sizes

    def stats(self) -> dict[str, CacheStats]:
        """Return the figures of every cache by name."""
        return {name: cache.stats() for name, cache in self._caches.items()}

    def check(self) -> None:
        """Write and read back one value in every cache's mechanism.

        Raises:
            RuntimeError: What was written did not come back.
        """
        probe: Cache[str, float] = Cache(1)
        probe.set("probe", 1.0)
        if probe.get("probe") is None:
            raise RuntimeError("a value written to a cache did not come back")
