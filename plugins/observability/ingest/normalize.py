"""Normalize decoded events for the table: strip blanks, round, check times and tags, determine the series of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import msgspec

from kernel import FieldErrors
from plugins.observability.event_ids import (
    EPOCH,
    HIGHEST_SUFFIX,
    LOWEST_SUFFIX,
    IdSuffix,
    make_event_id,
    random_suffixes,
    unix_us,
)
from plugins.observability.ingest.copy import encode_rows
from plugins.observability.ingest.decode import decode_field
from plugins.observability.ingest.tags import invalid_tags_positions
from plugins.observability.ingest.validate import AHEAD_MAX, round_half_up, validate_event
from plugins.observability.methods import is_known, normalize_method
from plugins.observability.models import EventIn, ItemError
from plugins.observability.partitions import DAY_US
from plugins.observability.series import ResolvedSeries, SeriesKey

T = TypeVar("T")
HOUR_US = 3_600_000_000


class NormalizedBatch(msgspec.Struct):
    """Events that can be stored once their series have ids. All sequences run in parallel.

    Args:
        indexes: Position of each event in what was sent.
        events: Their references are stripped of blanks; the texts of their series are in ``series_keys``.
        times_us: Unix time of each, in microseconds.
        series_keys: The series of each.
        id_suffixes: What makes the id of each unique; see ``event_ids``.
        has_derived_ids: Whether some of these are derived from keys, so that the event may be stored already.
        longest_tags_bytes: How long their tags are at most, as sent.
    """

    indexes: Sequence[int]
    events: Sequence[EventIn]
    times_us: Sequence[int]
    series_keys: Sequence[SeriesKey]
    id_suffixes: list[IdSuffix]
    has_derived_ids: bool = False
    longest_tags_bytes: int = 0

    @property
    def days(self) -> set[int]:
        """The days of the events, counted from 1970, UTC."""
        return {time_us // DAY_US for time_us in self.times_us}

    @property
    def hours(self) -> list[datetime]:
        """The hours of the events, UTC."""
        return [EPOCH + timedelta(hours=hour) for hour in {time_us // HOUR_US for time_us in self.times_us}]

    @property
    def time_span(self) -> tuple[datetime, datetime]:
        """The first and the last of the times."""
        first, last = (EPOCH + timedelta(microseconds=time_us) for time_us in (min(self.times_us), max(self.times_us)))
        return first, last

    @property
    def id_range(self) -> dict[str, UUID]:
        """The lowest and the highest id that events between the first and the last of these times can have."""
        first_ms, last_ms = min(self.times_us) // 1000, max(self.times_us) // 1000
        return {
            "first_id": make_event_id(first_ms, LOWEST_SUFFIX),
            "last_id": make_event_id(last_ms, HIGHEST_SUFFIX),
        }

    def positions_before(self, time: datetime) -> list[int]:
        """Return the positions of events that are older than a time."""
        before_us = unix_us(time)
        return [at for at, time_us in enumerate(self.times_us) if time_us < before_us]

    def without(self, positions: Collection[int]) -> NormalizedBatch:
        """Return the batch without the events at some positions."""
        kept = sorted(set(range(len(self.events))).difference(positions))

        def pick(column: Sequence[T]) -> list[T]:
            return [column[at] for at in kept]

        return NormalizedBatch(
            pick(self.indexes),
            pick(self.events),
            pick(self.times_us),
            pick(self.series_keys),
            pick(self.id_suffixes),
            self.has_derived_ids,
            self.longest_tags_bytes,
        )

    def rows(self, series: ResolvedSeries) -> list[bytes]:
        """Encode the events as rows of the COPY format.

        Args:
            series: Has every one of ``series_keys``.
        """
        ids = series.ids
        series_ids = [ids[key] for key in self.series_keys]
        # A generator: until its row is encoded, an event's tags are a view of the body and no copy.
        tags = (bytes(event.tags) for event in self.events)
        if series.substitutes:
            tags = (series.preserve_original(key, text) for key, text in zip(self.series_keys, tags, strict=True))
        return encode_rows(self.events, self.times_us, series_ids, tags, self.id_suffixes)

    def columns(self, series: ResolvedSeries) -> dict[str, object]:
        """Return the only event of the batch as parameters of ``insert_event_with_entry``."""
        (key,), (event,), (time_us,), (suffix,) = self.series_keys, self.events, self.times_us, self.id_suffixes
        return {
            "id": make_event_id(time_us // 1000, suffix),
            "time": EPOCH + timedelta(microseconds=time_us),
            "series": series.ids[key],
            "status_code": event.status_code,
            "latency_ms": event.latency_ms,
            "trace_id": event.trace_id,
            "user_ref": event.user_ref,
            "tags": series.preserve_original(key, bytes(event.tags)).decode(),
        }

    def capped_indexes(self, series: ResolvedSeries) -> frozenset[int]:
        """Return the indexes of events whose own series had no room."""
        if not series.capped:
            return frozenset()
        return frozenset(at for at, key in zip(self.indexes, self.series_keys, strict=True) if key in series.capped)

    def unknown_method_indexes(self, series: ResolvedSeries) -> frozenset[int]:
        """Return the indexes of events whose method is not a registered one.

        Args:
            series: Has every one of ``series_keys``, each once.
        """
        unknown = {key for key in series.ids if not is_known(key.method)}
        if not unknown:
            return frozenset()
        return frozenset(at for at, key in zip(self.indexes, self.series_keys, strict=True) if key in unknown)


def normalize(
    indexes: Sequence[int],
    events: Sequence[EventIn],
    now: datetime,
    derived_suffixes: list[IdSuffix] | None = None,
) -> tuple[NormalizedBatch, list[ItemError]]:
    """Normalize events, and check what the decoder cannot: times, texts of blanks alone, what tags hold.

    Args:
        indexes: Position of each event in what was sent.
        events: From ``decode``; they are changed in place.
        now: UTC; events may be a day ahead of it.
        derived_suffixes: What the id of each event is derived from keys as; random by default.

    Returns:
        The valid events, and the errors of the others.
    """
    suffixes = random_suffixes(len(events)) if derived_suffixes is None else derived_suffixes
    keys = _normalize_values(events)
    batch = NormalizedBatch(indexes, events, _times_us(events), keys, suffixes, derived_suffixes is not None)
    invalid = _invalid_positions(batch, unix_us(now + AHEAD_MAX))
    if not invalid:
        return batch, []
    return batch.without(invalid), [ItemError(indexes[at], _validate_again(events[at], now)) for at in invalid]


def _times_us(events: Sequence[EventIn]) -> list[int]:
    """Return the times of events as ``unix_us`` does, all at once."""
    try:
        ages = [event.time - EPOCH for event in events]
    except TypeError:  # some time has no offset
        return [unix_us(event.time) for event in events]
    return [(age.days * 86_400 + age.seconds) * 1_000_000 + age.microseconds for age in ages]


def _normalize_values(events: Sequence[EventIn]) -> list[SeriesKey]:
    """Strip the texts of events and round their latencies, in place; return the series of each event."""
    keys: list[SeriesKey] = []
    stripped: dict[tuple[str, str, str, bool], SeriesKey] = {}
    for event in events:
        latency_ms = event.latency_ms
        given = (event.service, event.endpoint, event.method, latency_ms is not None)
        key = stripped.get(given)
        if key is None:
            key = stripped[given] = SeriesKey(given[0].strip(), given[1].strip(), normalize_method(given[2]), given[3])
        keys.append(key)
        if latency_ms.__class__ is float:
            event.latency_ms = round_half_up(latency_ms)
        if event.trace_id is not None:
            event.trace_id = event.trace_id.strip()
        if event.user_ref is not None:
            event.user_ref = event.user_ref.strip()
        if event.event_id is not None:
            event.event_id = event.event_id.strip()
    return keys


def _invalid_positions(batch: NormalizedBatch, time_max_us: int) -> list[int]:
    # A look at all events at once for each fault, because nearly always there is none.
    tags = [event.tags for event in batch.events]
    batch.longest_tags_bytes = max(map(len, tags), default=0)
    invalid = set(invalid_tags_positions(tags, batch.longest_tags_bytes))
    invalid.update(at for at, event in enumerate(batch.events) if event.event_id == "")
    times_us = batch.times_us
    if times_us and not 0 <= min(times_us) <= max(times_us) <= time_max_us:
        invalid.update(at for at, time_us in enumerate(times_us) if not 0 <= time_us <= time_max_us)
    blank = {key for key in set(batch.series_keys) if "" in key}
    if blank:
        invalid.update(at for at, key in enumerate(batch.series_keys) if key in blank)
    return sorted(invalid)


def _validate_again(event: EventIn, now: datetime) -> FieldErrors:
    """Return what is wrong with an event, as validation words it."""
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    tags = decode_field("tags", bytes(event.tags))
    _, messages = validate_event({**values, "time": event.time.isoformat(), "tags": tags}, now)
    return messages
