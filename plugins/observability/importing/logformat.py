"""Apache's format strings: what the fields of a line mean. The grammar is that of ``apachelogs``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from apachelogs.directives import format2regex
from apachelogs.timeutil import assemble_datetime

from plugins.observability.importing.escapes import readable

# The library's names, without "final_" and "original_", and ours. The first field of a line that has a value counts.
_FIELDS: Mapping[str, str] = {
    "remote_host": "client",
    "remote_address": "client",
    "remote_user": "user",
    "request_line": "request_line",
    "request_method": "method",
    "request_uri": "path",
    "request_query": "query",
    "status": "status",
    "bytes_sent": "bytes",
    "bytes_out": "bytes",
    "headers_in.referer": "referer",
    "headers_in.user-agent": "user_agent",
    "request_duration_microseconds": "duration_us",
    "request_duration_milliseconds": "duration_ms",
    "request_duration_seconds": "duration_s",
    # Apache has no directive for seconds with decimals, which nginx writes as $request_time.
    "variables.request_time": "request_time_s",
}
_TIME = "request_time_fields"
_REDIRECTED = re.compile("^(?:final|original)_")
# Where a line in one of the usual formats must have its time; looked for first, because telling that a long line fits
# nowhere takes the grammar the square of its length.
_USUAL_START = "%h %l %u %t "
_USUAL_TIME = re.compile(r"\[\d\d/\w{3}/\d{4,}:\d\d:\d\d:\d\d *[-+]\d{4}\] ")
_BEFORE_TIME_MAX = 1024

Converter = Callable[[str], Any]


class LineFormat:
    """One format.

    Args:
        text: Such as ``%h %l %u %t "%r" %>s %b``.

    Raises:
        ValueError: It is no such format, or it has no time or no status.
    """

    def __init__(self, text: str) -> None:
        groups, pattern = format2regex(text)
        self._regex = re.compile(pattern)
        self._usual = text.startswith(_USUAL_START)
        self._fields: list[tuple[int, str, Converter]] = []
        time_groups: list[tuple[int, str, Converter]] = []
        for number, (name, _, convert) in enumerate(groups):
            library_name, ours = _names(name)
            if library_name == _TIME:
                time_groups.append((number, name[1], convert))
            elif ours is not None:
                self._fields.append((number, ours, convert))
        self._time_groups = time_groups
        if not time_groups or all(field != "status" for _, field, _ in self._fields):
            raise ValueError(f"Expected a format with a time (%t) and a status (%s or %>s), got {text!r}")
        # Neighbours in a log share their second.
        self._time = lru_cache(maxsize=256)(self._convert_time)

    def match(self, line: str) -> dict[str, Any] | None:
        """Return the fields of a line that have a value, and ``time``; None if the line is not in this format.

        Args:
            line: From ``escape_once``.

        Raises:
            ValueError: It looks like it, but a time or number is none.
        """
        if self._usual and _USUAL_TIME.search(line, 0, _BEFORE_TIME_MAX) is None:
            return None
        found = self._regex.fullmatch(line)
        if found is None:
            return None
        groups = found.groups()
        fields: dict[str, Any] = {}
        for number, field, convert in self._fields:
            value = convert(groups[number])
            if value is not None and field not in fields:
                fields[field] = readable(value) if isinstance(value, bytes) else value
        time = self._time(tuple(groups[number] for number, _, _ in self._time_groups))
        if time is not None:
            fields["time"] = time
        return fields

    def _convert_time(self, texts: tuple[str, ...]) -> datetime | None:
        named = zip(self._time_groups, texts, strict=True)
        time: datetime | None = assemble_datetime({name: convert(text) for (_, name, convert), text in named})
        return time


def _names(name: Any) -> tuple[str, str | None]:
    """Return the library's name of a group, and ours if we keep it."""
    first, *further = name if isinstance(name, tuple) else (name,)
    first = _REDIRECTED.sub("", first)
    return first, _FIELDS.get(".".join([first, *further]).lower())
