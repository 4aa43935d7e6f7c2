"""Turn paths into templates: ``/users/42`` and ``/users/43`` are one endpoint, ``/users/{id}``."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The endpoint of requests of which neither route nor path is known.
NO_ROUTE = "(no route)"
DEFAULT_TEMPLATES: Mapping[str, str] = {
    "[0-9]+": "{id}",
    "(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})": "{uuid}",
    # Digits and letters both: "deadbeef" may be a word, and a long number is a number.
    "(?i:(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{16,})": "{hash}",
}


class Templates:
    """Rules that replace segments of paths by names.

    Patterns are trusted like the rest of the configuration. One with catastrophic backtracking, such as ``(a+)+b``, can
    block a process on a single segment, even though that is no longer than an endpoint.

    Args:
        rules: Names by pattern, a Python regular expression for one whole segment. The first that matches counts.

    Raises:
        ValueError: A pattern is not a regular expression, or a name cannot be a segment.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = [(_compiled(pattern), _validated(name)) for pattern, name in rules.items()]

    def apply(self, path: str) -> str:
        """Return a path with every segment replaced that matches a rule. The number of segments stays the same."""
        return "/".join(map(self._name, path.split("/")))

    def _name(self, segment: str) -> str:
        # Most paths begin and end with an empty segment, which must stay empty whatever the rules are.
        if segment:
            for pattern, name in self._rules:
                if pattern.fullmatch(segment):
                    return name
        return segment


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as ex:
        raise ValueError(f"{pattern!r} is not a regular expression: {ex}") from ex


def _validated(name: str) -> str:
    if not name.strip() or "/" in name or not name.isprintable():
        raise ValueError(f"{name!r} is not a valid name for a segment: expected printable text without a slash")
    return name
