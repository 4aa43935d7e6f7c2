r"""Parse lines of log files into events: access logs by Apache's format strings, and JSON lines.

The grammar of format strings is that of ``apachelogs``. It reads ``\x16`` both as one escaped byte and as ``\x``
followed by ``16``: a line with many of them that does not fit its format, such as half a line of TLS garbage, would be
matched in 2**n ways. ``normalize_escapes`` writes every byte in the only way that can be read in one way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from apachelogs import COMBINED, COMMON
from apachelogs.directives import format2regex
from apachelogs.timeutil import assemble_datetime

from kernel import FieldErrors, MalformedError
from plugins.observability.ingest.decode import decode_event, decode_fields
from plugins.observability.ingest.validate import BAD_STATUS, round_half_up, validate_event
from plugins.observability.models import ENDPOINT_MAX, INT32_MAX, REFERENCE_MAX, EventIn

AUTO = "auto"
JSON = "json"
NAMED_FORMATS = {"combined": COMBINED, "common": COMMON}
DETECTION_LINES = 20
ACCESS_LINE_MAX_BYTES = 128 * 1024
JSON_LINE_MAX_BYTES = 1024 * 1024


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


class LineParser(Protocol):
    """Parses lines into events."""

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:
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
        name: ``json``, ``common``, ``combined``, or a format string of Apache.
        service: The service whose access log it is.
        json_service: See ``JsonParser``.
        now: UTC; for JSON events ahead of it.

    Raises:
        ValueError: There is no such format.
    """
    if name == JSON:
        return JsonParser(json_service, now)
    text = NAMED_FORMATS.get(name, name)
    repairs = [(text, '"'), (text + _ANYTHING, "")]
    if name in NAMED_FORMATS:
        # Whatever is wrong after the size of the response, everything that makes an event comes before it.
        repairs += [(COMMON, ""), (COMMON + _ANYTHING, "")]
    return AccessLogParser(LogFormat(text), [(LogFormat(repair), suffix) for repair, suffix in repairs], service)


def validate_format(name: str) -> None:
    """Check the name of a format, or a format string.

    Raises:
        ValueError: There is no such format.
    """
    if name not in (AUTO, JSON, *NAMED_FORMATS):
        LogFormat(name)


def detect_format(lines: Sequence[bytes]) -> str:
    """Return the name of the format that most of some lines have; ``combined`` if none fits."""
    votes = {name: sum(_fits(LogFormat(text), line) for line in lines) for name, text in NAMED_FORMATS.items()}
    votes[JSON] = sum(line.lstrip().startswith(b"{") for line in lines)
    return max(votes, key=lambda name: votes[name])


def _fits(log_format: LogFormat, line: bytes) -> bool:
    try:
        return log_format.match(normalize_escapes(line)) is not None
    except (ValueError, OverflowError, OSError):
        return False


# JSON lines


class JsonParser:
    """Parses lines that hold one event each, as an object; valid is what is valid over REST.

    Args:
        service: Of events that have none; None rejects those.
        now: UTC; events may be a day ahead of it.
    """

    def __init__(self, service: str | None, now: datetime) -> None:
        self._service = service
        self._now = now

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:  # noqa: ARG002 - half an object is not JSON
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
        return event

    def _with_service(self, fields: Any, messages: FieldErrors) -> tuple[EventIn | None, FieldErrors]:
        if not isinstance(fields, dict) or "service" in fields:
            return None, messages
        return validate_event({**fields, "service": self._service}, self._now)


def join_errors(messages: FieldErrors) -> str:
    """Return the messages of all fields as one line."""
    return " ".join(f"{field}: {text}" for field, texts in messages.items() for text in texts)


# Access logs

# A directive that matches anything up to the end of the line.
_ANYTHING = " %{rest}x"
_STATUS_CODES = range(100, 600)
# A method (token of RFC 9110), a target, and a version, which HTTP/0.9 leaves out.
_REQUEST = re.compile(r"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}) (?P<target>\S.*?)(?P<version> HTTP/\d(?:\.\d)?)?")
_NO_VALUE = "-"
# In order of precision.
_DURATIONS_MS = (("duration_us", 0.001), ("request_time_s", 1000.0), ("duration_ms", 1.0), ("duration_s", 1000.0))


class AccessLogParser:
    """Parses lines of one format, and as much as possible of lines that are damaged.

    A damaged line is preserved whole in the tag ``line``. If the format has no duration, the latency is 0.

    Args:
        log_format: What lines should look like.
        repairs: What is tried for damaged lines, in order: formats, each with a text to append to the line.
        service: The service whose log it is.
    """

    def __init__(self, log_format: LogFormat, repairs: Sequence[tuple[LogFormat, str]], service: str) -> None:
        self._format = log_format
        self._repairs = repairs
        self._service = service

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:
        """See ``LineParser``."""
        if len(line) > ACCESS_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {ACCESS_LINE_MAX_BYTES:,} bytes.")
        text = normalize_escapes(line)
        try:
            fields = self._format.match(text)
            if fields is not None:
                return self._event(fields, {})
            # The rest of a line that is still being written will come: repaired now, it would be stored twice.
            for log_format, suffix in self._repairs if complete else ():
                fields = log_format.match(text + suffix)
                if fields is not None:
                    return self._event(fields, {"line": to_printable(line)})
        except (ValueError, OverflowError, OSError) as ex:
            raise RefusedLineError("A time or number in the line is not valid.", str(ex)) from ex
        raise RefusedLineError("The line is not in the format of this log." if complete else "The line is cut off.")

    def _event(self, fields: Mapping[str, Any], tags: dict[str, Any]) -> EventIn:
        if "time" not in fields:
            raise RefusedLineError("The line has no time.")
        status_code: int = fields.get("status", 0)
        if status_code not in _STATUS_CODES:
            raise RefusedLineError(f"status_code: {BAD_STATUS}", str(status_code))
        method, endpoint = _method_and_path(fields, tags)
        for name in ("client", "referer", "user_agent", "bytes"):
            if name in fields:
                tags[name] = fields[name]
        if len(endpoint) > ENDPOINT_MAX:
            tags["path"] = endpoint
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


