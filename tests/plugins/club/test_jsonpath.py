"""Paths find what stands in JSON, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.club.jsonpath import find, parse_path

DOCUMENT = {"data": {"pages": [{"name": "first"}, {"name": None}], "a b": 1}, "list": [[1, 2]]}

names = st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cs"]), min_size=1, max_size=5)
steps = st.lists(names | st.integers(0, 3), max_size=4).map(tuple)


def written(path: tuple[str | int, ...]) -> str:
    """Write a path down."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", DOCUMENT),
        ("data.pages[0].name", "first"),
        ("data.pages[1].name", None),
        ("data.a b", 1),
        ("list[0][1]", 2),
    ],
)
def test_a_path_finds_what_stands_there(path: str, found: Any) -> None:
    assert find(DOCUMENT, parse_path(path)) == found


@pytest.mark.parametrize("path", ["x", "data.x", "data.pages[2]", "data.pages.name", "data[0]", "data.a b.c", "[0]"])
def test_a_path_that_leads_nowhere_finds_nothing(path: str) -> None:
    assert find(DOCUMENT, parse_path(path)) is msgspec.UNSET


@pytest.mark.parametrize("text", [".", ".a", "a.", "a..b", "a[", "a]", "a[b]", "a[-1]", "a.[0]", "[0]a", "a[]"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        parse_path(text)


@given(steps)
def test_a_path_is_read_as_it_is_written(path: tuple[str | int, ...]) -> None:
    assert parse_path(written(path)) == path


@given(st.text(".[]0a", max_size=8))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError:
        return
    assert written(path) == text.replace("[00", "[0") or "[0" in text
