"""A limit on how many requests are served at the same time."""

from __future__ import annotations

import pytest

from kernel.errors import UnavailableError
from kernel.http.concurrency import ConcurrencyLimit


@pytest.mark.parametrize("slots", [0, 1, 3])
def test_no_more_than_the_limit_can_be_acquired(slots: int) -> None:
    limit = ConcurrencyLimit(slots, "three exports at most")
    for _ in range(slots):
        limit.acquire()

    with pytest.raises(UnavailableError) as caught:
        limit.acquire()

    assert (caught.value.detail, caught.value.headers["Retry-After"]) == ("three exports at most", "5")


def test_releasing_twice_frees_one_slot() -> None:
    limit = ConcurrencyLimit(2, "")
    release, _ = limit.acquire(), limit.acquire()
    release()
    release()

    limit.acquire()

    with pytest.raises(UnavailableError):
        limit.acquire()
