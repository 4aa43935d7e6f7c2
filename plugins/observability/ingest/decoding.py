"""Decode a batch: the whole of it at once when it is good, item by item when it is not.

A good batch costs one call of msgspec. Only a batch that it refuses is taken apart, and of that only the items it
refuses again are validated in Python, field by field: whatever cannot be read costs no more than its own field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from kernel import InvalidError, MalformedError, TooLargeError
from plugins.observability.ingest.splitting import split_array, split_object
from plugins.observability.ingest.validation import Unreadable, validate_event
from plugins.observability.model import EventIn, ItemError, Messages


class _Wrapped(msgspec.Struct):
    events: list[EventIn]


class _WrappedRaw(msgspec.Struct):
    events: list[msgspec.Raw]


class Batch(msgspec.Struct):
    """Decoded items.

    Args:
        indexes: Place of each event in what was sent.
        events: The valid ones, in order. Times and blanks are yet to be checked; see ``preparing``.
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
_RAW = msgspec.json.Decoder(msgspec.Raw)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FAST: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[EventIn]),
    b"{": msgspec.json.Decoder(_Wrapped),
}
_APART: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[msgspec.Raw]),
    b"{": msgspec.json.Decoder(_WrappedRaw),
}

_SHAPE = 'Expected a list of events or {"events": [...]}.'
_FIELDS = frozenset(EventIn.__struct_fields__)
# Everything msgspec raises for a text that it cannot read to its end.
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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
    if is_plain(content):
        try:
            events = _unwrap(_FAST[first].decode(content))
        except _BROKEN:
            pass  # some item is wrong: take the batch apart
        else:
            _refuse_many(len(events), events_max)
            return Batch(range(len(events)), events, [])
    items = _take_apart(content, first)
    _refuse_many(len(items), events_max)
    return _decode_each(items, now)


def decode_one(content: bytes, now: datetime) -> tuple[EventIn | None, Messages]:
    """Decode and validate one event.

    Returns:
        The event and no messages, or None and what is wrong by field.

    Raises:
        MalformedError: It is no JSON.
    """
    if is_plain(content):
        try:
            return _ITEM.decode(content), {}
        except _BROKEN:
            pass  # the patient way takes it, or says what is wrong
    return validate_event(decode_item(content), now)


def decode_item(content: bytes) -> Any:
    """Decode the body of one event for the validator: values by field, ``Unreadable`` where there is none.

    Raises:
        MalformedError: It is no JSON.
    """
    try:
        members: dict[str, msgspec.Raw] = _MEMBERS.decode(content)
    except msgspec.ValidationError:
        return _decode_value(content)  # no object
    except _BROKEN as ex:
        return _decode_members(content, ex)
    return {name: decode_member(name, bytes(raw)) for name, raw in members.items() if name in _FIELDS}


def decode_member(name: str, content: bytes) -> Any:
    """Decode the value of one field. Tags stay JSON if the server can take them as they are."""
    if name == "tags" and content.startswith(b"{") and is_plain(content):
        try:
            return _RAW.decode(content)
        except _BROKEN:
            pass
    return _decode_value(content)


def _decode_members(content: bytes, reason: Exception) -> Any:
    if content.lstrip()[:1] != b"{":
        return _decode_value(content)
    try:
        members = split_object(content)
    except ValueError:
        raise _malformed(reason) from reason
    # Also those that are no field of ours: something in here is broken, and it should be JSON at least.
    names = {key: key.decode("ascii", "replace") for key in members}
    values = {names[key]: decode_member(names[key], value) for key, value in members.items()}
    return {name: value for name, value in values.items() if name in _FIELDS}


def _decode_value(content: bytes) -> Any:
    """Decode any value, half surrogate pairs included, for the validator to name.

    Raises:
        MalformedError: It is no JSON.
    """
    try:
        return _ANY.decode(content)
    except msgspec.ValidationError:
        return Unreadable("A number is out of range.")
    except UnicodeDecodeError:
        return Unreadable("The text is not UTF-8.")
    except RecursionError:
        return Unreadable("The value is nested too deeply.")
    except msgspec.DecodeError as ex:
        # msgspec takes half a surrogate pair for a broken text; the standard library reads on.
        return _decode_surrogates(content, ex)


def _decode_surrogates(content: bytes, reason: Exception) -> Any:
    def no_constant(_name: str) -> NoReturn:
        raise _malformed(reason) from reason

    try:
        return json.loads(content.decode(errors="replace"), parse_constant=no_constant)
    except json.JSONDecodeError:
        raise _malformed(reason) from reason
    except RecursionError:
        return Unreadable("The value is nested too deeply.")
    except ValueError:
        return Unreadable("A number is out of range.")


def _malformed(error: Exception) -> MalformedError:
    return MalformedError("The body is not valid JSON.", detail=str(error))


def is_plain(content: bytes) -> bool:
    """Tell whether the server can store every text in here that msgspec takes: UTF-8 without an escaped NUL."""
    # A single byte is found many times faster than several, and most bodies have no escapes at all.
    if b"\\" in content and b"\\u0000" in content:
        return False
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _take_apart(content: bytes, first: bytes) -> list[bytes]:
    try:
        return [bytes(item) for item in _unwrap(_APART[first].decode(content))]
    except msgspec.ValidationError:
        _refuse_shape(content)
    except _BROKEN as ex:
        return _split(content, first, ex)


def _split(content: bytes, first: bytes, reason: Exception) -> list[bytes]:
    try:
        array = content if first == b"[" else split_object(content).get(b"events", b"")
        items = split_array(array) if array.lstrip().startswith(b"[") else None
    except ValueError:
        raise _malformed(reason) from reason
    if items is None:
        _refuse_shape(content)
    return items


def _unwrap(decoded: Any) -> list[Any]:
    items: list[Any] = decoded if isinstance(decoded, list) else decoded.events
    return items


def _refuse_shape(content: bytes) -> NoReturn:
    _decode_value(content)  # says so if it is not even JSON
    raise InvalidError("The body is wrong.", errors={"non_field_errors": [_SHAPE]})


def _refuse_many(count: int, events_max: int) -> None:
    if count > events_max:
        raise TooLargeError("Too many events in one request.", detail=f"{count} events; the limit is {events_max}")


def _decode_each(items: Sequence[bytes], now: datetime) -> Batch:
    indexes: list[int] = []
    events: list[EventIn] = []
    errors: list[ItemError] = []
    for index, item in enumerate(items):
        try:
            event, messages = decode_one(item, now)
        except MalformedError as ex:
            raise MalformedError(ex.message, detail=f"item {index}: {ex.detail}") from ex
        if event is None:
            errors.append(ItemError(index, messages))
        else:
            indexes.append(index)
            events.append(event)
    return Batch(indexes, events, errors)
