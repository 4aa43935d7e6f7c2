"""Parse lines of log files into events: access logs, and JSON lines with one event each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from kernel import FieldErrors, MalformedError
from plugins.observability.importer.detection import JSON, is_stretched
from plugins.observability.importer.formats import FormatSet, LogFormat, normalize_escapes, to_printable
from plugins.observability.ingest.decode import decode_event, decode_fields
from plugins.observability.ingest.validate import BAD_STATUS, round_half_up, validate_event
from plugins.observability.models import ENDPOINT_MAX, INT32_MAX, REFERENCE_MAX, EventIn

AUTO = "auto"
ACCESS_LINE_MAX_BYTES = 128 * 1024
JSON_LINE_MAX_BYTES = 1024 * 1024
UNREAD_END = "The end of the line is not understood."
QUOTES_IN_REQUEST = "The request has quotes in it that are not escaped."


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

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:
        """Parse one line.

        Args:
            line: Any bytes, without the line end.
            complete: False for the last line of a file if that has no line end.

        Raises:
            RefusedLineError: It is not an event.
        """


def make_parser(name: str, *, service: str, json_service: str | None, now: datetime) -> LineParser:
    """Make the parser of a format.

    Args:
        name: ``json``, or as of ``FormatSet``.
        service: The service whose access log it is.
        json_service: See ``JsonParser``.
        now: UTC; for JSON events ahead of it.

    Raises:
        ValueError: There is no such format.
    """
    return JsonParser(json_service, now) if name == JSON else AccessLogParser(FormatSet(name), service)


def validate_format(name: str) -> None:
    """Check the name of a format, or a format string.

    Raises:
        ValueError: There is no such format.
    """
    if name not in (AUTO, JSON):
        FormatSet(name)


# JSON lines


class JsonParser:
    """Parses lines that hold one event each, as an object; valid is what is valid over REST.

    Args:
        service: Of events that have none; None rejects those.
        now: UTC; events may be a day ahead of it.
    """

    notes: Sequence[str] = ()

    def __init__(self, service: str | None, now: datetime) -> None:
        self._service = service
        self._now = now

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:  # noqa: ARG002 - half an object is not JSON
        """See ``LineParser``."""
        if len(line) > JSON_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {JSON_LINE_MAX_BYTES:,} bytes.")
        try:
            event, messages = decode_event(line, self._now)
            if event is None and self._service is not None:
                event, messages = self._with_service(decode_fields(line), messages)
        except MalformedError as ex:
            raise RefusedLineError("The line is not valid JSON.", ex.detail or "") from ex
        if event is None:
            raise RefusedLineError(join_errors(messages))
        return ParsedLine(event)

    def _with_service(self, fields: Any, messages: FieldErrors) -> tuple[EventIn | None, FieldErrors]:
        if not isinstance(fields, dict) or "service" in fields:
            return None, messages
        return validate_event({**fields, "service": self._service}, self._now)


def join_errors(messages: FieldErrors) -> str:
    """Return the messages of all fields as one line."""
    return " ".join(f"{field}: {text}" for field, texts in messages.items() for text in texts)


# Access logs

_STATUS_CODES = range(100, 600)
# A method (token of RFC 9110), a target, and a version, which HTTP/0.9 leaves out.
_REQUEST = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}) (?P<target>\S.*?)(?P<version> HTTP/\d(?:\.\d)?)?")
_NO_VALUE = "-"
# In order of precision; what a server behind this one took comes last, as it is not all of the time.
_DURATIONS_MS = (
    ("duration_us", 0.001),
    ("request_time_s", 1000.0),
    ("duration_ms", 1.0),
    ("duration_s", 1000.0),
    ("upstream_response_time_s", 1000.0),
)
# Texts are left out of examples: they may be secret. So are long numbers.
_SECRET = re.compile(r'"(?:[^"\\]|\\.)*"?|[^\s"=:,]+')
_HARMLESS = re.compile(r'"?(?:-|\d{1,12}(?:\.\d{1,6})?(?:ms|us|s)?)"?')
_KEY = re.compile(r"[A-Za-z_][\w.-]{0,30}(?==)")


class AccessLogParser:
    """Parses lines of one format, and as much as possible of lines that are damaged.

    A line that is not understood to its end is preserved whole in the tag ``line``.

    Args:
        formats: What lines should look like, and what is tried for others.
        service: The service whose log it is.
    """

    def __init__(self, formats: FormatSet, service: str) -> None:
        self._formats = formats
        self._service = service
        self.notes: Sequence[str] = (
            () if formats.whole.has_offset else ("its times have no offset and are read as UTC",)
        )

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:
        """See ``LineParser``."""
        if len(line) > ACCESS_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {ACCESS_LINE_MAX_BYTES:,} bytes.")
        text = normalize_escapes(line)
        try:
            fields = _match(self._formats.whole, text)
            if fields is not None:
                return self._parsed(fields, line, None)
            # The rest of a line that is still being written will come: repaired now, it would be stored twice.
            for log_format, suffix, repair in self._formats.repairs if complete else ():
                fields = _match(log_format, text + suffix)
                if fields is not None:
                    return self._parsed(fields, line, repair)
            fields = self._match_quoted_request(text) if complete else None
            if fields is not None:
                return self._parsed(fields, line, QUOTES_IN_REQUEST)
        except (ValueError, OverflowError, OSError) as ex:
            raise RefusedLineError("A time or number in the line is not valid.", str(ex)) from ex
        raise RefusedLineError("The line is not in the format of this log." if complete else "The line is cut off.")

    def _match_quoted_request(self, text: str) -> dict[str, Any] | None:
        for log_format in self._formats.quoted_requests[:1]:
            return _match(log_format, text)
        return None

    def _parsed(self, fields: dict[str, Any], line: bytes, repair: str | None) -> ParsedLine:
        unread = fields.get("tail") or fields.get("unknown") or ""
        if unread and repair != QUOTES_IN_REQUEST:
            repair = UNREAD_END
        if repair is None:
            return ParsedLine(self._event(fields, {}))
        self._ensure_one_request(fields, normalize_escapes(line))
        return ParsedLine(self._event(fields, {"line": to_printable(line)}), repair, _without_secrets(unread))

    def _ensure_one_request(self, fields: dict[str, Any], text: str) -> None:
        """Check that the request of a damaged line ends in one place: a client may send quotes, a status and a size."""
        for log_format in self._formats.quoted_requests[1:]:
            last = log_format.match(text)
            if last is not None and last.get("request_line") != fields.get("request_line"):
                raise RefusedLineError("The request has quotes in it, so that it may end in several places.")

    def _event(self, fields: Mapping[str, Any], tags: dict[str, Any]) -> EventIn:
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
            service=self._service,
            endpoint=endpoint[:ENDPOINT_MAX].strip() or _NO_VALUE,
            method=method,
            status_code=status_code,
            latency_ms=_latency_ms(fields),
            user_ref=fields.get("user", "")[:REFERENCE_MAX] or None,
            tags=msgspec.Raw(msgspec.json.encode({name: value for name, value in tags.items() if value != ""})),
        )


def _match(log_format: LogFormat, text: str) -> dict[str, Any] | None:
    fields = log_format.match(text)
    if fields is not None and is_stretched(fields):
        raise RefusedLineError("The line has more fields before its time than the format of this log.")
    return fields


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
        target = fields.get("target") or f"{fields.get('path', _NO_VALUE)}{query}"
        line = f"{fields['method']} {target} HTTP/1.1"
    request = _REQUEST.fullmatch(line or "")
    # Without a version, only what begins like a path is taken for one.
    if request is None or not (request["version"] or request["target"].startswith("/")):
        tags["request_line"] = line or _NO_VALUE
        return _NO_VALUE, _NO_VALUE
    path, _, tags["query"] = request["target"].partition("?")
    return request["method"], path


def _latency_ms(fields: Mapping[str, Any]) -> int | None:
    for name, factor in _DURATIONS_MS:
        if name in fields:
            latency_ms = round_half_up(float(fields[name]) * factor)
            # It is negative if the clock was set back during the request.
            return min(max(latency_ms, 0), INT32_MAX)
    return None


def _without_secrets(text: str) -> str:
    """Return the part of a line as an example that can be shown: numbers and names of keys only."""

    def show(found: re.Match[str]) -> str:
        part = found[0]
        if _HARMLESS.fullmatch(part) or _KEY.match(found.string, found.start()):
            return part
        return '"…"' if part.startswith('"') else "…"

    return _SECRET.sub(show, text.strip())
