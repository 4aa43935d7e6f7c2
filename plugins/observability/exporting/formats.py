"""Formats of a file of events, made piece by piece."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from plugins.observability.exporting.model import Summary
from plugins.observability.model import Event

COLUMNS = Event.__struct_fields__
# Spreadsheets run a text that begins with one of these as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
# The last is what marks such texts: with it among them, one ' taken away gives every text back as it was.
_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")


class Format(Protocol):
    """Turns events into the bytes of a file.

    Args:
        media_type: Of the file.
    """

    media_type: str

    def begin(self) -> bytes:
        """Return what comes before the first event."""

    def add(self, events: Sequence[Event]) -> bytes:
        """Take the next events; return what can leave, which may be nothing yet."""

    def rest(self) -> bytes:
        """Return what was held back."""

    def end(self, summary: Summary) -> bytes:
        """Return the end of the file."""


class Csv:
    """Comma-separated values (RFC 4180), with a line of names, and a comment in the end."""

    media_type = "text/csv; charset=utf-8"

    def begin(self) -> bytes:
        """Return the line of names."""
        return (",".join(COLUMNS) + "\r\n").encode()

    def add(self, events: Sequence[Event]) -> bytes:
        """Return a line for each event; more lines where a text has some."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(map(_cells, events))
        return text.getvalue().encode()

    def rest(self) -> bytes:
        """Return nothing."""
        return b""

    def end(self, summary: Summary) -> bytes:
        """Return the comment."""
        return f"# rows={summary.rows} sha256={summary.sha256}\r\n".encode()


class Ndjson:
    """One JSON object a line, as the list has them, and one more in the end."""

    media_type = "application/x-ndjson"

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def add(self, events: Sequence[Event]) -> bytes:
        """Return a line for each event."""
        return _JSON.encode_lines(events)

    def rest(self) -> bytes:
        """Return nothing."""
        return b""

    def end(self, summary: Summary) -> bytes:
        """Return the last line."""
        return _JSON.encode(summary) + b"\n"


_JSON = msgspec.json.Encoder()


def _cells(event: Event) -> tuple[object, ...]:
    return (
        event.id,
        _time(event.time),
        _text(event.service),
        _text(event.endpoint),
        _text(event.method),
        event.status_code,
        event.latency_ms,
        _text(event.trace_id),
        _text(event.user_ref),
        bytes(event.tags).decode(),
    )


def _time(time: datetime) -> str:
    # As JSON has it.
    return time.isoformat().removesuffix("+00:00") + "Z"


def _text(text: str | None) -> str | None:
    return f"'{text}" if text and text[0] in _FORMULA else text
