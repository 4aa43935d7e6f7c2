"""The formats of log files: named ones, Apache's format strings, and finding out which one a file has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from apachelogs import COMBINED, COMMON

from kernel import MalformedError
from plugins.observability.importing.accesslog import AccessLog, LineParser, RefusedLineError
from plugins.observability.importing.escapes import escape_once
from plugins.observability.importing.logformat import LineFormat
from plugins.observability.ingest.decoding import decode_item, decode_one
from plugins.observability.ingest.validation import validate_event
from plugins.observability.model import EventIn, Messages

AUTO = "auto"
JSON = "json"
NAMED = {"combined": COMBINED, "common": COMMON}
DETECTION_LINES = 20
JSON_LINE_MAX_BYTES = 1024 * 1024
# Takes whatever comes, to the end of the line.
_REST = " %{rest}x"
_QUOTE = '"'


class JsonLines:
    """Parses lines that hold one event each, as an object; the same is valid as over REST.

    Args:
        service: Of events that name none; None refuses those.
        now: UTC; for events ahead of it.
    """

    def __init__(self, service: str | None, now: datetime) -> None:
        self._service = service
        self._now = now

    def parse(self, line: bytes, *, complete: bool = True) -> EventIn:  # noqa: ARG002 - half an object is no JSON
        """See ``LineParser``."""
        if len(line) > JSON_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {JSON_LINE_MAX_BYTES:,} bytes.")
        try:
            event, messages = decode_one(line, self._now)
            if event is None and self._service is not None:
                event, messages = self._with_service(decode_item(line), messages)
        except MalformedError as ex:
            raise RefusedLineError("The line is not valid JSON.", ex.detail or "") from ex
        if event is None:
            raise RefusedLineError(describe(messages))
        return event

    def _with_service(self, raw: Any, messages: Messages) -> tuple[EventIn | None, Messages]:
        if not isinstance(raw, dict) or "service" in raw:
            return None, messages
        return validate_event({**raw, "service": self._service}, self._now)


def describe(messages: Messages) -> str:
    """Return the messages of all fields as one line."""
    return " ".join(f"{field}: {text}" for field, texts in messages.items() for text in texts)


def check_format(name: str) -> None:
    """Check the name of a format, or a format string.

    Raises:
        ValueError: There is no such format.
    """
    if name not in (AUTO, JSON, *NAMED):
        LineFormat(name)


def make_parser(name: str, *, service: str, json_service: str | None, now: datetime) -> LineParser:
    """Make the parser of a format.

    Args:
        name: ``json``, ``common``, ``combined``, or a format string of Apache.
        service: The service whose access log it is.
        json_service: See ``JsonLines``.
        now: UTC.

    Raises:
        ValueError: There is no such format.
    """
    if name == JSON:
        return JsonLines(json_service, now)
    text = NAMED.get(name, name)
    repairs = [(text, _QUOTE), (text + _REST, "")]
    if name in NAMED:
        # Whatever is wrong behind the size of the answer, the event itself is there.
        repairs += [(COMMON, ""), (COMMON + _REST, "")]
    return AccessLog(LineFormat(text), [(LineFormat(one), suffix) for one, suffix in repairs], service)


def detect(lines: Sequence[bytes]) -> str:
    """Return the name of the format that most of some lines have; where none fits, the usual one."""
    votes = {name: sum(_fits(LineFormat(text), line) for line in lines) for name, text in NAMED.items()}
    votes[JSON] = sum(line.lstrip().startswith(b"{") for line in lines)
    return max(votes, key=lambda name: votes[name])


def _fits(line_format: LineFormat, line: bytes) -> bool:
    try:
        return line_format.match(escape_once(line)) is not None
    except (ValueError, OverflowError, OSError):
        return False
