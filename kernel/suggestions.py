"""The nearest of the known names, for messages about a name that is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# As ``difflib`` recommends: below, names have little in common.
SIMILAR = 0.6


def nearest_name(name: str, known: Iterable[str], similarity: float = SIMILAR) -> str | None:
    """Return the known name that is most similar to a name; None if none is similar.

    Args:
        name: A name that is not known.
        known: The names that are.
        similarity: How similar it must be, from 0 to 1.
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=similarity)), None)


def suggest(nearest: str | None) -> str:
    """Return ``; did you mean NAME?``, to end a message with; empty for None."""
    return f"; did you mean {nearest}?" if nearest is not None else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean NAME?`` with the nearest of the known names; empty if none is near."""
    return suggest(nearest_name(name, known))
