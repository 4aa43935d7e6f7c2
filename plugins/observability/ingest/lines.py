"""Decode events that came one a line: all at once when they are good, line by line when they are not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kernel import MalformedError
from plugins.observability.ingest.decoding import Batch, decode_one, is_plain
from plugins.observability.model import EventIn, ItemError, Messages

_EVENTS = msgspec.json.Decoder(EventIn)


def decode_lines(lines: Sequence[bytes], indexes: Sequence[int], now: datetime) -> Batch:
    """Decode one event from each line. A line that is no JSON is an error of its own.

    Args:
        lines: None of them blank.
        indexes: Place of each in what was sent.
        now: UTC; for events ahead of it.
    """
    events = _decode_at_once(lines)
    return _decode_each(lines, indexes, now) if events is None else Batch(indexes, events, [])


def _decode_at_once(lines: Sequence[bytes]) -> list[EventIn] | None:
    content = b"\n".join(lines)
    # msgspec minds no ends of lines. But where each line begins and ends as an object does, none goes on in the next,
    # and then as many events as lines are one in each.
    borders = content.count(b"}\n{") + content.count(b"}\r\n{")
    if not content.startswith(b"{") or borders != len(lines) - 1 or not is_plain(content):
        return None
    try:
        events = _EVENTS.decode_lines(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return events if len(events) == len(lines) else None


def _decode_each(lines: Sequence[bytes], indexes: Sequence[int], now: datetime) -> Batch:
    batch = Batch([], [], [])
    good: list[int] = []
    for index, line in zip(indexes, lines, strict=True):
        event, messages = _decode_line(line, now)
        if event is None:
            batch.errors.append(ItemError(index, messages))
        else:
            good.append(index)
            batch.events.append(event)
    batch.indexes = good
    return batch


def _decode_line(line: bytes, now: datetime) -> tuple[EventIn | None, Messages]:
    try:
        return decode_one(line, now)
    except MalformedError as ex:
        return None, {"non_field_errors": [f"Invalid data. The line is not valid JSON: {ex.detail}"]}
