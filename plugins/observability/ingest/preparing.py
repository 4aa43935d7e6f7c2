"""Prepare decoded events for the table: blanks cut, times checked, texts gathered into series."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from plugins.observability.ids import HIGHEST_TAIL, LOWEST_TAIL, Tail, make_id
from plugins.observability.ingest.decoding import decode_member
from plugins.observability.ingest.rows import encode_rows, unix_us
from plugins.observability.ingest.validation import AHEAD_MAX, validate_event
from plugins.observability.model import EventIn, ItemError, Messages
from plugins.observability.partitions import DAY_US
from plugins.observability.series import Numbered, SeriesKey

_OBJECT = ord("{")


class Prepared(msgspec.Struct):
    """Events that can be stored once their series have numbers. All lists run in parallel.

    Args:
        indexes: Place of each event in what was sent.
        events: With blanks cut.
        times_us: Unix time of each in microseconds.
        keys: Series of each.
    """

    indexes: list[int]
    events: list[EventIn]
    times_us: list[int]
    keys: list[SeriesKey]

    @property
    def days(self) -> set[int]:
        """The days they fall on, as numbers since 1970, UTC."""
        return {time_us // DAY_US for time_us in self.times_us}

    @property
    def id_range(self) -> dict[str, UUID]:
        """The first and the last id that events of these times can have."""
        first_ms, last_ms = min(self.times_us) // 1000, max(self.times_us) // 1000
        return {
            "first_id": make_id(first_ms, LOWEST_TAIL),
            "last_id": make_id(last_ms, HIGHEST_TAIL),
        }

    def rows(self, numbered: Numbered, tails: Sequence[Tail]) -> list[bytes]:
        """Encode the rows of the COPY format.

        Args:
            numbered: Every series in ``keys``.
            tails: What makes each id unique within its millisecond; see ``ids``.
        """
        numbers = numbered.numbers
        series = [numbers[key] for key in self.keys]
        # One after the other: until its row is made, an event's tags are a view of the body and no copy.
        tags = (bytes(event.tags) for event in self.events)
        if numbered.changed:
            tags = (numbered.tags(key, text) for key, text in zip(self.keys, tags, strict=True))
        return encode_rows(self.events, self.times_us, series, tags, tails)

    def capped(self, numbered: Numbered) -> frozenset[int]:
        """Return the indexes of events whose own series had no room."""
        if not numbered.capped:
            return frozenset()
        return frozenset(at for at, key in zip(self.indexes, self.keys, strict=True) if key in numbered.capped)


def prepare(indexes: Sequence[int], events: Sequence[EventIn], now: datetime) -> tuple[Prepared, list[ItemError]]:
    """Check what the decoder cannot: times, texts that are nothing but blanks, tags that are no object.

    Args:
        indexes: Place of each event in what was sent.
        events: From ``decoding``; they are changed in place.
        now: UTC.

    Returns:
        The good ones, and errors of the others.
    """
    prepared = Prepared([], [], [], [])
    errors: list[ItemError] = []
    ahead_us = unix_us(now + AHEAD_MAX)
    cleaned: dict[SeriesKey, SeriesKey] = {}
    for index, event in zip(indexes, events, strict=True):
        raw_key = (event.service, event.endpoint, event.method)
        key = cleaned.get(raw_key)
        if key is None:
            key = cleaned[raw_key] = (raw_key[0].strip(), raw_key[1].strip(), raw_key[2].strip())
        if event.event_id is not None:
            event.event_id = event.event_id.strip()
        time_us = unix_us(event.time)
        is_named = key[0] and key[1] and key[2] and event.event_id != ""
        if not (is_named and 0 <= time_us <= ahead_us and memoryview(event.tags)[0] == _OBJECT):
            errors.append(ItemError(index, _messages(event, now)))
            continue
        if event.trace_id is not None:
            event.trace_id = event.trace_id.strip()
        if event.user_ref is not None:
            event.user_ref = event.user_ref.strip()
        prepared.indexes.append(index)
        prepared.events.append(event)
        prepared.times_us.append(time_us)
        prepared.keys.append(key)
    return prepared, errors


def _messages(event: EventIn, now: datetime) -> Messages:
    raw = {name: getattr(event, name) for name in event.__struct_fields__}
    tags = decode_member("tags", bytes(event.tags))
    _, messages = validate_event({**raw, "time": event.time.isoformat(), "tags": tags}, now)
    return messages
