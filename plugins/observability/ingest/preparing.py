"""Prepare decoded events for the table: blanks cut, times checked, texts gathered into series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import msgspec

from plugins.observability.ids import EPOCH, HIGHEST_TAIL, LOWEST_TAIL, Tail, make_id
from plugins.observability.ingest.decoding import decode_member
from plugins.observability.ingest.rows import encode_rows, unix_us, unix_us_of
from plugins.observability.ingest.validation import AHEAD_MAX, utc, validate_event
from plugins.observability.model import EventIn, ItemError, Messages
from plugins.observability.partitions import DAY_US
from plugins.observability.series import Numbered, SeriesKey

T = TypeVar("T")
HOUR_US = 3_600_000_000
_OBJECT = ord("{")


class Prepared(msgspec.Struct):
    """Events that can be stored once their series have numbers. All lists run in parallel.

    Args:
        indexes: Place of each event in what was sent.
        events: With blanks cut.
        times_us: Unix time of each in microseconds.
        keys: Series of each.
    """

    indexes: Sequence[int]
    events: Sequence[EventIn]
    times_us: Sequence[int]
    keys: Sequence[SeriesKey]

    @property
    def days(self) -> set[int]:
        """The days they fall on, as numbers since 1970, UTC."""
        return {time_us // DAY_US for time_us in self.times_us}

    @property
    def hours(self) -> list[datetime]:
        """The hours, UTC, in which there are events."""
        return [EPOCH + timedelta(hours=hour) for hour in {time_us // HOUR_US for time_us in self.times_us}]

    @property
    def id_range(self) -> dict[str, UUID]:
        """The first and the last id that events of these times can have."""
        first_ms, last_ms = min(self.times_us) // 1000, max(self.times_us) // 1000
        return {
            "first_id": make_id(first_ms, LOWEST_TAIL),
            "last_id": make_id(last_ms, HIGHEST_TAIL),
        }

    def wrong(self, ahead_us: int) -> list[int]:
        """Return the places of events that cannot be stored.

        Args:
            ahead_us: The latest time an event may have.
        """
        nameless = {key for key in set(self.keys) if not all(key)}
        return [
            at
            for at, (event, time_us, key) in enumerate(zip(self.events, self.times_us, self.keys, strict=True))
            if not 0 <= time_us <= ahead_us
            or memoryview(event.tags)[0] != _OBJECT
            or event.event_id == ""
            or (nameless and key in nameless)
        ]

    def before(self, since: datetime) -> list[int]:
        """Return the places of events that are older than a time."""
        since_us = unix_us(since)
        return [at for at, time_us in enumerate(self.times_us) if time_us < since_us]

    def without(self, wrong: Collection[int]) -> Prepared:
        """Return the events at the other places."""
        good = sorted(set(range(len(self.events))).difference(wrong))

        def pick(column: Sequence[T]) -> list[T]:
            return [column[at] for at in good]

        return Prepared(pick(self.indexes), pick(self.events), pick(self.times_us), pick(self.keys))

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

    def columns(self, numbered: Numbered, tail: Tail) -> dict[str, object]:
        """Return the columns of an event that is the only one."""
        (key,), (event,), (time_us,) = self.keys, self.events, self.times_us
        return {
            "id": make_id(time_us // 1000, tail),
            "time": utc(event.time),
            "series": numbered.numbers[key],
            "status_code": event.status_code,
            "latency_ms": event.latency_ms,
            "trace_id": event.trace_id,
            "user_ref": event.user_ref,
            "tags": numbered.tags(key, bytes(event.tags)).decode(),
        }

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
    prepared = Prepared(indexes, events, unix_us_of(events), _cut_blanks(events))
    wrong = prepared.wrong(unix_us(now + AHEAD_MAX))
    if not wrong:
        return prepared, []
    return prepared.without(wrong), [ItemError(indexes[at], _messages(events[at], now)) for at in wrong]


def _cut_blanks(events: Sequence[EventIn]) -> list[SeriesKey]:
    """Cut the blanks around texts, in place; return the series of each event."""
    keys: list[SeriesKey] = []
    seen: dict[SeriesKey, SeriesKey] = {}
    for event in events:
        sent = (event.service, event.endpoint, event.method)
        key = seen.get(sent)
        if key is None:
            key = seen[sent] = (sent[0].strip(), sent[1].strip(), sent[2].strip())
        keys.append(key)
        if event.trace_id is not None:
            event.trace_id = event.trace_id.strip()
        if event.user_ref is not None:
            event.user_ref = event.user_ref.strip()
        if event.event_id is not None:
            event.event_id = event.event_id.strip()
    return keys


def _messages(event: EventIn, now: datetime) -> Messages:
    raw = {name: getattr(event, name) for name in event.__struct_fields__}
    tags = decode_member("tags", bytes(event.tags))
    _, messages = validate_event({**raw, "time": event.time.isoformat(), "tags": tags}, now)
    return messages
