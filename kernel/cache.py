"""Bounded in-memory caches of one process, each with a name and statistics."""

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
    """Statistics of a cache since the process started. A cache is bounded either in items or in bytes."""

    items: int
    items_max: int | None
    hits: int
    misses: int
    size_bytes: int | None = None
    size_max_bytes: int | None = None


class Cache(Generic[K, V]):
    """A least-recently-used cache that is bounded in items; thread-safe.

    Args:
        items_max: The most values; a further one evicts the least recently used.
    """

    def __init__(self, items_max: int) -> None:
        # Least recently used first.
        self._items: OrderedDict[K, V] = OrderedDict()
        self._items_max = items_max
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        return self.get_many((key,)).get(key)

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the cached values of some keys, by key."""
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
        """Store a value."""
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            if len(self._items) > self._items_max:
                self._items.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Remove and return the value of a key, or None."""
        with self._lock:
            return self._items.pop(key, None)

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._items.clear()

    def stats(self) -> CacheStats:
        """Return the statistics of this cache."""
        with self._lock:
            return CacheStats(len(self._items), self._items_max, self._hits, self._misses)


def _matches(name: str, pattern: str) -> bool:
    # A name may itself contain brackets, which match something else.
    return name == pattern or fnmatchcase(name, pattern)


class SizedCache:
    """A least-recently-used cache that is bounded in bytes; thread-safe.

    Args:
        bytes_max: The most bytes; a further value evicts the least recently used. A value larger than this is not
            cached.
    """

    def __init__(self, bytes_max: int) -> None:
        # Value, size and name; least recently used first. A look-up in a cache of cachetools takes three times as long.
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
        """Store a value.

        Args:
            key: Key of the value.
            value: The value.
            size_bytes: Approximate size of key and value.
            name: Name for people, such as ``shop_data_acme_products.json``, by which ``clear`` finds it. Need not be
                unique.
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
        """Remove the values whose names match a shell pattern, such as ``shop_*``; return how many."""
        with self._lock:
            matching = [key for key, (_, _, name) in self._items.items() if _matches(name, pattern)]
            for key in matching:
                self._remove(key)
            return len(matching)

    def names(self) -> dict[str, int]:
        """Return the bytes that are cached under each name."""
        sizes: dict[str, int] = {}
        with self._lock:
            for _, size_bytes, name in self._items.values():
                sizes[name] = sizes.get(name, 0) + size_bytes
        return sizes

    def stats(self) -> CacheStats:
        """Return the statistics of this cache."""
        with self._lock:
            return CacheStats(len(self._items), None, self._hits, self._misses, self._size_bytes, self._bytes_max)

    def _remove(self, key: Hashable) -> None:
        removed = self._items.pop(key, None)
        if removed is not None:
            self._size_bytes -= removed[1]


class Caches:
    """The caches of one process, by name."""

    def __init__(self) -> None:
        self._caches: dict[str, Cache[Hashable, object] | SizedCache] = {}

    def create(self, name: str, items_max: int) -> Cache[K, V]:
        """Create a cache that is bounded in items.

        Args:
            name: Name of the cache, in statistics and for ``clear``.
            items_max: The most values.

        Raises:
            ValueError: There is a cache of this name.
        """
        if name in self._caches:
            raise ValueError(f"cache {name!r} exists")
        created: Cache[K, V] = Cache(items_max)
        self._caches[name] = created  # type: ignore[assignment]
        return created

    def create_sized(self, name: str, bytes_max: int) -> SizedCache:
        """Create a cache that is bounded in bytes.

        Args:
            name: Name of the cache, in statistics and for ``clear``.
            bytes_max: The most bytes.

        Raises:
            ValueError: There is a cache of this name.
        """
        if name in self._caches:
            raise ValueError(f"cache {name!r} exists")
        created = self._caches[name] = SizedCache(bytes_max)
        return created

    def clear(self, pattern: str = "*") -> int:
        """Remove all values of the caches whose name matches, and in sized caches the values whose name matches.

        Args:
            pattern: Shell pattern, such as ``shop_*``.

        Returns:
            How many values were removed.
        """
        removed = 0
        for name, cache in self._caches.items():
            if isinstance(cache, SizedCache):
                removed += cache.clear("*" if _matches(name, pattern) else pattern)
            elif _matches(name, pattern):
                removed += cache.stats().items
                cache.clear()
        return removed

    def names(self) -> dict[str, int]:
        """Return the bytes that are cached under each name in sized caches."""
        sizes: dict[str, int] = {}
        for cache in self._caches.values():
            if isinstance(cache, SizedCache):
                sizes |= cache.names()
        return sizes

    def stats(self) -> dict[str, CacheStats]:
        """Return the statistics of every cache, by name."""
        return {name: cache.stats() for name, cache in self._caches.items()}

    def check(self) -> None:
        """Check that a value which is stored in a cache can be read back.

        Raises:
            RuntimeError: It cannot.
        """
        probe: Cache[str, float] = Cache(1)
        probe.set("probe", 1.0)
        if probe.get("probe") is None:
            raise RuntimeError("a value written to a cache did not come back")
