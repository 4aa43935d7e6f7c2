"""Decode path, query and body of a request into the types a handler asks for.

msgspec's errors are caught here and nowhere else: raised inside a handler they mean our own data, not the client's.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import FieldInfo

from kernel.conversion import allowed, convert_each, is_sequence, struct_fields
from kernel.errors import ApiError, InvalidError, MalformedError, NotFoundError
from kernel.http.bodies import BodyLimits, RawBody, StreamBody, media_type, read_body, require_json
from kernel.http.request import Request

PARAMETERS_MAX = 200


def query_decoder(kind: type[msgspec.Struct]) -> Callable[[Request], msgspec.Struct]:
    """Make the function that decodes the query string into a Struct.

    The function raises ``InvalidError`` that names every unknown, repeated or wrong parameter.
    """
    fields = struct_fields(kind)
    defaults: msgspec.Struct | None = None
    if not any(field.required for field in fields.values()):
        defaults = kind()

    def decode(request: Request) -> msgspec.Struct:
        text = request.query_string
        if not text and defaults is not None:
            return defaults
        raw, repeated = _read_query(text, fields)
        values, errors = convert_each(raw, kind, strict=False)
        errors |= repeated
        for name in raw.keys() - fields.keys():
            errors[name] = [f"Unknown parameter. There are: {', '.join(fields) or 'none'}."]
        if errors:
            names = ", ".join(sorted(errors))
            raise InvalidError(f"Some parameters are wrong: {names}.", errors=dict(sorted(errors.items())))
        try:
            return kind(**values)
        except (ValueError, TypeError) as ex:
            # As msgspec has it: what __post_init__ raises says how the values do not go together.
            raise InvalidError("The parameters do not go together.", detail=str(ex)) from ex

    return decode


def _read_query(text: str, fields: Mapping[str, FieldInfo]) -> tuple[dict[str, str], dict[str, list[str]]]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX, errors="strict")
    except ValueError as ex:
        raise MalformedError("The query string could not be understood.", detail=str(ex)) from ex
    raw: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in raw and name in fields and is_sequence(fields[name].type):
            raw[name] = f"{raw[name]},{value}"
        elif name in raw:
            repeated.setdefault(name, [raw[name]]).append(value)
        else:
            raw[name] = value
    return raw, {name: [_given_more_than_once(values)] for name, values in repeated.items()}


def _given_more_than_once(values: Sequence[str]) -> str:
    return f"This parameter is given more than once: {', '.join(map(repr, values)):.120}."


def body_decoder(kind: Any, limits: BodyLimits) -> Callable[[Request], Any]:
    """Make the function that decodes the body: JSON into a type; ``RawBody`` and ``StreamBody`` as they are."""
    if kind is RawBody:
        return lambda request: RawBody(read_body(request, limits), media_type(request))
    if kind is StreamBody:
        return lambda request: StreamBody(request, limits)
    decoder = msgspec.json.Decoder(kind)

    def decode(request: Request) -> Any:
        require_json(request)
        content = read_body(request, limits)
        try:
            return decoder.decode(content)
        except msgspec.ValidationError as ex:
            raise invalid_body(content, kind, ex) from ex
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
            raise malformed_json(ex) from ex

    return decode


def malformed_json(error: Exception) -> MalformedError:
    """Return the error for bytes that are no JSON."""
    return MalformedError("The body is not valid JSON.", detail=str(error))


def invalid_body(content: bytes, kind: Any, error: msgspec.ValidationError) -> ApiError:
    """Return the error that names every wrong field of a body.

    Args:
        content: JSON that does not fit.
        kind: The type it should have.
        error: What msgspec said first; used where the type is no Struct.
    """
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        # The first wrong value stopped msgspec before the place where the JSON breaks.
        return malformed_json(ex)
    if not is_struct:
        return InvalidError("The body is wrong.", detail=str(error).replace("`", ""))
    if not isinstance(raw, dict):
        message = f"Invalid data. Expected an object, got {type(raw).__name__}."
        return InvalidError("The body is wrong.", errors={"non_field_errors": [message]})
    _, errors = convert_each(raw, kind)
    if not errors:
        return InvalidError("The body is wrong.", detail=str(error).replace("`", ""))
    return InvalidError(f"Some fields are wrong: {', '.join(sorted(errors))}.", errors=errors)


def path_decoder(name: str, kind: Any) -> Callable[[str], Any]:
    """Make the function that converts one segment of the path. One that does not fit is a 404: nothing is there."""
    if kind is str:
        return lambda text: text

    def decode(text: str) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as ex:
            raise NotFoundError(detail=f"{name} is no {allowed(kind)}: {text!r:.80}") from ex

    return decode


def handler_types(handler: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a handler's parameters, ``return`` included.

    Raises:
        TypeError: A parameter has no annotation, or one that cannot be resolved.
    """
    try:
        hints = typing.get_type_hints(handler, include_extras=True)
    except NameError as ex:
        raise TypeError(f"the annotations of {handler.__qualname__} cannot be resolved at run time: {ex}") from ex
    return hints
