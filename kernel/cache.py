"""Bounded caches of one process, each with a name and figures."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec
from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class CacheStats(msgspec.Struct, frozen=True):
    """Figures of one cache since the process started."""

    items: int
    items_max: int
    hits: int
    misses: int


class Cache(Generic[K, V]):
    """Keep the most recently used values, safe for threads.

    Args:
        items_max: Values beyond this number push out the least recently used.
    """

    def __init__(self, items_max: int) -> None:
        self._items: LRUCache[K, V] = LRUCache(items_max)
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        with self._lock:
            value = self._items.get(key)
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
            return value

    def set(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            self._items[key] = value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()

    def stats(self) -> CacheStats:
        """Return the figures of this cache."""
        with self._lock:
            return CacheStats(len(self._items), int(self._items.maxsize), self._hits, self._misses)


class Caches:
    """The caches of one process by name."""

    def __init__(self) -> None:
        self._caches: dict[str, Cache[Hashable, object]] = {}

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
