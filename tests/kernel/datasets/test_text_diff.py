"""What changed within a text: both texts can be read from the parts, and nothing takes long."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.datasets.text_diff import ELLIPSIS, TextPart, diff_text

# Short enough that nothing is left out.
TEXTS = st.text(alphabet="ab .\n", max_size=40)


@given(TEXTS, TEXTS)
def test_the_parts_are_both_texts(before: str, after: str) -> None:
    parts = diff_text(before, after)

    assert "".join(each.text for each in parts if each.kind != "added") == before
    assert "".join(each.text for each in parts if each.kind != "removed") == after


def test_words_change_as_a_whole() -> None:
    assert diff_text("three small fish", "three smart fish") == [
        TextPart("same", "three "),
        TextPart("removed", "small"),
        TextPart("added", "smart"),
        TextPart("same", " fish"),
    ]


def test_what_did_not_change_is_shortened() -> None:
    same = "word " * 1000

    parts = diff_text(f"{same}old {same}", f"{same}new {same}")

    assert [each.text for each in parts if each.kind != "same"] == ["old", "new"]
    assert sum(len(each.text) for each in parts) < 500
    assert ELLIPSIS in parts[0].text


@pytest.mark.parametrize("words", [2, 100, 5000])
def test_long_texts_are_compared_soon_and_shown_in_part(words: int) -> None:
    rng = random.Random(1)
    texts = [" ".join(str(rng.randrange(words)) for _ in range(20_000)) for _ in range(2)]
    began = time.process_time()

    parts = diff_text(*texts)

    assert time.process_time() - began < 2
    assert sum(len(each.text) for each in parts) < 100_000
