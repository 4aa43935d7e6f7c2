"""What an event is known by, so that it is stored once however often it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from kernel import InvalidError
from plugins.observability.ids import Tail, derived_tail, random_tails
from plugins.observability.ingest.preparing import Prepared
from plugins.observability.model import EventIn
from plugins.observability.series import LOCAL_ACCOUNT, SeriesKey

KEY_MAX = 255


def read_key(text: str | None) -> str | None:
    """Read the header ``Idempotency-Key``; None if the client sent none.

    Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ (a string in quotes; most
    clients leave the quotes out).

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


def event_tail(event_id: str, account: int = LOCAL_ACCOUNT) -> Tail:
    """Return what makes the id of an event that came with an ``event_id`` of its sender's."""
    return derived_tail(b"event_id", str(account).encode(), event_id.encode())


def derived_tails(
    prepared: Prepared, key: str | None, account: int = LOCAL_ACCOUNT, seen: Counter[bytes] | None = None
) -> list[Tail] | None:
    """Return what makes the ids of events that may come again; None if none of them can be told from a new one.

    An ``event_id`` counts before the key. With a key alone an event is known by its content, and by how many of the
    same content stood before it: so a replay of any part of the batch finds what is there, in any order.

    Args:
        prepared: The events.
        key: Of the request.
        account: Whose events.
        seen: Contents in earlier batches under the key; those of this one are added.
    """
    if key is None and not any(event.event_id for event in prepared.events):
        return None
    tails = random_tails(len(prepared.events))
    seen = Counter() if seen is None else seen
    for at, event in enumerate(prepared.events):
        if event.event_id:
            tails[at] = event_tail(event.event_id, account)
        elif key is not None:
            content = _content(event, prepared.times_us[at], prepared.keys[at])
            count = seen[content]
            seen[content] = count + 1
            tails[at] = derived_tail(b"key", str(account).encode(), key.encode(), content, str(count).encode())
    return tails


def single_tail(prepared: Prepared, key: str | None) -> Tail:
    """Return what makes the id of one event."""
    tails: Sequence[Tail] = derived_tails(prepared, key) or random_tails(1)
    return tails[0]


def _content(event: EventIn, time_us: int, key: SeriesKey) -> bytes:
    texts = (time_us, *key, event.status_code, event.latency_ms, event.trace_id, event.user_ref)
    return msgspec.json.encode(texts) + bytes(event.tags)
