"""Convert values to the types of Struct fields, one field at a time, so that one error names every wrong field.

msgspec stops at the first error. That suits the fast path; a client that has to correct its request needs all of them.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
from msgspec.structs import FieldInfo

T = TypeVar("T", bound=msgspec.Struct)
EndTime = typing.Annotated[
    datetime, msgspec.Meta(description="The inclusive end of a span of time: a date alone is the end of that day, UTC.")
]
DecHook = Callable[[type, Any], Any]

REQUIRED = "This field is required."
UNKNOWN = "Unknown field."
_BOOLEANS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
# Python accepts any character between date and time; an offset directly after a date would become a time of day.
# Newer versions of it accept 24:00 as well.
_TIME = re.compile(r"(?P<date>[0-9W-]+)(?:[Tt ](?P<time>(?!24).+))?", re.DOTALL)
# In a URL, an unescaped "+" of an offset arrives as a blank.
_BLANK_OFFSET = re.compile(r"(?<=\d) (?=\d\d(?::?\d\d)?$)")


@cache
def struct_fields(kind: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """Return the fields of a Struct by their encoded names."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


@cache
def field_types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the types of a Struct's fields by name."""
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def base_type(annotation: Any) -> Any:
    """Return the type inside ``Annotated`` and ``X | None``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return base_type(typing.get_args(annotation)[0])
    inner = _union_members(annotation)
    return base_type(inner[0]) if len(inner) == 1 else annotation


def _union_members(annotation: Any) -> list[Any]:
    """Return the types that a union is of, None apart; empty if it is no union."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return []
    return [arg for arg in typing.get_args(annotation) if arg not in (type(None), msgspec.UnsetType)]


@cache
def without_none(annotation: Any) -> Any:
    """Return a type without None and ``msgspec.UNSET``, which stand for a value that is not given."""
    members = _union_members(annotation)
    return typing.Union[tuple(members)] if members else annotation  # noqa: UP007 - the types are only known here


def is_sequence(annotation: Any) -> bool:
    """Tell whether a type is a list or a tuple."""
    return typing.get_origin(base_type(annotation)) in (list, tuple)


