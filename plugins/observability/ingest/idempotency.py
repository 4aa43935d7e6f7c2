"""Ids of events that may be sent again: derived from the sender's keys, so that each event is stored once."""

from __future__ import annotations

from collections import Counter

import msgspec

from kernel import InvalidError
from plugins.observability.event_ids import derive_suffix
from plugins.observability.ingest.normalize import NormalizedBatch
from plugins.observability.models import EventIn
from plugins.observability.series import LOCAL_ACCOUNT, SeriesKey

KEY_MAX = 255


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


def derive_ids(
    batch: NormalizedBatch,
    idempotency_key: str | None,
    account: int = LOCAL_ACCOUNT,
    seen: Counter[bytes] | None = None,
) -> None:
    """Derive the ids of events from what identifies them, in place; the others keep their random ids.

    An ``event_id`` takes precedence over the key of the request. Under a key alone an event is identified by its
    content and by how many events of the same content precede it. So a replay of any part of the batch, in any order,
    finds the events that are stored.

    Args:
        batch: The events.
        idempotency_key: Of the request.
        account: Whose events.
        seen: How many events of each content earlier batches of the request had; those of this one are added.
    """
    if idempotency_key is None and not any(event.event_id for event in batch.events):
        return
    batch.has_derived_ids = True
    seen = Counter() if seen is None else seen
    owner = str(account).encode()
    for at, event in enumerate(batch.events):
        if event.event_id:
            batch.id_suffixes[at] = derive_suffix(b"event_id", owner, event.event_id.encode())
        elif idempotency_key is not None:
            content = _content(event, batch.times_us[at], batch.series_keys[at])
            count = seen[content]
            seen[content] = count + 1
            key = idempotency_key.encode()
            batch.id_suffixes[at] = derive_suffix(b"key", owner, key, content, str(count).encode())


def _content(event: EventIn, time_us: int, key: SeriesKey) -> bytes:
    texts = (time_us, *key.texts, event.status_code, event.latency_ms, event.trace_id, event.user_ref)
    return msgspec.json.encode(texts) + bytes(event.tags)
