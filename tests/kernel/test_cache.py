"""Bounded caches with figures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kernel.cache import Cache, Caches, CacheStats


@pytest.fixture
def cache() -> Cache[str, int]:
    return Caches().create("test", 2)


def test_a_value_comes_back(cache: Cache[str, int]) -> None:
    cache.set("one", 1)

    assert (cache.get("one"), cache.get("two")) == (1, None)


def test_the_least_recently_used_value_goes_first(cache: Cache[str, int]) -> None:
    cache.set("one", 1)
    cache.set("two", 2)
    cache.get("one")

    cache.set("three", 3)

    assert [cache.get(key) for key in ("one", "two", "three")] == [1, None, 3]


def test_clearing_forgets_everything(cache: Cache[str, int]) -> None:
    cache.set("one", 1)

    cache.clear()

    assert cache.get("one") is None
    assert cache.stats().items == 0


def test_figures_count_hits_and_misses(cache: Cache[str, int]) -> None:
    cache.set("one", 0)
    for key in ("one", "one", "two"):
        cache.get(key)

    assert cache.stats() == CacheStats(items=1, items_max=2, hits=2, misses=1)


def test_a_cache_is_safe_for_threads() -> None:
    cache: Cache[int, int] = Caches().create("test", 10)

    def work(seed: int) -> None:
        for number in range(2000):
            cache.set((seed * number) % 37, number)
            cache.get(number % 37)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert (cache.stats().items, cache.stats().hits + cache.stats().misses) == (10, 8000)


def test_two_caches_of_one_name_are_refused() -> None:
    caches = Caches()
    caches.create("test", 1)

    with pytest.raises(ValueError, match="cache 'test' exists"):
        caches.create("test", 1)


def test_figures_are_listed_by_name() -> None:
    caches = Caches()
    caches.create("one", 1)
    caches.create("two", 2)

    assert {name: stats.items_max for name, stats in caches.stats().items()} == {"one": 1, "two": 2}


def test_the_check_of_a_working_cache_is_silent() -> None:
    Caches().check()
