"""Convert field by field, so that one answer names every wrong field.

msgspec stops at the first problem. That is what the fast path wants; whoever made the mistakes wants all of them.
"""

from __future__ import annotations

import contextlib
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import FieldInfo

T = TypeVar("T", bound=msgspec.Struct)
DecHook = Callable[[type, Any], Any]

REQUIRED = "This field is required."
UNKNOWN = "Unknown field."
# Python takes any character between date and time; an offset right after a date would become a time of day.
_TIME = re.compile(r"(?P<date>[0-9W-]+)(?:[Tt ](?P<time>.+))?", re.DOTALL)
# In a URL, an unescaped "+" of an offset arrives as a blank.
_BLANK_OFFSET = re.compile(r"(?<=\d) (?=\d\d(?::?\d\d)?$)")


@cache
def struct_fields(kind: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """Return the fields of a Struct by the name they have on the wire."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def base_type(annotation: Any) -> Any:
    """Return the type behind ``Annotated`` and ``X | None``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return base_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(annotation) if arg not in (type(None), msgspec.UnsetType)]
        if len(inner) == 1:
            return base_type(inner[0])
    return annotation


def is_sequence(annotation: Any) -> bool:
    """Tell whether a field holds a list or a tuple of values."""
    return typing.get_origin(base_type(annotation)) in (list, tuple)


def nested_struct(annotation: Any) -> type[msgspec.Struct] | None:
    """Return the Struct a field holds, if it holds one."""
    kind = base_type(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def allowed(annotation: Any) -> str:
    """Say in a few words what a field takes: ``int``, ``asc or desc``, ``list of str``."""
    kind = base_type(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(str(choice) for choice in typing.get_args(kind))
    if is_sequence(annotation):
        return f"list of {allowed(typing.get_args(kind)[0])}"
    return str(getattr(kind, "__name__", kind))


def explain(error: msgspec.ValidationError, annotation: Any, value: object) -> str:
    """Turn msgspec's message about one value into one that names the value and what is allowed."""
    reason, _, place = str(error).replace("`", "").partition(" - at ")
    reason = reason.partition(", got ")[0].replace(" | null", "")
    if reason.startswith("Invalid enum value"):
        reason = f"Expected {allowed(annotation)}"
    inside = place.removeprefix("$")
    return f"{reason}{f' at {inside}' if inside else ''}, got {value!r:.120}."


def from_text(text: str, annotation: Any) -> Any:
    """Prepare text from a URL or the environment: commas part a list, times need no offset (UTC), JSON makes a dict.

    Raises:
        ValueError: The text is no ISO 8601 time where one is expected.
    """
    if is_sequence(annotation):
        return [part.strip() for part in text.split(",") if part.strip()]
    if base_type(annotation) is datetime:
        return parse_time(text)
    if typing.get_origin(base_type(annotation)) is dict:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(text)
    return text


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 date or time; without an offset it is UTC.

    Raises:
        ValueError: The text is no ISO 8601 time, or lies outside the years 1 to 9999 in UTC.
    """
    if "\x00" in text:
        raise ValueError("a null character")  # fromisoformat stops reading there, and is content
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("neither a date nor a date and a time")
    date, time = match.groups()
    moment = datetime.fromisoformat(date if time is None else f"{date}T{_BLANK_OFFSET.sub('+', time)}")
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as ex:
        raise ValueError("out of range") from ex


def convert_one(value: Any, annotation: Any, *, strict: bool, dec_hook: DecHook | None = None) -> Any:
    """Convert one value, or raise ``ValueError`` with a message that names the value and what is allowed."""
    raw = value
    if not strict and isinstance(value, str):
        try:
            raw = from_text(value, annotation)
        except ValueError:
            raise ValueError(f"Expected an ISO 8601 date or time, got {value!r:.120}.") from None
    try:
        return msgspec.convert(raw, annotation, strict=strict, dec_hook=dec_hook)
    except msgspec.ValidationError as ex:
        raise ValueError(explain(ex, annotation, value)) from None


def convert_each(
    raw: Mapping[str, Any],
    kind: type[T],
    *,
    strict: bool = True,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Convert a mapping to the values of a Struct, one field at a time.

    Args:
        raw: Values by wire name.
        kind: The Struct whose fields they are.
        strict: False takes numbers and booleans out of text, as in a URL or the environment.

    Returns:
        Converted values and messages, both by wire name. No messages means every field is right.
    """
    values: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    fields = struct_fields(kind)
    for name in raw.keys() - fields.keys():
        errors[name] = [UNKNOWN]
    for name, field in fields.items():
        if name not in raw:
            if field.required:
                errors[name] = [REQUIRED]
            continue
        try:
            values[field.name] = convert_one(raw[name], field.type, strict=strict)
        except ValueError as ex:
            errors[name] = [str(ex)]
    return values, errors


def strip_nul(value: Any) -> Any:
    """Return a value without null characters: PostgreSQL's text has none."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {strip_nul(key): strip_nul(inner) for key, inner in value.items()}
    return [strip_nul(inner) for inner in value] if isinstance(value, list | tuple) else value
