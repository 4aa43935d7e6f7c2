"""Validate one event the patient way: take what the fast decoder refused, or say everything that is wrong with it.

Takes and refuses what the serializers of Django REST Framework did, in their words: numbers in strings, text made of
numbers, blanks cut off at both ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from kernel import parse_time
from plugins.observability.ids import EPOCH
from plugins.observability.model import (
    ENDPOINT_MAX,
    EVENT_ID_MAX,
    INT32_MAX,
    METHOD_MAX,
    NO_TAGS,
    REFERENCE_MAX,
    SERVICE_MAX,
    EventIn,
    Messages,
)

REQUIRED = "This field is required."
NULL = "This field may not be null."
BLANK = "This field may not be blank."
BAD_STATUS = "status_code must be a valid HTTP status (100..599)."
BAD_TIME = (
    "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
)
AHEAD_MAX = timedelta(days=1)

_DECIMAL_ZEROS = re.compile(r"\.0*\s*$")
_INTEGER_TEXT_MAX = 1000
_SURROGATE = re.compile("[\ud800-\udfff]")


class Unreadable(msgspec.Struct, frozen=True):
    """Stands where a value should be that could not be decoded.

    Args:
        reason: For people.
    """

    reason: str


class _Wrong(Exception):  # noqa: N818 - a message on its way, not an error
    """One field is wrong."""


def _text(value: Any, *, length_max: int, blank: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Wrong("Not a valid string.")
    text = str(value).strip()
    if "\x00" in text:
        raise _Wrong("Null characters are not allowed.")
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise _Wrong(f"Surrogate characters are not allowed: U+{ord(surrogate[0]):X}.")
    if not text and not blank:
        raise _Wrong(BLANK)
    if len(text) > length_max:
        raise _Wrong(f"Ensure this field has no more than {length_max} characters.")
    return text


def _integer(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or len(text) > _INTEGER_TEXT_MAX:
        raise _Wrong("A valid integer is required.")
    try:
        return int(_DECIMAL_ZEROS.sub("", text))
    except ValueError:
        raise _Wrong("A valid integer is required.") from None


def _status_code(value: Any) -> int:
    status_code = _integer(value)
    if not 100 <= status_code <= 599:
        raise _Wrong(BAD_STATUS)
    return status_code


def _latency_ms(value: Any) -> int:
    latency_ms = _integer(value)
    if latency_ms < 0:
        raise _Wrong("Ensure this value is greater than or equal to 0.")
    if latency_ms > INT32_MAX:
        raise _Wrong(f"Ensure this value is less than or equal to {INT32_MAX}.")
    return latency_ms


def _time(value: Any, now: datetime) -> datetime:
    if not isinstance(value, str):
        raise _Wrong(BAD_TIME)
    try:
        moment = parse_time(value)
    except ValueError:
        raise _Wrong(BAD_TIME) from None
    if moment < EPOCH:
        raise _Wrong("Times before 1970 are not supported.")
    if moment > now + AHEAD_MAX:
        raise _Wrong("Ensure this time is at most a day ahead.")
    return moment


def _tags(value: Any) -> msgspec.Raw:
    if isinstance(value, msgspec.Raw):
        return value
    if not isinstance(value, dict):
        raise _Wrong(f'Expected a dictionary of items but got type "{type(value).__name__}".')
    try:
        encoded = msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError):
        raise _Wrong("Surrogate characters and endless nesting are not allowed.") from None
    # An escaped backslash before "u0000" is no null character: look at the text that the server would read.
    if b"\\u0000" in encoded.replace(b"\\\\", b""):
        raise _Wrong("Null characters are not allowed.")
    return msgspec.Raw(encoded)


def _reference(value: Any) -> str:
    return _text(value, length_max=REFERENCE_MAX, blank=True)


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "service": lambda value: _text(value, length_max=SERVICE_MAX),
    "endpoint": lambda value: _text(value, length_max=ENDPOINT_MAX),
    "method": lambda value: _text(value, length_max=METHOD_MAX),
    "status_code": _status_code,
    "latency_ms": _latency_ms,
    "trace_id": _reference,
    "user_ref": _reference,
    "tags": _tags,
    "event_id": lambda value: _text(value, length_max=EVENT_ID_MAX),
}
_NULLABLE = frozenset({"trace_id", "user_ref", "event_id"})
_REQUIRED = ("time", "service", "endpoint", "method", "status_code", "latency_ms")


def _field(name: str, value: Any, now: datetime) -> Any:
    if isinstance(value, Unreadable):
        raise _Wrong(value.reason)
    if value is None and name in _NULLABLE:
        return None
    if value is None:
        raise _Wrong(NULL)
    return _time(value, now) if name == "time" else _FIELDS[name](value)


def validate_fields(raw: Any, now: datetime) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Validate the fields that are there.

    Args:
        raw: A decoded JSON value; should be an object. Unknown fields are ignored. Tags may still be JSON, if they are
            an object that the server can store.
        now: UTC; events may be a day ahead of it.

    Returns:
        Valid values and messages, both by field.
    """
    if isinstance(raw, Unreadable):
        return {}, {"non_field_errors": [f"Invalid data. {raw.reason}"]}
    if not isinstance(raw, dict):
        message = f"Invalid data. Expected a dictionary, but got {type(raw).__name__}."
        return {}, {"non_field_errors": [message]}
    values: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name in ("time", *_FIELDS):
        if name not in raw:
            continue
        value = raw[name]
        try:
            values[name] = _field(name, value, now)
        except _Wrong as ex:
            errors[name] = [str(ex)]
    return values, errors


def validate_event(raw: Any, now: datetime) -> tuple[EventIn | None, Messages]:
    """Validate a whole event.

    Returns:
        The event and no messages, or None and what is wrong by field.
    """
    values, errors = validate_fields(raw, now)
    if "non_field_errors" not in errors:
        for name in _REQUIRED:
            if name not in raw:
                errors[name] = [REQUIRED]
    return (None, errors) if errors else (EventIn(**{"tags": NO_TAGS, **values}), {})


def utc(moment: datetime) -> datetime:
    """Take a time without an offset as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
