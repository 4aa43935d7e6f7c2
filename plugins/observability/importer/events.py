"""What a line of a log is parsed into: an event, made of the fields that a format names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from plugins.observability.ingest.validate import BAD_STATUS, round_half_up
from plugins.observability.models import ENDPOINT_MAX, INT32_MAX, REFERENCE_MAX, EventIn

ACCESS_LINE_MAX_BYTES = 128 * 1024
NO_VALUE = "-"
_STATUS_CODES = range(100, 600)
# A method (token of RFC 9110), a target, and a version, which HTTP/0.9 leaves out.
_REQUEST = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}) (?P<target>\S.*?)(?P<version> HTTP/\d(?:\.\d)?)?")
# In order of precision; what a server behind this one took comes last, as it is not all of the time.
_DURATIONS_MS = (
    ("duration_us", 0.001),
    ("request_time_s", 1000.0),
    ("duration_ms", 1.0),
    ("duration_s", 1000.0),
    ("upstream_response_time_s", 1000.0),
)


class RefusedLineError(Exception):
    """A line cannot be converted to an event.

    Args:
        reason: The same for all lines with this fault, so that they can be counted.
        detail: The part that differs between lines.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class ParsedLine(msgspec.Struct, frozen=True):
    """What a line was parsed into.

    Args:
        event: The event.
        repair: What is wrong with the line; the same for all lines with this fault. None if it is whole.
        detail: The part of the line that is not understood, without texts that may be secret.
    """

    event: EventIn
    repair: str | None = None
    detail: str = ""


class LineParser(Protocol):
    """Parses lines into events.

    Attributes:
        notes: What is assumed about the lines.
    """

    notes: Sequence[str]

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine | None:
        """Parse one line; None if it is a directive about others.

        Args:
            line: Any bytes, without the line end.
            complete: False for the last line of a file if that has no line end.

        Raises:
            RefusedLineError: It is not an event.
        """


def make_event(fields: Mapping[str, Any], tags: dict[str, Any], service: str) -> EventIn:
    """Make the event of a request.

    Args:
        fields: Those of its line that have a value: ``time``, UTC or with an offset; ``status``; ``request_line``, or
            ``method`` and ``target`` (or ``path`` and ``args`` or ``query``); at most one of each kind of latency, of
            ``client``, ``forwarded_for``, ``host``, ``referer``, ``user_agent``, ``bytes``, ``user``, ``trace_id``.
        tags: Further ones; those of the fields are added.
        service: The service that answered.

    Raises:
        RefusedLineError: There is no time or no status.
    """
    if "time" not in fields:
        raise RefusedLineError("The line has no time.")
    status_code: int = fields.get("status", 0)
    if status_code not in _STATUS_CODES:
        raise RefusedLineError(f"status_code: {BAD_STATUS}", str(status_code))
    method, endpoint = _method_and_path(fields, tags)
    tags |= _client(fields)
    for name in ("host", "referer", "user_agent", "bytes"):
        if name in fields:
            tags[name] = fields[name]
    if len(endpoint) > ENDPOINT_MAX:
        tags["path"] = endpoint
    if "upstream_response_time_s" in fields:
        tags["upstream_response_time_ms"] = round_half_up(fields["upstream_response_time_s"] * 1000)
    return EventIn(
        time=fields["time"],
        service=service,
        endpoint=endpoint[:ENDPOINT_MAX].strip() or NO_VALUE,
        method=method,
        status_code=status_code,
        latency_ms=_latency_ms(fields),
        trace_id=fields.get("trace_id", "")[:REFERENCE_MAX] or None,
        user_ref=fields.get("user", "")[:REFERENCE_MAX] or None,
        tags=msgspec.Raw(msgspec.json.encode({name: value for name, value in tags.items() if value != ""})),
    )


def _client(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags ``client`` and ``forwarded_for``: a proxy appends addresses, so that the client is the first."""
    client, forwarded_for = fields.get("client"), fields.get("forwarded_for")
    if client is None or "," in client:
        forwarded_for = client or forwarded_for
        client = forwarded_for and forwarded_for.partition(",")[0].strip()
    if forwarded_for == client:
        forwarded_for = None
    tags = {"client": client, "forwarded_for": forwarded_for}
    return {name: text for name, text in tags.items() if text is not None}


def _method_and_path(fields: Mapping[str, Any], tags: dict[str, Any]) -> tuple[str, str]:
    """Return method and path; add the query to the tags, or the whole request line if that is not HTTP."""
    line = fields.get("request_line")
    if line is None and "method" in fields:
        query = f"?{fields['args']}" if "args" in fields else fields.get("query", "")
        target = fields.get("target") or f"{fields.get('path', NO_VALUE)}{query}"
        line = f"{fields['method']} {target} HTTP/1.1"
    request = _REQUEST.fullmatch(line or "")
    # Without a version, only what begins like a path is taken for one.
    if request is None or not (request["version"] or request["target"].startswith("/")):
        tags["request_line"] = line or NO_VALUE
        return NO_VALUE, NO_VALUE
    path, _, tags["query"] = request["target"].partition("?")
    return request["method"], path


def _latency_ms(fields: Mapping[str, Any]) -> int | None:
    for name, factor in _DURATIONS_MS:
        if name in fields:
            latency_ms = round_half_up(float(fields[name]) * factor)
            # It is negative if the clock was set back during the request.
            return min(max(latency_ms, 0), INT32_MAX)
    return None
