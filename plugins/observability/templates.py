"""Turn paths into templates: ``/users/42`` and ``/users/43`` are one endpoint, ``/users/{id}``."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The first that matches a whole segment names it.
DEFAULT_TEMPLATES: Mapping[str, str] = {
    "[0-9]+": "{id}",
    "(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})": "{uuid}",
    # Digits and letters both: "deadbeef" may be a word, and a long number is a number.
    "(?i:(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{16,})": "{hash}",
}


class Templates:
    """Rules that name segments of paths.

    Patterns are trusted as the rest of the configuration is. One that backtracks without end, such as ``(a+)+b``, can
    hold a process up on a single segment, though that has at most as many characters as an endpoint.

    Args:
        rules: Names by pattern. A pattern is a regular expression of Python for one whole segment.

    Raises:
        ValueError: A pattern is no regular expression, or a name is none for a segment.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = [(_compiled(pattern), _checked(name)) for pattern, name in rules.items()]

    def apply(self, path: str) -> str:
        """Return a path with every segment that meets a rule replaced; it has as many segments as before."""
        return "/".join(map(self._name, path.split("/")))

    def _name(self, segment: str) -> str:
        # An empty one stands at both ends of most paths, and must stay what it is whatever the rules are.
        if segment:
            for pattern, name in self._rules:
                if pattern.fullmatch(segment):
                    return name
        return segment


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as ex:
        raise ValueError(f"{pattern!r} is no regular expression: {ex}") from ex


def _checked(name: str) -> str:
    if not name.strip() or "/" in name or not name.isprintable():
        raise ValueError(f"{name!r} is no name for a segment: expected printable text without a slash")
    return name
