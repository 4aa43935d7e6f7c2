"""Decode events out of JSON: a batch, a line each, or a single one.

The fast path decodes a whole batch by one call of msgspec. Only a batch that msgspec rejects is split into its items,
and only the items that it rejects again are decoded into plain values for ``validate``, field by field, so that one
unreadable field does not hide the others.

Memory is bounded before it is taken: a valid event takes a few times the bytes of its JSON, but two bytes of other JSON
can take hundreds. So items are counted before a body is split, and none is decoded into plain values that is very long.

Both paths read every value alike. Where msgspec does not, the fast path looks for what it reads differently: of the
fraction of a second, digits beyond microseconds, which msgspec rounds and ``parse_time`` cuts off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from kernel import FieldErrors, InvalidError, MalformedError, TooLargeError
from kernel.http import current_deadline
from plugins.observability.ingest.validate import Undecodable, validate_event
from plugins.observability.models import EventIn, ItemError


class DecodedBatch(msgspec.Struct):
    """The items of a batch, decoded. Times and blanks are left to ``normalize``.

    Args:
        indexes: Position of each event in what was sent.
        events: The valid events, in order.
        errors: The other items.
    """

    indexes: Sequence[int]
    events: list[EventIn]
    errors: list[ItemError]

    @property
    def received(self) -> int:
        """How many items were sent."""
        return len(self.events) + len(self.errors)


class _Wrapped(msgspec.Struct):
    events: list[EventIn]


class _WrappedRaw(msgspec.Struct):
    events: list[msgspec.Raw]


class _WrappedArray(msgspec.Struct):
    events: msgspec.Raw


class _TimeText(msgspec.Struct, gc=False):
    time: str


class _WrappedTimes(msgspec.Struct):
    events: list[_TimeText]


# A longer event is not decoded into plain values, and a longer line of a stream is refused.
EVENT_MAX_BYTES = 1024 * 1024
_TOO_LONG = f"Invalid data. An event may have at most {EVENT_MAX_BYTES} bytes."
# Those in strings included, which no event has as many of.
_OPENINGS_PER_EVENT = 20
_OPENINGS_MIN = 100_000
_FIRST = re.compile(rb"[^ \t\r\n]")
_EVENT = msgspec.json.Decoder(EventIn)
_TIME = msgspec.json.Decoder(_TimeText)
_ANY = msgspec.json.Decoder()
_RAW = msgspec.json.Decoder(msgspec.Raw)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WRAPPED_ARRAY = msgspec.json.Decoder(_WrappedArray)
# By the first byte of the body.
_BATCH: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[EventIn]),
    b"{": msgspec.json.Decoder(_Wrapped),
}
_RAW_BATCH: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[msgspec.Raw]),
    b"{": msgspec.json.Decoder(_WrappedRaw),
}

_TIMES_BATCH: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"[": msgspec.json.Decoder(list[_TimeText]),
    b"{": msgspec.json.Decoder(_WrappedTimes),
}
# Seven digits after a minute and a second, wherever they are. The search begins with a single byte, which is fast.
_LONG_FRACTION = re.compile(rb"\.(?<=[0-9]:[0-9][0-9]\.)[0-9]{7}")
# No encoder escapes digits, points and colons, but msgspec reads a time that has them escaped.
_ESCAPED_DIGIT = re.compile(rb"\\u00(?:2[eE]|3[0-9aA])")

# Left where a log was truncated while it was written, and where a file was begun or another one appended.
_NO_TEXT = re.compile(rb"(?:\x00|\xef\xbb\xbf)+")

_EXPECTED = 'Expected a list of events or {"events": [...]}.'
_FIELDS = frozenset(EventIn.__struct_fields__)
# Everything msgspec raises for a text that it cannot read to its end.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_batch(content: bytes, events_max: int, now: datetime) -> DecodedBatch:
    """Decode the body of an ingest request.

    Args:
        content: JSON: a list of events, or an object with the member ``events``.
        events_max: The most items it may have.
        now: UTC; events may be a day ahead of it.

    Raises:
        MalformedError: It is not JSON.
        InvalidError: It is neither a list nor such an object.
        TooLargeError: It has too many items.
    """
    first = _FIRST.search(content)
    kind = first[0] if first else b""
    if kind not in _BATCH:
        raise _unexpected(content)
    # An event has one object, and tags another. With more, either there are too many events, or their tags are nested.
    if content.count(b"{") > 2 * events_max:
        _ensure_at_most(events_max, content, kind)
    if is_storable_text(content):
        try:
            events = _unwrap(_BATCH[kind].decode(content))
            if _may_have_long_fraction(content):
                _parse_times_again(events, _unwrap(_TIMES_BATCH[kind].decode(content)))
        except _DECODE_ERRORS:
            pass  # some item is wrong: decode them one by one
        else:
            _ensure_count(len(events), events_max)
            return DecodedBatch(range(len(events)), events, [])
    _ensure_at_most(events_max, content, kind)
    items = _split_batch(content, kind)
    _ensure_count(len(items), events_max)
    return _decode_items(items, now)


def clean_line(line: bytes) -> bytes:
    """Return a line without the NULs and byte order marks before its text."""
    if line.startswith(b"{"):
        return line
    junk = _NO_TEXT.match(line)
    return line if junk is None else line[junk.end() :]


def decode_lines(lines: Sequence[bytes], indexes: Sequence[int], now: datetime) -> DecodedBatch:
    """Decode one event from each line. A line that is not JSON is an error of that line.

    Args:
        lines: None of them blank.
        indexes: Position of each in what was sent.
        now: UTC; events may be a day ahead of it.
    """
    events = _decode_all_lines(lines)
    if events is not None:
        return DecodedBatch(indexes, events, [])
    return _decode_each_line(lines, indexes, now)


def decode_event(content: bytes, now: datetime) -> tuple[EventIn | None, FieldErrors]:
    """Decode and validate one event.

    Returns:
        The event and no messages, or None and what is wrong by field.

    Raises:
        MalformedError: It is not JSON.
    """
    if is_storable_text(content) and not _may_have_long_fraction(content):
        try:
            return _EVENT.decode(content), {}
        except _DECODE_ERRORS:
            pass  # validation takes it after all, or says what is wrong
    return validate_event(decode_fields(content), now)


def decode_fields(content: bytes) -> Any:
    """Decode one event for validation: values by field, ``Undecodable`` where there is none.

    Raises:
        MalformedError: It is not JSON.
    """
    try:
        members: dict[str, msgspec.Raw] = _MEMBERS.decode(content)
    except msgspec.ValidationError:
        return _decode_value(content)  # no object
    except _DECODE_ERRORS as ex:
        return _decode_split_fields(content, ex)
    return {name: decode_field(name, bytes(raw)) for name, raw in members.items() if name in _FIELDS}


def decode_field(name: str, content: bytes) -> Any:
    """Decode the value of one field. Tags stay JSON if they are an object, in UTF-8."""
    if name == "tags" and content.startswith(b"{") and _is_utf8(content):
        try:
            return _RAW.decode(content)
        except _DECODE_ERRORS:
            pass
    return _decode_value(content)


def is_storable_text(content: bytes) -> bool:
    """Tell whether the server can store every text in here that msgspec decodes: UTF-8 without an escaped NUL."""
    # A single byte is found many times faster than several, and most bodies have no escapes at all.
    if b"\\" in content and b"\\u0000" in content:
        return False
    return _is_utf8(content)


def _is_utf8(content: bytes) -> bool:
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_have_long_fraction(content: bytes) -> bool:
    """Tell whether some time in here may have digits beyond microseconds."""
    if _LONG_FRACTION.search(content):
        return True
    return b"\\" in content and _ESCAPED_DIGIT.search(content) is not None


def _parse_times_again(events: Sequence[EventIn], texts: Sequence[_TimeText]) -> None:
    """Replace the times of events, which msgspec may have rounded.

    What msgspec takes for a time needs no more than this part of ``parse_time``, which is many times faster.

    Args:
        events: In order; changed in place.
        texts: The same events.
    """
    for event, text in zip(events, texts, strict=True):
        event.time = datetime.fromisoformat(text.time.upper())


def _decode_items(items: Sequence[bytes], now: datetime) -> DecodedBatch:
    indexes: list[int] = []
    events: list[EventIn] = []
    errors: list[ItemError] = []
    deadline = current_deadline()
    for index, item in enumerate(items):
        deadline.check()
        if len(item) > EVENT_MAX_BYTES:
            errors.append(ItemError(index, {"non_field_errors": [_TOO_LONG]}))
            continue
        try:
            event, messages = decode_event(item, now)
        except MalformedError as ex:
            raise MalformedError(ex.message, detail=f"item {index}: {ex.detail}") from ex
        if event is None:
            errors.append(ItemError(index, messages))
        else:
            indexes.append(index)
            events.append(event)
    return DecodedBatch(indexes, events, errors)


def _decode_all_lines(lines: Sequence[bytes]) -> list[EventIn] | None:
    """Decode lines by one call; None if some line is not exactly one valid event."""
    content = b"\n".join(lines)
    # msgspec ignores line ends. But if each line begins and ends as an object does, no object spans two lines; as many
    # events as lines are then one in each.
    boundaries = content.count(b"}\n{") + content.count(b"}\r\n{")
    if not content.startswith(b"{") or boundaries != len(lines) - 1 or not is_storable_text(content):
        return None
    try:
        events = _EVENT.decode_lines(content)
        if _may_have_long_fraction(content):
            _parse_times_again(events, _TIME.decode_lines(content))
    except _DECODE_ERRORS:
        return None
    return events if len(events) == len(lines) else None


def _decode_each_line(lines: Sequence[bytes], indexes: Sequence[int], now: datetime) -> DecodedBatch:
    valid: list[int] = []
    events: list[EventIn] = []
    errors: list[ItemError] = []
    deadline = current_deadline()
    for index, line in zip(indexes, lines, strict=True):
        deadline.check()
        try:
            event, messages = decode_event(line, now)
        except MalformedError as ex:
            event, messages = None, {"non_field_errors": [f"Invalid data. The line is not valid JSON: {ex.detail}"]}
        if event is None:
            errors.append(ItemError(index, messages))
        else:
            valid.append(index)
            events.append(event)
    return DecodedBatch(valid, events, errors)


def _decode_split_fields(content: bytes, reason: Exception) -> Any:
    """Decode the fields of an object that msgspec cannot read as a whole."""
    if content.lstrip()[:1] != b"{":
        return _decode_value(content)
    try:
        members = _split_object(content)
    except ValueError:
        raise _malformed(reason) from reason
    # All of them, not only those of events: something in here is broken, and everything should at least be JSON.
    names = {key: key.decode("ascii", "replace") for key in members}
    values = {names[key]: decode_field(names[key], value) for key, value in members.items()}
    return {name: value for name, value in values.items() if name in _FIELDS}


def _decode_value(content: bytes) -> Any:
    """Decode any value; one that Python cannot hold becomes ``Undecodable``.

    Raises:
        MalformedError: It is not JSON.
    """
    try:
        return _ANY.decode(content)
    except msgspec.ValidationError:
        return Undecodable("A number is out of range.")
    except UnicodeDecodeError:
        return Undecodable("The text is not UTF-8.")
    except RecursionError:
        return Undecodable("The value is nested too deeply.")
    except msgspec.DecodeError as ex:
        # msgspec takes half a surrogate pair for malformed text; the standard library decodes it.
        return _decode_surrogates(content, ex)


def _decode_surrogates(content: bytes, reason: Exception) -> Any:
    def reject_constant(_name: str) -> NoReturn:
        raise _malformed(reason) from reason  # NaN and Infinity are not JSON

    try:
        return json.loads(content.decode(errors="replace"), parse_constant=reject_constant)
    except json.JSONDecodeError:
        raise _malformed(reason) from reason
    except RecursionError:
        return Undecodable("The value is nested too deeply.")
    except ValueError:
        return Undecodable("A number is out of range.")


def _split_batch(content: bytes, first: bytes) -> list[bytes]:
    """Return the items of a batch, each still JSON.

    Raises:
        MalformedError: The body is not JSON.
        InvalidError: It is neither a list nor an object with a list ``events``.
    """
    try:
        return [bytes(item) for item in _unwrap(_RAW_BATCH[first].decode(content))]
    except msgspec.ValidationError:
        raise _unexpected(content) from None
    except _DECODE_ERRORS as ex:
        reason = ex
    # Half a surrogate pair or endless nesting in one item makes msgspec give up the whole body.
    try:
        array = _array(content, first)
        if array.lstrip().startswith(b"["):
            return _split_array(array)
    except ValueError:
        raise _malformed(reason) from reason
    raise _unexpected(content)


def _unwrap(decoded: Any) -> list[Any]:
    items: list[Any] = decoded if isinstance(decoded, list) else decoded.events
    return items


def _ensure_at_most(events_max: int, content: bytes, kind: bytes) -> None:
    """Check how many items a batch has, by counting them no further than one too many.

    Raises:
        TooLargeError: It has more, or so many arrays and objects that to split them would take long.
    """
    openings_max = max(_OPENINGS_MIN, _OPENINGS_PER_EVENT * events_max)
    if content.count(b"[") + content.count(b"{") > openings_max:
        raise TooLargeError(detail=f"the events have more than {openings_max} arrays and objects")
    if content.count(b",") < events_max:
        return
    with suppress(ValueError):  # not JSON, which decoding will word better
        for count, _ in enumerate(_split(_array(content, kind), b"[]"), 1):
            _ensure_count(count, events_max)


def _ensure_count(count: int, events_max: int) -> None:
    if count > events_max:
        raise TooLargeError("Too many events in one request.", detail=f"the limit is {events_max}")


def _unexpected(content: bytes) -> InvalidError:
    if len(content) <= EVENT_MAX_BYTES:
        _decode_value(content)  # raises if it is not even JSON
    else:
        try:
            _RAW.decode(content)
        except _DECODE_ERRORS as ex:
            raise _malformed(ex) from ex
    return InvalidError("The body is wrong.", errors={"non_field_errors": [_EXPECTED]})


def _malformed(error: Exception) -> MalformedError:
    return MalformedError("The body is not valid JSON.", detail=str(error))


# Split a JSON array or object into its members without decoding them. One match takes everything up to the next comma
# between items, or up to a bracket that is not closed within the window or the levels that the pattern knows. So a long
# item costs little, and a match does not hold up other threads.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WINDOW_BYTES = 256 * 1024
_LEVELS = 8


def _nested(levels: int) -> bytes:
    """Return the pattern of what is between two brackets: texts, commas, and so many levels of brackets."""
    plain = rb'[^\[\]{}"]++|' + _STRING
    return rb"(?:" + plain + (rb"|[\[{]" + _nested(levels - 1) + rb"[\]}]" if levels else b"") + rb")*+"


_NESTED = re.compile(_nested(_LEVELS), re.DOTALL)
_ITEM = re.compile(rb'(?:[^\[\]{}",]++|' + _STRING + rb"|[\[{]" + _nested(_LEVELS) + rb"[\]}])*+", re.DOTALL)
_TEXT = re.compile(_STRING, re.DOTALL)
_STEPS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_NAME = re.compile(rb"\s*+(" + _STRING + rb")\s*+:", re.DOTALL)


def _split_array(content: bytes) -> list[bytes]:
    """Return the items of a JSON array, each still JSON and not validated.

    Raises:
        ValueError: It is not an array, or it does not end where the text does.
    """
    return list(_split(content, b"[]"))


def _split_object(content: bytes) -> dict[bytes, bytes]:
    """Return the members of a JSON object by name; see ``_members``."""
    return dict(_members(content))


def _array(content: bytes, first: bytes) -> bytes:
    """Return the array of a batch, still JSON; nothing if it has none.

    Raises:
        ValueError: As of ``_members``.
    """
    if first == b"[":
        return content
    try:
        return bytes(_WRAPPED_ARRAY.decode(content).events)
    except _DECODE_ERRORS:
        pass  # it is missing, or something in here makes msgspec give up
    found = b""
    for name, value in _members(content):
        if name == b"events":
            found = value
    return found


def _members(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and value of the members of a JSON object, both still JSON, the name without its quotes.

    Raises:
        ValueError: It is not an object, or it does not end where the text does.
    """
    for member in _split(content, b"{}"):
        name = _NAME.match(member)
        if name is None:
            raise ValueError("a member without a name")
        yield name[1][1:-1], member[name.end() :].strip()


def _split(content: bytes, brackets: bytes) -> Iterator[bytes]:
    content = content.strip()
    if len(content) < len(brackets) or content[:1] + content[-1:] != brackets:
        raise ValueError("not closed")
    start, end = 1, len(content) - 1
    if _FIRST.search(content, start, end) is None:
        return
    depth, at = 0, start
    deadline = current_deadline()
    while (at := _end(_NESTED if depth else _ITEM, content, at, min(end, at + _WINDOW_BYTES))) < end:
        deadline.check()
        kind = content[at : at + 1]
        # A text that does not end within the window is passed over as a whole.
        at = _end(_TEXT, content, at, end) if kind == b'"' else at + 1
        depth += _STEPS.get(kind, 0)
        if depth < 0:
            raise ValueError("closed too early")
        if kind == b"," and depth == 0:
            yield content[start : at - 1].strip()
            start = at
    if depth:
        raise ValueError("not closed")
    yield content[start:end].strip()


def _end(pattern: re.Pattern[bytes], content: bytes, start: int, end: int) -> int:
    """Return where a match ends that starts here.

    Raises:
        ValueError: There is none.
    """
    match = pattern.match(content, start, end)
    if match is None:
        raise ValueError("not closed")
    return match.end()
