"""Validate one event field by field: the slow path, for what the fast decoder rejected.

Accepts and rejects what the serializers of Django REST Framework do, with their messages: numbers in strings, text made
of numbers, blanks stripped from both ends. Collects the errors of every field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kernel import FieldErrors, InvalidError, parse_time
from plugins.observability.event_ids import EPOCH
from plugins.observability.ingest.tags import NO_NUL, validate_tags
from plugins.observability.methods import normalize_method
from plugins.observability.models import (
    ENDPOINT_MAX,
    EVENT_ID_MAX,
    INT32_MAX,
    METHOD_MAX,
    NO_TAGS,
    REFERENCE_MAX,
    SERVICE_MAX,
    EventIn,
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
_NUMBER_TEXT_MAX = 1000
_SURROGATE = re.compile("[\ud800-\udfff]")


class Undecodable(msgspec.Struct, frozen=True):
    """Stands in for a value that could not be decoded.

    Args:
        reason: The message for the sender.
    """

    reason: str


class _FieldError(Exception):
    """What is wrong with one field; the message is for the sender."""


def _text(value: Any, *, length_max: int, blank: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _FieldError("Not a valid string.")
    text = str(value).strip()
    if "\x00" in text:
        raise _FieldError(NO_NUL)
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise _FieldError(f"Surrogate characters are not allowed: U+{ord(surrogate[0]):X}.")
    if not text and not blank:
        raise _FieldError(BLANK)
    if len(text) > length_max:
        raise _FieldError(f"Ensure this field has no more than {length_max} characters.")
    return text


def _integer(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or len(text) > _NUMBER_TEXT_MAX:
        raise _FieldError("A valid integer is required.")
    try:
        return int(_DECIMAL_ZEROS.sub("", text))
    except ValueError:
        raise _FieldError("A valid integer is required.") from None


def _status_code(value: Any) -> int:
    status_code = _integer(value)
    if not 100 <= status_code <= 599:
        raise _FieldError(BAD_STATUS)
    return status_code


def round_half_up(value: float) -> int:
    """Round to the nearest integer; halves go up, where Python's ``round`` goes to the even neighbour."""
    whole = math.floor(value)
    return whole + (value - whole >= 0.5)


def _number(value: Any) -> int | float:
    try:
        return _integer(value)
    except _FieldError:
        pass
    try:
        number = float(str(value)) if isinstance(value, str | float) and len(str(value)) <= _NUMBER_TEXT_MAX else None
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        raise _FieldError("A valid number is required.")
    return number


def _latency_ms(value: Any) -> int:
    number = _number(value)
    if number < 0:
        raise _FieldError("Ensure this value is greater than or equal to 0.")
    latency_ms = round_half_up(number)
    if latency_ms > INT32_MAX:
        raise _FieldError(f"Ensure this value is less than or equal to {INT32_MAX}.")
    return latency_ms


def _time(value: Any, now: datetime) -> datetime:
    if not isinstance(value, str):
        raise _FieldError(BAD_TIME)
    try:
        time = parse_time(value)
    except ValueError:
        raise _FieldError(BAD_TIME) from None
    if time < EPOCH:
        raise _FieldError("Times before 1970 are not supported.")
    if time > now + AHEAD_MAX:
        raise _FieldError("Ensure this time is at most a day ahead.")
    return time


def _tags(value: Any) -> msgspec.Raw:
    if isinstance(value, msgspec.Raw):
        wrong = validate_tags(bytes(value))
        if wrong is not None:
            raise _FieldError(wrong)
        return value
    if not isinstance(value, dict):
        raise _FieldError(f'Expected a dictionary of items but got type "{type(value).__name__}".')
    # An object that is no JSON to msgspec.
    raise _FieldError("Surrogate characters and endless nesting are not allowed.")


def _reference(value: Any) -> str:
    return _text(value, length_max=REFERENCE_MAX, blank=True)


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "service": lambda value: _text(value, length_max=SERVICE_MAX),
    "endpoint": lambda value: _text(value, length_max=ENDPOINT_MAX),
    "method": lambda value: normalize_method(_text(value, length_max=METHOD_MAX)),
    "status_code": _status_code,
    "latency_ms": _latency_ms,
    "trace_id": _reference,
    "user_ref": _reference,
    "tags": _tags,
    "event_id": lambda value: _text(value, length_max=EVENT_ID_MAX),
}
# A latency that was not measured is null; one that is not mentioned may have been forgotten.
_NULLABLE = frozenset({"latency_ms", "trace_id", "user_ref", "event_id"})
_REQUIRED = ("time", "service", "endpoint", "method", "status_code", "latency_ms")


def _validate_field(name: str, value: Any, now: datetime) -> Any:
    if isinstance(value, Undecodable):
        raise _FieldError(value.reason)
    if value is None and name in _NULLABLE:
        return None
    if value is None:
        raise _FieldError(NULL)
    return _time(value, now) if name == "time" else _FIELDS[name](value)


def validate_fields(raw: Any, now: datetime) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Validate the fields that are given; none is required.

    Args:
        raw: A decoded JSON value, which should be an object. Unknown fields are ignored. Tags that are an object are
            still JSON.
        now: UTC; events may be a day ahead of it.

    Returns:
        Valid values and messages, both by field.
    """
    if isinstance(raw, Undecodable):
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
            values[name] = _validate_field(name, value, now)
        except _FieldError as ex:
            errors[name] = [str(ex)]
    return values, errors


def validate_event(raw: Any, now: datetime) -> tuple[EventIn | None, FieldErrors]:
    """Validate a whole event; arguments as of ``validate_fields``.

    Returns:
        The event and no messages, or None and what is wrong by field.
    """
    values, errors = validate_fields(raw, now)
    if "non_field_errors" not in errors:
        for name in _REQUIRED:
            if name not in raw:
                errors[name] = [REQUIRED]
    return (None, errors) if errors else (EventIn(**{"tags": NO_TAGS, **values}), {})


def invalid_fields(messages: FieldErrors) -> InvalidError:
    """Make the error that a request with wrong fields is answered with."""
    return InvalidError(f"Some fields are wrong: {', '.join(messages)}.", errors=messages)
