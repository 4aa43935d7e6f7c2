"""What plugins may import is listed, and is there."""

from __future__ import annotations

import types

import pytest

import kernel


def test_the_list_is_sorted_and_names_nothing_twice() -> None:
    assert list(kernel.__all__) == sorted(set(kernel.__all__))


@pytest.mark.parametrize("name", kernel.__all__)
def test_what_is_listed_is_there(name: str) -> None:
    assert not isinstance(getattr(kernel, name), types.ModuleType)


def test_what_is_there_is_listed() -> None:
    public = {
        name
        for name, value in vars(kernel).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert public == set(kernel.__all__)