def nested_struct(annotation: Any) -> type[msgspec.Struct] | None:
    """Return the Struct that a type is, inside ``Annotated`` and ``X | None``; None if it is none."""
    kind = base_type(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def describe_type(annotation: Any) -> str:
    """Describe in a few words the values that a type allows: ``int``, ``asc or desc``, ``list of str``."""
    kind = base_type(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(str(choice) for choice in typing.get_args(kind))
    if is_sequence(annotation):
        return f"list of {describe_type(typing.get_args(kind)[0])}"
    if members := _union_members(kind):
        return " or ".join(map(describe_type, members))
    return str(getattr(kind, "__name__", kind))


def _describe_error(error: msgspec.ValidationError, annotation: Any, value: object) -> str:
    """Return msgspec's message about one value with that value and what is allowed in its place."""
    reason, _, place = str(error).replace("`", "").partition(" - at ")
    reason = reason.partition(", got ")[0].replace(" | null", "")
    if reason.startswith("Invalid enum value"):
        reason = f"Expected {describe_type(annotation)}"
    inside = place.removeprefix("$")
    return f"{reason}{f' at {inside}' if inside else ''}, got {value!r:.120}."


def _parse_text(text: str, annotation: Any) -> Any:
    """Parse text of a URL or the environment: commas separate the items of a list, a dict is JSON, a time is ISO 8601.

    Text that is none of the words for a bool is returned as it is.

    Raises:
        ValueError: A time is expected, and the text is not one.
    """
    kind = base_type(annotation)
    if is_sequence(annotation):
        return [_parse_text(part, typing.get_args(kind)[0]) for part in split_list(text)]
    if kind is bool:
        return _BOOLEANS.get(text.strip().lower(), text)
    if kind is datetime:
        is_end = annotation == EndTime or EndTime in typing.get_args(annotation)
        return parse_end_time(text) if is_end else parse_time(text)
    if typing.get_origin(kind) is dict:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(text)
    return text


def split_list(text: str) -> list[str]:
    """Split text at commas, without blanks around the parts and without empty parts."""
    return [part for each in text.split(",") if (part := each.strip())]


def parse_time(text: str) -> datetime:
    """Parse an ISO 8601 date, or date and time; without an offset it is UTC.

    Of a fraction of a second, digits beyond microseconds are cut off, so that no time is ever moved to a later second,
    hour or day.

    Raises:
        ValueError: The text is neither, or outside the years 1 to 9999 in UTC.
    """
    if "\x00" in text:
        raise ValueError("a null character")  # fromisoformat ignores the rest of the text
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("neither a date nor a date and a time")
    date, time = match.groups()
    moment = datetime.fromisoformat(date if time is None else f"{date}T{_BLANK_OFFSET.sub('+', time).upper()}")
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as ex:
        raise ValueError("out of range") from ex


def parse_end_time(text: str) -> datetime:
    """Parse the inclusive end of a span as ``parse_time`` does, except that a date alone is the end of that day.

    Raises:
        ValueError: As of ``parse_time``.
    """
    time = parse_time(text)
    match = _TIME.fullmatch(text.strip())
    is_date = match is not None and match["time"] is None
    return time.replace(hour=23, minute=59, second=59, microsecond=999_999) if is_date else time


def convert_value(value: Any, annotation: Any, *, strict: bool, dec_hook: DecHook | None = None) -> Any:
    """Convert a value to a type.

    Args:
        value: Plain data, as JSON or TOML has it, or text.
        annotation: The type of a field.
        strict: False accepts text for any type, as in a URL or the environment.
        dec_hook: Converts types that msgspec does not know.

    Raises:
        ValueError: The value does not fit; the message contains the value and what is allowed.
    """
    raw = value
    if not strict and isinstance(value, str):
        try:
            raw = _parse_text(value, annotation)
        except ValueError:
            raise ValueError(f"Expected an ISO 8601 date or time, got {value!r:.120}.") from None
    try:
        return msgspec.convert(raw, annotation, strict=strict, dec_hook=dec_hook)
    except msgspec.ValidationError as ex:
        raise ValueError(_describe_error(ex, annotation, value)) from None


def convert_fields(
    raw: Mapping[str, Any],
    kind: type[T],
    *,
    strict: bool = True,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Convert a mapping to the field values of a Struct, and collect the errors of all fields.

    Args:
        raw: Values by encoded name.
        kind: The Struct.
        strict: As for ``convert_value``. No text is None: a value that is not given is left out.

    Returns:
        Converted values by field name, and messages by encoded name. Without messages, ``kind(**values)`` is valid as
        far as single fields go.
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
            kind_of_value = field.type if strict else without_none(field.type)
            values[field.name] = convert_value(raw[name], kind_of_value, strict=strict)
        except ValueError as ex:
            errors[name] = [str(ex)]
    return values, errors


def strip_bom(content: bytes) -> bytes:
    """Return content without the UTF-8 byte order mark that some programs write first; see RFC 8259, section 8.1."""
    return content.removeprefix(codecs.BOM_UTF8)


_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JsonOutline:
    """JSON without its strings, from which its size is known before it is decoded.

    To look at it costs little, whereas decoded values can take thirty times the memory of their text.

    Args:
        content: JSON; it need not be valid.
    """

    def __init__(self, content: bytes) -> None:
        # Brackets, commas, colons, and what is neither string nor blank.
        self.text = _JSON_STRING.sub(b"", content) if b'"' in content else content

    def count_values(self) -> int:
        """Return how many values there are at most."""
        return 1 + self.text.count(b",") + self.text.count(b"[") + self.text.count(b"{")

    def depth(self) -> int:
        """Return how many levels of arrays and objects there are."""
        brackets = self.text.translate(None, _NOT_BRACKETS)
        return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


def strip_nul(value: Any) -> Any:
    """Return a copy of plain data without NUL characters, which PostgreSQL's text and jsonb cannot hold."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {strip_nul(key): strip_nul(inner) for key, inner in value.items()}
    return [strip_nul(inner) for inner in value] if isinstance(value, list | tuple) else value


# Spreadsheets run a text that begins with one of these as a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_PREFIXES = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")


def escape_formula(text: str) -> str:
    """Return a text for a cell of a CSV file, which no spreadsheet runs as a formula.

    Such a text gets a leading ``'``. So does one that begins with ``'``, so that removing one restores every text.
    """
    return f"'{text}" if text and text[0] in _FORMULA_PREFIXES else text


# Escape sequences of terminals begin with ESC or a control character of C1; marks and overrides of direction show text
# in another order; line and paragraph separators end lines for some programs.
_BEYOND_ASCII = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(f"[\x00-\x1f{_BEYOND_ASCII}]")
_CONTROL_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")
_CONTROL_IN_JSON = re.compile(f"[{_BEYOND_ASCII}]")


def escape_controls(text: str, *, keep_lines: bool = False) -> str:
    """Return text that does nothing to a terminal: control characters become ``\\n``, ``\\x1b``, ``\\u202e`` ...

    Args:
        text: Text of any origin.
        keep_lines: Whether line feeds and tabs stay as they are.
    """
    # Most text has nothing that must be escaped.
    if text.isprintable():
        return text
    pattern = _CONTROL_IN_LINES if keep_lines else _CONTROL
    return pattern.sub(lambda found: repr(found[0])[1:-1], text)


def escape_json(text: str) -> str:
    """Return encoded JSON that does nothing to a terminal; the encoder has escaped what the standard demands."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
