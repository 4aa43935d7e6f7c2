"""What changed within a text, word by word, for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Of the part in which two texts differ. Beyond this, comparing takes too long, and nobody would read it.
_WORDS_MAX = 2_000
# Of what did not change, around each change.
_CONTEXT = 60
# Of what was added or removed at one place.
_CHANGE_MAX = 1_000
_PARTS_MAX = 200
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class TextPart(NamedTuple):
    """A part of a text, and what became of it.

    Args:
        kind: Whether both texts have it, or one of them.
        text: The part; long ones are shortened, with an ellipsis in place of what is left out.
    """

    kind: Literal["same", "removed", "added"]
    text: str


def diff_text(before: str, after: str) -> Sequence[TextPart]:
    """Return the parts of two texts, in their order.

    Args:
        before: The earlier text.
        after: The later text.
    """
    start = _common_start(before, after)
    end = _common_start(before[start:][::-1], after[start:][::-1])
    first, second = before[start : len(before) - end], after[start : len(after) - end]
    parts = [
        TextPart("same", before[:start]),
        *_diff_words(first, second),
        TextPart("same", before[len(before) - end :]),
    ]
    shown = [each for each in parts if each.text]
    shortened = [_shorten(each, number, len(shown)) for number, each in enumerate(shown)]
    return [*shortened[:_PARTS_MAX], *([TextPart("same", ELLIPSIS)] if len(shortened) > _PARTS_MAX else ())]


def _common_start(before: str, after: str) -> int:
    """Return the length of what both texts begin with, up to the end of a word."""
    if before == after:
        return len(before)
    length = next(
        (number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
        min(len(before), len(after)),
    )
    while length and before[length - 1].isalnum():
        length -= 1
    return length


def _diff_words(before: str, after: str) -> Iterator[TextPart]:
    words, others = _WORDS.findall(before), _WORDS.findall(after)
    if max(len(words), len(others)) > _WORDS_MAX:
        yield TextPart("removed", before)
        yield TextPart("added", after)
        return
    for change, start, end, other_start, other_end in SequenceMatcher(None, words, others).get_opcodes():
        if change == "equal":
            yield TextPart("same", "".join(words[start:end]))
        else:
            yield TextPart("removed", "".join(words[start:end]))
            yield TextPart("added", "".join(others[other_start:other_end]))


def _shorten(part: TextPart, number: int, count: int) -> TextPart:
    text = part.text
    if part.kind != "same":
        return part if len(text) <= _CHANGE_MAX else part._replace(text=text[:_CHANGE_MAX] + ELLIPSIS)
    head = text[:_CONTEXT] if number else ""
    tail = text[-_CONTEXT:] if number < count - 1 else ""
    if len(text) <= len(head) + len(tail) + _CONTEXT:
        return part
    return part._replace(text=f"{head}{ELLIPSIS}{tail}")
