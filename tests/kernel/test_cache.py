"""Bounded caches and their statistics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kernel.cache import Cache, Caches, CacheStats


@pytest.fixture
def cache() -> Cache[str, int]:
    return Caches().create("test", 2)


def test_a_stored_value_is_returned(cache: Cache[str, int]) -> None:
    cache.set("one", 1)

    assert (cache.get("one"), cache.get("two")) == (1, None)


def test_the_least_recently_used_value_is_evicted_first(cache: Cache[str, int]) -> None:
    cache.set("one", 1)
    cache.set("two", 2)
    cache.get("one")

    cache.set("three", 3)

    assert [cache.get(key) for key in ("one", "two", "three")] == [1, None, 3]


def test_clear_removes_all_values(cache: Cache[str, int]) -> None:
    cache.set("one", 1)

    cache.clear()

    assert cache.get("one") is None
    assert cache.stats().items == 0


def test_statistics_count_hits_and_misses(cache: Cache[str, int]) -> None:
    cache.set("one", 0)
    for key in ("one", "one", "two"):
        cache.get(key)

    assert cache.stats() == CacheStats(items=1, items_max=2, hits=2, misses=1)


def test_a_cache_is_thread_safe() -> None:
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


def test_a_sized_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache = Caches().create_sized("test", 100)
    cache.set("old", 1, 50, "one")
    cache.set("used", 2, 50, "two")
    cache.get("old")

    cache.set("new", 3, 40, "three")

    assert [cache.get(key) for key in ("old", "used", "new")] == [1, None, 3]
    assert (cache.stats().size_bytes, cache.stats().size_max_bytes) == (90, 100)


def test_what_is_larger_than_a_sized_cache_is_not_kept() -> None:
    cache = Caches().create_sized("test", 100)
    cache.set("key", 1, 10, "name")

    cache.set("key", 2, 101, "name")

    assert cache.get("key") is None
    assert cache.stats().size_bytes == 0


def test_a_value_set_anew_counts_once() -> None:
    cache = Caches().create_sized("test", 100)
    for _ in range(3):
        cache.set("key", 1, 60, "name")

    assert (cache.stats().size_bytes, cache.names()) == (60, {"name": 60})


@pytest.mark.parametrize(("pattern", "left"), [("club_*", {"trace": 1}), ("test", {}), ("*", {}), ("zzz", None)])
def test_names_are_cleared_by_pattern(pattern: str, left: dict[str, int] | None) -> None:
    caches = Caches()
    cache = caches.create_sized("test", 100)
    for number, name in enumerate(("club_a", "club_a", "club_b", "trace")):
        cache.set(number, number, 1, name)
    before = caches.names()

    gone = caches.clear(pattern)

    assert caches.names() == (before if left is None else left)
    assert gone == 4 - sum(caches.names().values())
