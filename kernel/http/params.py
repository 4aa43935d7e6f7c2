"""Decode path, query and body of a request into the types a handler asks for.

msgspec's errors are caught here and nowhere else: raised inside a handler they mean our own data, not the client's.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import FieldInfo

from kernel.errors import (
    ApiError,
    InvalidError,
    MalformedError,
    NotFoundError,
    OtherClientError,
    TooLargeError,
    UnsupportedMediaError,
)
from kernel.fields import allowed, convert_each, is_sequence, struct_fields
from kernel.http.request import Request

PARAMETERS_MAX = 200


class RawBody(msgspec.Struct, frozen=True):
    """A body that the handler decodes itself.

    Args:
        content: The bytes as sent, at most ``http.max_body_bytes``.
        media_type: Without parameters, in small letters.
    """

    content: bytes
    media_type: str


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
            repeated[name] = ["This parameter is given more than once."]
        else:
            raw[name] = value
    return raw, repeated


def body_decoder(kind: Any, limit_bytes: int) -> Callable[[Request], Any]:
    """Make the function that reads the body and decodes it: JSON into a type, or ``RawBody`` as it is."""
    if kind is RawBody:
        return lambda request: RawBody(read_body(request, limit_bytes), media_type(request))
    decoder = msgspec.json.Decoder(kind)

    def decode(request: Request) -> Any:
        require_json(request)
        content = read_body(request, limit_bytes)
        try:
            return decoder.decode(content)
        except msgspec.ValidationError as ex:
            raise invalid_body(content, kind, ex) from ex
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
            raise malformed_json(ex) from ex

    return decode


def media_type(request: Request) -> str:
    """Return the media type of the body without parameters, in small letters; empty if the client named none."""
    return (request.content_type or "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """Refuse bodies that say they are something else.

    A page of another site can post forms and plain text without asking first; JSON it cannot.

    Raises:
        UnsupportedMediaError: The media type is not JSON.
    """
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaError(detail=f"expected application/json, got {kind or 'no Content-Type'}")


def read_body(request: Request, limit_bytes: int) -> bytes:
    """Read the whole body.

    Raises:
        TooLargeError: It is longer than the limit; nothing more than the limit is read.
        MalformedError: It ended before ``Content-Length``, or its chunks are wrong.
        OtherClientError: The client stopped sending (408).
    """
    expected: int | None = request.content_length
    if expected is not None and expected > limit_bytes:
        raise TooLargeError(detail=f"the body has {expected} bytes; the limit is {limit_bytes}")
    if expected is None and "chunked" not in request.get_header("Transfer-Encoding", default="").lower():
        return b""
    # Without a length the server below us ends the stream where the last chunk does.
    stream = request.bounded_stream if expected is not None else request.stream
    try:
        content: bytes = stream.read(limit_bytes + 1 if expected is None else expected)
    except BlockingIOError as ex:
        raise OtherClientError(408, "The body did not arrive in time.") from ex
    except Exception as ex:
        # The server below has classes of its own for every way in which a client can get this wrong.
        raise MalformedError("The body cannot be read.", detail=str(ex)) from ex
    if len(content) > limit_bytes:
        raise TooLargeError(detail=f"the body has more than {limit_bytes} bytes")
    if expected is not None and len(content) < expected:
        raise MalformedError("The body ended early.", detail=f"{len(content)} of {expected} bytes arrived")
    return content


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
    except (msgspec.DecodeError, RecursionError) as ex:
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
