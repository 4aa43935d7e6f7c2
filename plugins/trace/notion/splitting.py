"""Split rows that one query cannot give: into conditions of which each row meets at least one.

A condition and its contrary meet every row, whatever Notion makes of them: upper and lower case, or what contains what.
A column may be empty, and then neither of two comparisons holds: a third condition asks for those.
Source: https://developers.notion.com/reference/filter-data-source-entries
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

Condition = Mapping[str, Any]
TITLE = "title"
_EDITED = "last_edited_time"
_LETTERS_MAX = 3
_Value = TypeVar("_Value", int, str)


class Mark(msgspec.Struct, frozen=True):
    """What rows made in the same minute are told apart by.

    Args:
        number: In the column of unique ids, if there is one.
        edited: When.
        title: Of the page.
    """

    number: int | None
    edited: str
    title: str


class Split(msgspec.Struct, frozen=True):
    """Conditions of which each row meets at least one, and of those seen none meets all.

    Args:
        by: What they ask for.
        conditions: In the order in which to ask: a row that is edited meanwhile moves to a later one.
    """

    by: str
    conditions: tuple[Condition, ...]


def mark(row: Mapping[str, Any], unique_id: str | None) -> Mark:
    """Return what tells a row from others.

    Args:
        row: A page, or a data source among the pages of a wiki.
        unique_id: The column of unique ids, if there is one.
    """
    columns = {each["id"]: each for each in row["properties"].values()} if row["object"] == "page" else {}
    numbered = (columns.get(unique_id) or {}).get("unique_id") or {}
    parts = (columns.get(TITLE) or {}).get(TITLE) or ()
    return Mark(numbered.get("number"), row[_EDITED], "".join(part["plain_text"] for part in parts))


def split(marks: Sequence[Mark], unique_id: str | None, asked: Sequence[Condition]) -> Split | None:
    """Find out how to split a query.

    Args:
        marks: Of rows that it gave.
        unique_id: The column of unique ids, if there is one.
        asked: Its conditions.

    Returns:
        None if nothing tells those rows apart.
    """
    return _by_number(marks, unique_id, asked) or _by_time(marks) or _by_title(marks, asked)


def _by_number(marks: Sequence[Mark], unique_id: str | None, asked: Sequence[Condition]) -> Split | None:
    middle = _middle([each.number for each in marks if each.number is not None])
    if unique_id is None or middle is None:
        return None
    halves = [{"less_than": middle}, {"greater_than_or_equal_to": middle}]
    return Split("unique_id", _of_column(unique_id, "unique_id", halves, asked))


def _by_time(marks: Sequence[Mark]) -> Split | None:
    middle = _middle([each.edited for each in marks])
    if middle is None:
        return None
    halves = ({"before": middle}, {"on_or_after": middle})
    return Split(_EDITED, tuple({"timestamp": _EDITED, _EDITED: each} for each in halves))


def _by_title(marks: Sequence[Mark], asked: Sequence[Condition]) -> Split | None:
    titles = [each.title.casefold().strip() for each in marks]
    # What was asked for once told nothing apart then: Notion may take letters for the same that we do not.
    used = {piece for each in asked for piece in (each.get(TITLE) or {}).values()}
    shares = Counter(piece for title in titles for piece in _pieces(title) - used)
    # Other titles may be made of the same pieces, but none of them contains the longest.
    if (longest := max(titles, key=len)) and longest not in used:
        shares[longest] = titles.count(longest)
    halving = sorted(
        (abs(2 * count - len(titles)), len(piece), piece) for piece, count in shares.items() if count < len(titles)
    )
    if not halving:
        return None
    piece = halving[0][2]
    return Split(TITLE, _of_column(TITLE, TITLE, [{"contains": piece}, {"does_not_contain": piece}], asked))


def _of_column(id_: str, kind: str, halves: Sequence[Condition], asked: Sequence[Condition]) -> tuple[Condition, ...]:
    # Those that are empty are asked for once: whoever splits a part of a part need not ask again.
    again = any(each.get("property") == id_ for each in asked)
    wanted = halves if again else [*halves, {"is_empty": True}]
    return tuple({"property": id_, kind: each} for each in wanted)


def _middle(values: Iterable[_Value]) -> _Value | None:
    """Return a value that about half of them are smaller than, and at least one is."""
    ordered = sorted(values)
    if not ordered or ordered[0] == ordered[-1]:
        return None
    middle = ordered[len(ordered) // 2]
    return middle if middle > ordered[0] else next(each for each in ordered if each > ordered[0])


def _pieces(title: str) -> set[str]:
    pieces = {title[start : start + size] for size in range(1, _LETTERS_MAX + 1) for start in range(len(title))}
    # What begins or ends with a space may be searched for without it.
    return {piece for piece in pieces if piece == piece.strip() and piece}
