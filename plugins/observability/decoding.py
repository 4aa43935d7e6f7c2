"""Decode a batch: the whole of it at once when it is good, item by item when it is not.

A good batch costs one call of msgspec. Only a batch that it refuses is taken apart, and of that only the items it
refuses again are validated in Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from kernel import InvalidError, MalformedError, TooLargeError
from plugins.observability.model import EventIn, ItemError, Messages
from plugins.observability.validation import validate_event


class _Wrapped(msgspec.Struct):
    events: list[EventIn]


class _WrappedRaw(msgspec.Struct):
    events: list[msgspec.Raw]


class Batch(msgspec.Struct):
    """Decoded items.

    Args:
        indexes: Place of each event in what was sent.
        events: The valid ones, in order. Times and blanks are yet to be checked; see ``store.prepare``.
        errors: The others.
    """

    indexes: Sequence[int]
    events: list[EventIn]
    errors: list[ItemError]

    @property
    def sent(self) -> int:
        """How many items were sent."""
        return len(self.events) + len(self.errors)


_ITEM = msgspec.json.Decoder(EventIn)
_ANY = msgspec.json.Decoder()
_FAST: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[EventIn]),
    b"{": msgspec.json.Decoder(_Wrapped),
}
_APART: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[msgspec.Raw]),
    b"{": msgspec.json.Decoder(_WrappedRaw),
}

# What the server cannot store although it is valid JSON: a NUL, or half of a surrogate pair, escaped.
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_SHAPE = 'Expected a list of events or {"events": [...]}.'


def decode_batch(content: bytes, events_max: int, now: datetime) -> Batch:
    """Decode the body of an ingest request.

    Args:
        content: JSON: a list of events, or an object with the member ``events``.
        events_max: More items than this are refused.
        now: UTC; for events ahead of it.

    Raises:
        MalformedError: It is no JSON.
        InvalidError: It is neither a list nor such an object.
        TooLargeError: It has too many items.
    """
    first = content.lstrip()[:1]
    if first not in _FAST:
        _refuse_shape(content)
    try:
        if _is_plain(content):
            events = _unwrap(_FAST[first].decode(content))
            _refuse_many(len(events), events_max)
            return Batch(range(len(events)), events, [])
    except msgspec.ValidationError:
        pass  # some item is wrong: take the batch apart
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        raise malformed(ex) from ex
    items = _take_apart(content, first)
    _refuse_many(len(items), events_max)
    return _decode_each(items, now)


def decode_one(content: bytes, now: datetime) -> tuple[EventIn | None, Messages]:
    """Decode the body of one event.

    Raises:
        MalformedError: It is no JSON.
    """
    return validate_event(decode_any(content), now)


def decode_any(content: bytes) -> Any:
    """Decode JSON into plain Python values, lone surrogates included, for the validator to name.

    Raises:
        MalformedError: It is no JSON.
    """
    try:
        return _ANY.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        if _SUSPICIOUS.search(content) is None:
            raise malformed(ex) from ex
        return _decode_surrogates(content)


def malformed(error: Exception) -> MalformedError:
    """Return the error for a body that is no JSON."""
    return MalformedError("The body is not valid JSON.", detail=str(error))


def _is_plain(content: bytes) -> bool:
    if b"\\u" in content and _SUSPICIOUS.search(content):
        return False
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _take_apart(content: bytes, first: bytes) -> list[Any]:
    try:
        return _unwrap(_APART[first].decode(content))
    except msgspec.ValidationError:
        _refuse_shape(content)
    except (msgspec.DecodeError, RecursionError) as ex:
        # msgspec takes half a surrogate pair for a broken document; the standard library reads on.
        if _SUSPICIOUS.search(content) is None:
            raise malformed(ex) from ex
    return _unwrap(_decode_surrogates(content))


def _decode_surrogates(content: bytes) -> Any:
    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(content, parse_constant=no_constant)
    except (ValueError, RecursionError) as ex:
        raise malformed(ex) from ex


def _unwrap(decoded: Any) -> list[Any]:
    if isinstance(decoded, dict):
        decoded = decoded.get("events")
    items = decoded if isinstance(decoded, list) else getattr(decoded, "events", None)
    if not isinstance(items, list):
        raise InvalidError("The body is wrong.", errors={"non_field_errors": [_SHAPE]})
    return items


def _refuse_shape(content: bytes) -> NoReturn:
    decode_any(content)  # says so if it is not even JSON
    raise InvalidError("The body is wrong.", errors={"non_field_errors": [_SHAPE]})


def _refuse_many(count: int, events_max: int) -> None:
    if count > events_max:
        raise TooLargeError("Too many events in one request.", detail=f"{count} events; the limit is {events_max}")


def _decode_each(items: Sequence[Any], now: datetime) -> Batch:
    indexes: list[int] = []
    events: list[EventIn] = []
    errors: list[ItemError] = []
    for index, item in enumerate(items):
        event, messages = _decode_item(item, now)
        if event is None:
            errors.append(ItemError(index, messages))
        else:
            indexes.append(index)
            events.append(event)
    return Batch(indexes, events, errors)


def _decode_item(item: Any, now: datetime) -> tuple[EventIn | None, Messages]:
    if not isinstance(item, msgspec.Raw):
        return validate_event(item, now)
    content = bytes(item)
    if _is_plain(content):
        try:
            return _ITEM.decode(content), {}
        except msgspec.ValidationError:
            pass  # the patient way takes it, or says what is wrong
    try:
        return validate_event(_ANY.decode(content), now)
    except UnicodeDecodeError:
        return None, {"non_field_errors": ["Invalid data. The item is not UTF-8."]}
    except RecursionError:
        return None, {"non_field_errors": ["Invalid data. The item is nested too deeply."]}
