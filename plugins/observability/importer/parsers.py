"""Parse lines of log files into events: access logs in format strings, and JSON lines with one event each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from kernel import FieldErrors, MalformedError
from plugins.observability.importer.delimited_logs import ALB, DELIMITED_LOGS, W3C, AlbParser, W3cParser
from plugins.observability.importer.detection import JSON, is_stretched
from plugins.observability.importer.events import (
    ACCESS_LINE_MAX_BYTES,
    LineParser,
    ParsedLine,
    RefusedLineError,
    make_event,
)
from plugins.observability.importer.formats import FormatSet, LogFormat, normalize_escapes, to_printable
from plugins.observability.importer.json_logs import JSON_LOGS, JsonLogParser
from plugins.observability.ingest.decode import decode_event, decode_fields
from plugins.observability.ingest.validate import validate_event
from plugins.observability.models import EventIn

AUTO = "auto"
JSON_LINE_MAX_BYTES = 1024 * 1024
UNREAD_END = "The end of the line is not understood."
QUOTES_IN_REQUEST = "The request has quotes in it that are not escaped."


def make_parser(name: str, *, service: str, json_service: str | None, clock: Callable[[], datetime]) -> LineParser:
    """Make the parser of a format.

    Args:
        name: ``json``, one of ``JSON_LOGS`` or ``DELIMITED_LOGS``, or as of ``FormatSet``.
        service: The service whose access log it is.
        json_service: See ``JsonParser``.
        clock: Returns the time, UTC; for JSON events ahead of it.

    Raises:
        ValueError: There is no such format.
    """
    if name == JSON:
        return JsonParser(json_service, clock)
    if name in JSON_LOGS:
        return JsonLogParser(name, service)
    if name == ALB:
        return AlbParser(service)
    return W3cParser(service) if name == W3C else AccessLogParser(FormatSet(name), service)


def validate_format(name: str) -> None:
    """Check the name of a format, or a format string.

    Raises:
        ValueError: There is no such format.
    """
    if name not in (AUTO, JSON, *JSON_LOGS, *DELIMITED_LOGS):
        FormatSet(name)


# JSON lines


class JsonParser:
    """Parses lines that hold one event each, as an object; valid is what is valid over REST.

    Args:
        service: Of events that have none; None rejects those.
        clock: Returns the time, UTC; events may be a day ahead of it.
    """

    notes: Sequence[str] = ()

    def __init__(self, service: str | None, clock: Callable[[], datetime]) -> None:
        self._service = service
        self._clock = clock

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:  # noqa: ARG002 - half an object is not JSON
        """See ``LineParser``."""
        if len(line) > JSON_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {JSON_LINE_MAX_BYTES:,} bytes.")
        try:
            event, messages = decode_event(line, self._clock())
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
        return validate_event({**fields, "service": self._service}, self._clock())


def join_errors(messages: FieldErrors) -> str:
    """Return the messages of all fields as one line."""
    return " ".join(f"{field}: {text}" for field, texts in messages.items() for text in texts)


# Access logs

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
            return ParsedLine(make_event(fields, {}, self._service))
        self._ensure_one_request(fields, normalize_escapes(line))
        return ParsedLine(
            make_event(fields, {"line": to_printable(line)}, self._service), repair, _without_secrets(unread)
        )

    def _ensure_one_request(self, fields: dict[str, Any], text: str) -> None:
        """Check that the request of a damaged line ends in one place: a client may send quotes, a status and a size."""
        for log_format in self._formats.quoted_requests[1:]:
            last = log_format.match(text)
            if last is not None and last.get("request_line") != fields.get("request_line"):
                raise RefusedLineError("The request has quotes in it, so that it may end in several places.")


def _match(log_format: LogFormat, text: str) -> dict[str, Any] | None:
    fields = log_format.match(text)
    if fields is not None and is_stretched(fields):
        raise RefusedLineError("The line has more fields before its time than the format of this log.")
    return fields


def _without_secrets(text: str) -> str:
    """Return the part of a line as an example that can be shown: numbers and names of keys only."""

    def show(found: re.Match[str]) -> str:
        part = found[0]
        if _HARMLESS.fullmatch(part) or _KEY.match(found.string, found.start()):
            return part
        return '"…"' if part.startswith('"') else "…"

    return _SECRET.sub(show, text.strip())