def _method_and_path(fields: Mapping[str, Any], tags: dict[str, Any]) -> tuple[str, str]:
    """Return method and path; add the query to the tags, or the whole request line if that is not HTTP."""
    line = fields.get("request_line")
    if line is None and "method" in fields:
        line = f"{fields['method']} {fields.get('path', _NO_VALUE)}{fields.get('query', '')} HTTP/1.1"
    request = _REQUEST.fullmatch(line or "")
    # Without a version, only what begins like a path is taken for one.
    if request is None or not (request["version"] or request["target"].startswith("/")):
        tags["request_line"] = line or _NO_VALUE
        return _NO_VALUE, _NO_VALUE
    path, _, tags["query"] = request["target"].partition("?")
    return request["method"], path


def _latency_ms(fields: Mapping[str, Any]) -> int:
    for name, factor in _DURATIONS_MS:
        if name in fields:
            latency_ms = round_half_up(float(fields[name]) * factor)
            # It is negative if the clock was set back during the request.
            return min(max(latency_ms, 0), INT32_MAX)
    return 0


# Format strings

# The library's names, without "final_" and "original_", and the names used here. The first field with a value is used.
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
# A line in one of the common formats must have its time here. Searched first, because it takes the grammar quadratic
# time to tell that a long line does not match.
_COMMON_START = "%h %l %u %t "
_COMMON_TIME = re.compile(r"\[\d\d/\w{3}/\d{4,}:\d\d:\d\d:\d\d *[-+]\d{4}\] ")
_BEFORE_TIME_MAX = 1024

Converter = Callable[[str], Any]


class LogFormat:
    """One format.

    Args:
        text: Such as ``%h %l %u %t "%r" %>s %b``.

    Raises:
        ValueError: It is not a log format, or it has no time or no status.
    """

    def __init__(self, text: str) -> None:
        groups, pattern = format2regex(text)
        self._regex = re.compile(pattern)
        self._starts_as_common = text.startswith(_COMMON_START)
        self._fields: list[tuple[int, str, Converter]] = []
        time_groups: list[tuple[int, str, Converter]] = []
        for number, (name, _, convert) in enumerate(groups):
            library_name, field = _field_names(name)
            if library_name == _TIME:
                time_groups.append((number, name[1], convert))
            elif field is not None:
                self._fields.append((number, field, convert))
        self._time_groups = time_groups
        if not time_groups or all(field != "status" for _, field, _ in self._fields):
            raise ValueError(f"Expected a format with a time (%t) and a status (%s or %>s), got {text!r}")
        # Consecutive lines of a log share their second.
        self._time = lru_cache(maxsize=256)(self._convert_time)

    def match(self, line: str) -> dict[str, Any] | None:
        """Return the fields of a line that have a value, and ``time``; None if the line is not in this format.

        Args:
            line: From ``normalize_escapes``.

        Raises:
            ValueError: The line has this format, but a time or number in it is not valid.
        """
        if self._starts_as_common and _COMMON_TIME.search(line, 0, _BEFORE_TIME_MAX) is None:
            return None
        found = self._regex.fullmatch(line)
        if found is None:
            return None
        groups = found.groups()
        fields: dict[str, Any] = {}
        for number, field, convert in self._fields:
            value = convert(groups[number])
            if value is not None and field not in fields:
                fields[field] = to_printable(value) if isinstance(value, bytes) else value
        time = self._time(tuple(groups[number] for number, _, _ in self._time_groups))
        if time is not None:
            fields["time"] = time
        return fields

    def _convert_time(self, texts: tuple[str, ...]) -> datetime | None:
        named = zip(self._time_groups, texts, strict=True)
        time: datetime | None = assemble_datetime({name: convert(text) for (_, name, convert), text in named})
        return time


def _field_names(name: Any) -> tuple[str, str | None]:
    """Return the library's name of a group, and the name used here if the field is used."""
    first, *further = name if isinstance(name, tuple) else (name,)
    first = _REDIRECTED.sub("", first)
    return first, _FIELDS.get(".".join([first, *further]).lower())


# Escapes

_ESCAPES = re.compile(r"\\x([0-9A-Fa-f]{2})|\\.|[^ -~]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def normalize_escapes(line: bytes) -> str:
    """Return a line as the library's grammar can read it in one way only; raw bytes are escaped."""
    text = line.decode("latin-1")
    if "\\" not in text and text.isascii() and text.isprintable():
        return text
    return _ESCAPES.sub(_normalize_escape, text)


def _normalize_escape(match: re.Match[str]) -> str:
    escape = match[0]
    character = chr(int(match[1], 16)) if match[1] else escape
    if len(character) > 1:
        return escape
    if " " <= character <= "~" and character not in '"\\':
        return character
    return "\\n" if character == "\n" else f"\\{character}"


def to_printable(content: bytes) -> str:
    r"""Return text that any column can hold: bytes that are not UTF-8, and control characters, become ``\xhh``."""
    text = content.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
