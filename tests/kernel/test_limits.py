"""A limited number of places for answers that take long."""

from __future__ import annotations

import pytest

from kernel.errors import UnavailableError
from kernel.http.limits import ConcurrencyLimit


@pytest.mark.parametrize("number", [0, 1, 3])
def test_there_are_so_many_places_and_no_more(number: int) -> None:
    places = ConcurrencyLimit(number, "the limit in words")
    for _ in range(number):
        places.take()

    with pytest.raises(UnavailableError) as caught:
        places.take()

    assert (caught.value.detail, caught.value.headers["Retry-After"]) == ("the limit in words", "5")


def test_who_leaves_twice_leaves_one_place() -> None:
    places = ConcurrencyLimit(2, "")
    leave, _ = places.take(), places.take()
    leave()
    leave()

    places.take()

    with pytest.raises(UnavailableError):
        places.take()
