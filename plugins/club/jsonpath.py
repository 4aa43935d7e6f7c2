"""Paths into JSON: names parted by dots, numbers in brackets, such as ``data.pages[0].members``."""

from __future__ import annotations

import re
from typing import Any

import msgspec

Path = tuple[str | int, ...]

_STEP = re.compile(r"\[(?P<index>\d{1,9})\]|(?P<dot>\.)?(?P<name>[^.\[\]]+)")


def parse_path(text: str) -> Path:
    """Read a path. The empty one is the document itself.

    Raises:
        ValueError: It is no path.
    """
    steps: list[str | int] = []
    place = 0
    while place < len(text):
        step = _STEP.match(text, place)
        # A dot parts a name from what stands before it, and stands nowhere else.
        if step is None or (step["name"] is not None and (step["dot"] is not None) != (place > 0)):
            raise ValueError(f"{text!r:.80} is no path: expected names parted by dots and [numbers]")
        steps.append(int(step["index"]) if step["name"] is None else step["name"])
        place = step.end()
    return tuple(steps)


def find(document: Any, path: Path) -> Any:
    """Return what stands at a path, or ``msgspec.UNSET`` where nothing does."""
    found = document
    for step in path:
        found = _step(found, step)
    return found


def _step(value: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return value[step] if isinstance(value, list) and step < len(value) else msgspec.UNSET
    return value.get(step, msgspec.UNSET) if isinstance(value, dict) else msgspec.UNSET
