"""Access logs: a line in, an event out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from plugins.observability.importing.escapes import escape_once, readable
from plugins.observability.importing.logformat import LineFormat
from plugins.observability.ingest.validation import BAD_STATUS
from plugins.observability.model import ENDPOINT_MAX, INT32_MAX, REFERENCE_MAX, EventIn

ACCESS_LINE_MAX_BYTES = 128 * 1024
_STATUSES = range(100, 600)
# A token of RFC 9110 as method, a target, and a version, which HTTP/0.9 leaves out.
_REQUEST = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}) (?P<target>\S.*?)(?P<version> HTTP/\d(?:\.\d)?)?")
_NOTHING = "-"
# In order of precision.
_DURATIONS_MS = (("duration_us", 0.001), ("request_time_s", 1000.0), ("duration_ms", 1.0), ("duration_s", 1000.0))


class RefusedLineError(Exception):
    """A line is no event.

    Args:
        reason: The same for all lines with this fault, so that they can be counted.
        detail: What is special about this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class LineParser(Protocol):
    """Makes events of lines."""

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:
        """Parse one line, without its end.

        Args:
            line: Any bytes.
            complete: False if the file ends inside of it, as far as one can tell.

        Raises:
            RefusedLineError: It is no event.
        """


class AccessLog:
    """Parses lines of one format, and as much as possible of lines that are damaged.

    A damaged line is kept whole in the tag ``line``. Without a duration in the format, the latency is 0.

    Args:
        line_format: What lines should look like.
        repairs: What else is tried: formats, each with what is put at the end of the line.
        service: The service whose log it is.
    """

    def __init__(self, line_format: LineFormat, repairs: Sequence[tuple[LineFormat, str]], service: str) -> None:
        self._format = line_format
        self._repairs = repairs
        self._service = service

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:
        """See ``LineParser``."""
        if len(line) > ACCESS_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {ACCESS_LINE_MAX_BYTES:,} bytes.")
        text = escape_once(line)
        try:
            fields = self._format.match(text)
            if fields is not None:
                return self._event(fields, {})
            # The end of a line that is still being written will come; what is stored now would be stored twice.
            for line_format, suffix in self._repairs if complete else ():
                fields = line_format.match(text + suffix)
                if fields is not None:
                    return self._event(fields, {"line": readable(line)})
        except (ValueError, OverflowError, OSError) as ex:
            raise RefusedLineError("A time or number in the line is not valid.", str(ex)) from ex
        raise RefusedLineError("The line is not in the format of this log." if complete else "The line is cut off.")

    def _event(self, fields: Mapping[str, Any], tags: dict[str, Any]) -> EventIn:
        if "time" not in fields:
            raise RefusedLineError("The line has no time.")
        status_code: int = fields.get("status", 0)
        if status_code not in _STATUSES:
            raise RefusedLineError(f"status_code: {BAD_STATUS}", str(status_code))
        method, endpoint = _request(fields, tags)
        for name in ("client", "referer", "user_agent", "bytes"):
            if name in fields:
                tags[name] = fields[name]
        if len(endpoint) > ENDPOINT_MAX:
            tags["path"] = endpoint
        return EventIn(
            time=fields["time"],
            service=self._service,
            endpoint=endpoint[:ENDPOINT_MAX].strip() or _NOTHING,
            method=method,
            status_code=status_code,
            latency_ms=_latency_ms(fields),
            user_ref=fields.get("user", "")[:REFERENCE_MAX] or None,
            tags=msgspec.Raw(msgspec.json.encode({name: value for name, value in tags.items() if value != ""})),
        )


def _request(fields: Mapping[str, Any], tags: dict[str, Any]) -> tuple[str, str]:
    """Return method and path; put the query into the tags, or the whole request line if it is no HTTP."""
    line = fields.get("request_line")
    if line is None and "method" in fields:
        line = f"{fields['method']} {fields.get('path', _NOTHING)}{fields.get('query', '')} HTTP/1.1"
    request = _REQUEST.fullmatch(line or "")
    # Without a version, only what begins like a path is taken for one.
    if request is None or not (request["version"] or request["target"].startswith("/")):
        tags["request_line"] = line or _NOTHING
        return _NOTHING, _NOTHING
    path, _, tags["query"] = request["target"].partition("?")
    return request["method"], path


def _latency_ms(fields: Mapping[str, Any]) -> int:
    for name, factor in _DURATIONS_MS:
        if name in fields:
            latency_ms = round(float(fields[name]) * factor)
            # A clock that was set back in between makes it negative.
            return min(max(latency_ms, 0), INT32_MAX)
    return 0
