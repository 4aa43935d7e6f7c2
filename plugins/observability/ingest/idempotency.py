"""Ids of events that may be sent again: derived from the sender's keys, so that each event is stored once."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from kernel import Database, InvalidError
from plugins.observability.access import SYSTEM, Owner
from plugins.observability.event_ids import derive_suffix, unix_us
from plugins.observability.ingest.normalize import NormalizedBatch
from plugins.observability.models import EventIn
from plugins.observability.queries import QUERIES
from plugins.observability.series import SeriesKey

KEY_MAX = 255
# Of what is remembered of each event of a request.
_DIGEST_BYTES = 16


def read_idempotency_key(text: str | None) -> str | None:
    """Read the header ``Idempotency-Key``; None if the client sent none.

    Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ (a quoted string; most clients
    leave the quotes out).

    Raises:
        InvalidError: It is empty, too long, or not printable ASCII.
    """
    if text is None:
        return None
    key = text.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 0 < len(key) <= KEY_MAX or not key.isascii() or not key.isprintable():
        message = f"Expected 1 to {KEY_MAX} printable characters of ASCII."
        raise InvalidError("The header Idempotency-Key is wrong.", errors={"Idempotency-Key": [message]})
    return key


class IdDerivation:
    """Derives the ids of events from what identifies them.

    An ``event_id`` identifies an event of its service and time, and takes precedence over the key of the request. Under
    a key alone an event is identified by its content and by how many events of the same content precede it. So a replay
    of any part of the batch, in any order, finds the events that are stored.

    Args:
        db: Knows since when an ``event_id`` is one of its service only; see ``migrations/0010_event_id_services.sql``.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._services_from_us: int | None = None

    def derive(
        self,
        batch: NormalizedBatch,
        idempotency_key: str | None,
        owner: Owner = SYSTEM.owner,
        seen: Counter[bytes] | None = None,
    ) -> None:
        """Derive the ids of events in place; those that nothing identifies keep their random ids.

        Args:
            batch: The events.
            idempotency_key: Of the request.
            owner: Whose events: what identifies one of theirs, identifies none of others.
            seen: How many events earlier batches of the request had, by digest of content; those of this one are added.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        has_event_ids = any(event.event_id for event in batch.events)
        if idempotency_key is None and not has_event_ids:
            return
        batch.has_derived_ids = True
        seen = Counter() if seen is None else seen
        services_from_us = self._read_services_from_us() if has_event_ids else 0
        for at, event in enumerate(batch.events):
            if event.event_id:
                is_of_service = batch.times_us[at] >= services_from_us
                service = (batch.series_keys[at].service.encode(),) if is_of_service else ()
                batch.id_suffixes[at] = derive_suffix(b"event_id", owner.id_part, *service, event.event_id.encode())
            elif idempotency_key is not None:
                content = _content(event, batch.times_us[at], batch.series_keys[at])
                digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
                count = seen[digest]
                seen[digest] = count + 1
                key = idempotency_key.encode()
                batch.id_suffixes[at] = derive_suffix(b"key", owner.id_part, key, content, str(count).encode())

    def _read_services_from_us(self) -> int:
        if self._services_from_us is None:
            with self._db.connection() as connection:
                row = connection.execute(QUERIES["event_id_services"]).fetchone()
            if row is None:
                raise LookupError("event_id_services")
            self._services_from_us = unix_us(row[0])
        return self._services_from_us


def _content(event: EventIn, time_us: int, key: SeriesKey) -> bytes:
    texts = (time_us, *key.texts, event.status_code, event.latency_ms, event.trace_id, event.user_ref)
    return msgspec.json.encode(texts) + bytes(event.tags)
