"""Forms of pages: made from a Struct, shown by ``kernel/forms.html``, and decoded into the Struct when they are sent.

A handler that takes ``form: Submitted[NewOrder]`` is sent forms instead of JSON, and only by the service's own pages:
see ``kernel.http.auth.ensure_own_form``. What the fields of the Struct say, their types, bounds, defaults and
documentation, is what the browser checks and explains, and what is checked again when the form arrives.

Example::

    @route("/shop/orders/new/", policy="write")
    def new(self) -> TemplateResponse:
        return TemplateResponse("shop/new.html", {"form": make_form(NewOrder)})

    @route("/shop/orders/new/", policy="write", method="POST")
    def create(self, form: Submitted[NewOrder]) -> FormResponse:
        try:
            order = self._orders.create(form.value())
        except InvalidError as ex:
            return Response(TemplateResponse("shop/new.html", {"form": form.again(ex)}), ex.status)
        return redirect(f"/shop/orders/{order.id}/", CREATED)
"""

from __future__ import annotations

import io
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import falcon
import msgspec
from falcon.media.multipart import MultipartFormHandler, MultipartParseOptions
from msgspec import inspect
from msgspec.structs import FieldInfo

from kernel.conversion import (
    REQUIRED,
    UNKNOWN,
    base_type,
    convert_value,
    is_sequence,
    nested_struct,
    struct_fields,
    without_none,
)
from kernel.docstrings import describe_arguments
from kernel.errors import ApiError, InvalidError, MalformedError, TooLargeError, UnsupportedMediaError
from kernel.http.notices import Notice
from kernel.http.pages import first_upper, is_own_path
from kernel.http.request import BodyLimits, Request, ensure_utf8, media_type, read_body
from kernel.http.response import Response, TemplateResponse

T = TypeVar("T", bound=msgspec.Struct)
U = TypeVar("U", bound=msgspec.Struct)
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
FormResponse = TemplateResponse | Response[TemplateResponse] | Response[None]
# Values of a form, which a field may have several of.
VALUES_MAX = 1_000
_PART_HEADERS_MAX_BYTES = 4 * 1024
_NONE = re.compile(r"\bNone\b")
# What a reference is, besides its name: who chooses it sees no number.
_NUMBER_OF = re.compile(r"Number of [^;.]*[;.]\s*")
_LINE_END = re.compile(r"\r\n?")
# What regular expressions of Python and of browsers, which know no ``\Z`` and match all of a text, have in common.
_PORTABLE = re.compile(
    r"(?:[\w \-^$.,:;@/?*+|{}=!<>]|\\[sSdDwW.]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}"
    r"|\[\^?(?!-)[^\[&~`()|/{}]*(?<!-)\]|\((?!\?[^=!:])|\))*"
)
_ANCHORED = re.compile(r"\^(.+)(?:\\Z|\$)", re.DOTALL)
_TEXT_INPUTS = {"email": "email", "uri": "url", "password": "password"}
_WORDS = {"id": "ID", "ids": "IDs", "url": "URL", "api": "API", "csv": "CSV", "http": "HTTP", "ip": "IP"}
_UNITS = {"ms": "ms", "s": "s", "h": "hours", "bytes": "bytes"}


class Choice(NamedTuple):
    """What a person can choose for a field.

    Args:
        value: As the form sends it.
        label: For people.
    """

    value: str
    label: str


class UploadedFile(msgspec.Struct, frozen=True):
    """The type of a field that is a file.

    Args:
        name: As the client calls it. It is text of any origin: no file gets this name.
        media_type: As the client says.
        content: The bytes.
    """

    name: str
    media_type: str
    content: bytes


class NoFields(msgspec.Struct, frozen=True):
    """A form without fields, such as that of a button."""


# --- forms as they are shown ------------------------------------------------------------------------------------------


class FormField(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a form, as ``kernel/forms.html`` shows it.

    Args:
        name: As it is sent.
        label: For people.
        help: What it means; Markdown.
        control: The element.
        values: What is entered: one text, or several.
        attributes: Of the element, as they are checked by the browser: ``type``, ``min``, ``maxlength`` ...
        choices: Of a selection.
        is_required: Whether it must not be empty.
        errors: What is wrong.
    """

    name: str
    label: str
    help: str
    control: typing.Literal["input", "checkbox", "select", "checkboxes", "textarea"]
    values: Sequence[str]
    attributes: Mapping[str, str] = {}
    choices: Sequence[Choice] = ()
    is_required: bool = False
    errors: Sequence[str] = ()

    @property
    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.attributes.get("type") == "file"


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A form, as ``kernel/forms.html`` shows it.

    Args:
        id: Of the form, which tells it from others of the page; ids of its elements begin with it.
        fields: Its fields.
        error: What is wrong; None if nothing is, as far as it is known.
        problems: What is wrong apart from fields.
    """

    id: str
    fields: Sequence[FormField]
    error: ApiError | None = None
    problems: Sequence[str] = ()

    @property
    def has_files(self) -> bool:
        """Whether it is sent as ``multipart/form-data``."""
        return any(field.is_file for field in self.fields)


def make_form(
    kind: type[msgspec.Struct],
    *,
    values: Mapping[str, Any] | None = None,
    entered: Mapping[str, Sequence[str]] | None = None,
    error: ApiError | None = None,
    choices: Mapping[str, Sequence[Choice]] | None = None,
    documented: type[msgspec.Struct] | None = None,
    form_id: str = "form",
) -> Form:
    """Return the form that asks for a Struct.

    Types become elements: a number with its bounds, a checkbox for a bool, a selection for a ``Literal`` or an enum,
    a date, a date with a time in UTC, a file for an ``UploadedFile``; a tuple is several checkboxes, or lines of text,
    and what has parts of its own is JSON. ``Meta(title=...)`` is the label, which is made of the name otherwise, and
    ``extra_json_schema={"format": ...}`` makes a text ``email``, ``uri``, ``password`` or ``multiline``; with
    ``autocomplete`` in it, browsers know what it is: ``current-password``.

    Args:
        kind: The Struct.
        values: By field, as it is stored, such as ``msgspec.structs.asdict(order)``; further names do not matter. The
            defaults of the Struct by default.
        entered: By field, as it was sent, in place of values.
        error: What is wrong with it.
        choices: By field, what can be chosen where the type does not say it.
        documented: The Struct whose docstring explains the fields; ``kind`` by default.
        form_id: Tells it from other forms of the page.
    """
    explained = describe_arguments(documented or kind)
    messages = {} if error is None else dict(error.errors or {})
    fields = [
        _make_field(
            name,
            field,
            explained.get(field.name, ""),
            _texts_of(field, values, None if entered is None else entered.get(name, ())),
            (choices or {}).get(name),
            messages.pop(name, ()),
        )
        for name, field in struct_fields(kind).items()
    ]
    problems = [f"{name}: {each}" for name, several in messages.items() for each in several]
    return Form(id=form_id, fields=fields, error=error, problems=problems)


def _for_people(text: str, *, is_chosen: bool) -> str:
    """Return what a docstring says in the words of a form, where None is a field that is left empty."""
    text = _NONE.sub("empty", _NUMBER_OF.sub("", text) if is_chosen else text).strip()
    return first_upper(text)


def label_of(name: str) -> str:
    """Return the name of a field for people: ``is_active`` is "Active", ``latency_ms`` is "Latency (ms)"."""
    words = name.removeprefix("is_").removeprefix("has_").split("_")
    unit = f" ({_UNITS[words.pop()]})" if len(words) > 1 and words[-1] in _UNITS else ""
    if len(words) > 1 and words[-1] == "id":
        words.pop()
    text = " ".join(_WORDS.get(word, word) for word in words)
    return first_upper(text) + unit


def _make_field(
    name: str,
    field: FieldInfo,
    help_text: str,
    values: Sequence[str],
    choices: Sequence[Choice] | None,
    errors: Sequence[str],
) -> FormField:
    kind, schema = _resolve(field.type)
    # An empty text is a value, which has to be allowed.
    may_be_empty = _is_nullable(field) or not field.required
    is_required = not (may_be_empty or isinstance(kind, inspect.BoolType | inspect.VarTupleType | inspect.ListType))
    found = _control_of(field.type, choices, is_nullable=_may_be_left_out(field))
    is_list = found.control == "textarea" and is_sequence(field.type)
    if found.choices and found.control == "select" and (may_be_empty or not any(values)):
        found = found._replace(
            choices=(Choice("", "\N{EM DASH}" if may_be_empty else "Choose \N{HORIZONTAL ELLIPSIS}"), *found.choices)
        )
    return FormField(
        name=name,
        label=schema.get("title") or label_of(name),
        help=_for_people(f"{help_text} One a line." if is_list else help_text, is_chosen=choices is not None),
        control=found.control,
        values=() if found.attributes.get("type") in {"password", "file"} else values,
        attributes=found.attributes,
        choices=found.choices,
        is_required=is_required,
        errors=errors,
    )


class _Control(NamedTuple):
    control: typing.Literal["input", "checkbox", "select", "checkboxes", "textarea"]
    attributes: Mapping[str, str] = {}
    choices: tuple[Choice, ...] = ()


def _control_of(annotation: Any, choices: Sequence[Choice] | None, *, is_nullable: bool = False) -> _Control:
    """Return the element for a type.

    Args:
        annotation: The type.
        choices: What can be chosen, if the type does not say it.
        is_nullable: Whether it may be None.
    """
    kind, schema = _resolve(annotation)
    if is_sequence(annotation):
        inner = _control_of(_item_of(annotation), choices)
        if inner.choices:
            return _Control("checkboxes", choices=inner.choices)
        is_text = inner.control == "input" and inner.attributes["type"] != "file"
        return _Control("textarea", {"rows": "3"}) if is_text else inner
    known = _choices_of(annotation) if choices is None else tuple(choices)
    if is_nullable and isinstance(kind, inspect.BoolType):
        known = (Choice("true", "Yes"), Choice("false", "No"))
    if known:
        return _Control("select", choices=known)
    if isinstance(kind, inspect.BoolType):
        return _Control("checkbox")
    if isinstance(kind, inspect.StrType):
        found = _text_control(kind, schema.get("format", ""))
        autocomplete = {"autocomplete": schema["autocomplete"]} if "autocomplete" in schema else {}
        return found._replace(attributes={**found.attributes, **autocomplete})
    attributes = _input_attributes(kind)
    return _Control("input", attributes) if attributes else _Control("textarea", {"rows": "6", "spellcheck": "false"})


def _input_attributes(kind: inspect.Type) -> dict[str, str] | None:
    """Return the attributes of the ``<input>`` for a type; None if its values are written as JSON."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return {"type": "number", **_bounds(kind)}
    if isinstance(kind, inspect.DateTimeType):
        return {"type": "datetime-local", "step": "1"}
    if isinstance(kind, inspect.DateType):
        return {"type": "date"}
    if isinstance(kind, inspect.StructType) and kind.cls is UploadedFile:
        return {"type": "file"}
    return {"type": "text"} if _is_text(kind) else None


def _text_control(kind: inspect.StrType, text_format: str) -> _Control:
    lengths = {"minlength": kind.min_length, "maxlength": kind.max_length}
    attributes = {name: str(value) for name, value in lengths.items() if value is not None}
    if text_format == "multiline":
        return _Control("textarea", {"rows": "6", **attributes})
    if (pattern := _browser_pattern(kind.pattern)) is not None:
        attributes["pattern"] = pattern
    return _Control("input", {"type": _TEXT_INPUTS.get(text_format, "text"), **attributes})


def _choices_of(annotation: Any) -> tuple[Choice, ...]:
    kind = base_type(annotation)
    values: Sequence[Any] = ()
    if typing.get_origin(kind) is typing.Literal:
        values = typing.get_args(kind)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        values = [each.value for each in kind]
    return tuple(Choice(str(value), label_of_value(str(value))) for value in values if value is not None)


def _item_of(annotation: Any) -> Any:
    """Return the type of the items of a list or tuple."""
    return typing.get_args(base_type(annotation))[0]


def label_of_value(value: str) -> str:
    """Return a word of a program for people: ``past_due`` is "Past due"."""
    text = value.replace("_", " ")
    return first_upper(text) if text.islower() else text


def _bounds(kind: inspect.IntType | inspect.FloatType) -> dict[str, str]:
    is_whole = isinstance(kind, inspect.IntType)
    lowest, highest = kind.ge, kind.le
    if is_whole and kind.gt is not None:
        lowest = kind.gt + 1
    if is_whole and kind.lt is not None:
        highest = kind.lt - 1
    found = {"min": lowest, "max": highest, "step": kind.multiple_of or (1 if is_whole else "any")}
    return {name: str(value) for name, value in found.items() if value is not None}


def _browser_pattern(pattern: str | None) -> str | None:
    """Return a regular expression as browsers have it; None if there is none that certainly means the same."""
    found = None if pattern is None else _ANCHORED.fullmatch(pattern)
    return found[1] if found is not None and _PORTABLE.fullmatch(found[1]) else None


def _is_text(kind: inspect.Type) -> bool:
    """Tell whether values of a type are written as text, and not as JSON."""
    if isinstance(kind, inspect.UnionType):
        return all(map(_is_text, kind.types))
    return not isinstance(kind, inspect.StructType | inspect.DictType | inspect.AnyType | inspect.TypedDictType)


def _is_nullable(field: FieldInfo) -> bool:
    return type(None) in typing.get_args(_unwrap(field.type))


def _may_be_left_out(field: FieldInfo) -> bool:
    return _is_nullable(field) or field.default is msgspec.UNSET


def _unwrap(annotation: Any) -> Any:
    return _unwrap(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is typing.Annotated else annotation


def _resolve(annotation: Any) -> tuple[inspect.Type, Mapping[str, Any]]:
    """Return what msgspec knows of a type, without None, and what ``Meta`` says for its JSON Schema."""
    return _resolve_type(inspect.type_info(without_none(annotation)))


def _resolve_type(kind: inspect.Type) -> tuple[inspect.Type, Mapping[str, Any]]:
    if isinstance(kind, inspect.Metadata):
        inner, schema = _resolve_type(kind.type)
        return inner, {**schema, **(kind.extra_json_schema or {})}
    if isinstance(kind, inspect.UnionType):
        given = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(given) == 1:
            return _resolve_type(given[0])
    return kind, {}


def _texts_of(field: FieldInfo, values: Mapping[str, Any] | None, entered: Sequence[str] | None) -> tuple[str, ...]:
    """Return what a field shows: what was entered, else its value, else its default."""
    if entered is not None:
        return tuple(entered)
    value: Any = None
    if values is not None and field.name in values:
        value = values[field.name]
    elif field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    return texts_of(value)


def texts_of(value: Any) -> tuple[str, ...]:
    """Return a value of a field as a form sends it: one text, or one for each item of a tuple; none for None."""
    if value is None or value is msgspec.UNSET or isinstance(value, UploadedFile):
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(text for each in value for text in texts_of(each))
    return (_text_of(value),)


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict | msgspec.Struct):
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


# --- forms as they are sent -------------------------------------------------------------------------------------------


class Submitted(Generic[T]):
    """A form that was sent: annotate the parameter ``form`` of a handler of POST with ``Submitted[NewOrder]``.

    Args:
        kind: The Struct that it asks for.
        values: What was entered, by field: as often as it was sent.
        files: The files, by field.
    """

    def __init__(
        self, kind: type[T], values: Mapping[str, Sequence[str]], files: Mapping[str, Sequence[UploadedFile]]
    ) -> None:
        self.values = values
        self.files = files
        self._kind = kind

    def of(self, kind: type[U]) -> Submitted[U]:
        """Return the same form for another Struct, which is known only now."""
        return Submitted(kind, self.values, self.files)

    def value(self) -> T:
        """Return the Struct.

        Raises:
            InvalidError: Fields are wrong, unknown or missing; names all of them.
        """
        fields = struct_fields(self._kind)
        converted: dict[str, Any] = {}
        errors: dict[str, Sequence[str]] = {name: [UNKNOWN] for name in self._names() - fields.keys()}
        for name, field in fields.items():
            try:
                value = self._convert(name, field)
            except ValueError as ex:
                errors[name] = [str(ex)]
                continue
            if value is not msgspec.UNSET:
                converted[field.name] = value
        if errors:
            raise InvalidError(f"Some fields are wrong: {', '.join(sorted(errors))}.", errors=errors)
        try:
            return self._kind(**converted)
        except (ValueError, TypeError) as ex:
            # As of a query: ``__post_init__`` raises these where values contradict each other.
            raise InvalidError("The fields contradict each other.", detail=str(ex)) from ex

    def again(
        self,
        error: ApiError | None = None,
        *,
        choices: Mapping[str, Sequence[Choice]] | None = None,
        documented: type[msgspec.Struct] | None = None,
        form_id: str = "form",
    ) -> Form:
        """Return the form with what was entered, and what is wrong with it. Other arguments as of ``make_form``."""
        return make_form(
            self._kind,
            entered=self.values,
            error=error,
            choices=choices,
            documented=documented,
            form_id=form_id,
        )

    def _names(self) -> set[str]:
        return {*self.values, *self.files}

    def _convert(self, name: str, field: FieldInfo) -> Any:
        """Return the value of a field; ``msgspec.UNSET`` leaves it at its default.

        Raises:
            ValueError: It is wrong.
        """
        kind, _ = _resolve(field.type)
        if nested_struct(field.type) is UploadedFile:
            sent: Sequence[Any] = self.files.get(name, ())
        elif is_sequence(field.type):
            return self._convert_several(name, field)
        else:
            sent = self.values.get(name, ())
        if len(sent) > 1:
            raise ValueError("This field is given more than once.")
        if isinstance(kind, inspect.BoolType) and not _is_nullable(field):
            # A checkbox that is not checked is not sent.
            return convert_value(sent[0], bool, strict=False) if sent else False
        if not sent or not sent[0]:
            return self._convert_empty(field, kind, is_sent=bool(sent))
        value = sent[0]
        if not isinstance(value, str):
            return convert_value(value, field.type, strict=True)
        return _convert_text(value, field.type, kind)

    def _convert_several(self, name: str, field: FieldInfo) -> Any:
        item = _item_of(field.type)
        sent: list[Any] = list(self.files.get(name, ()))
        if nested_struct(item) is not UploadedFile:
            sent = [line for text in self.values.get(name, ()) for each in text.split("\n") if (line := each.strip())]
        if not sent:
            return (
                None
                if _is_nullable(field)
                else ()
                if not field.required
                else convert_value([], field.type, strict=True)
            )
        return convert_value(sent, without_none(field.type), strict=False)

    @staticmethod
    def _convert_empty(field: FieldInfo, kind: inspect.Type, *, is_sent: bool) -> Any:
        if _is_nullable(field):
            return None
        if field.required:
            raise ValueError(REQUIRED)
        # Of a text, nothing is a value as well: whoever empties the field means that.
        return (
            convert_value("", field.type, strict=True)
            if is_sent and isinstance(kind, inspect.StrType)
            else msgspec.UNSET
        )


def _convert_text(text: str, annotation: Any, kind: inspect.Type) -> Any:
    if _is_text(kind):
        return convert_value(text, without_none(annotation), strict=False)
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as ex:
        raise ValueError(f"It is not valid JSON: {ex}.") from ex
    return convert_value(raw, annotation, strict=True)


def form_type(annotation: Any) -> type[msgspec.Struct]:
    """Return the Struct of ``Submitted[...]``.

    Raises:
        TypeError: The annotation is something else.
    """
    kind = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Submitted else None
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise TypeError("the annotation of 'form' is no Submitted[...] of a Struct")
    return kind


def form_decoder(kind: type[T], limits: BodyLimits) -> Callable[[Request], Submitted[T]]:
    """Return the function that reads a form.

    It raises ``UnsupportedMediaError`` if the body is no form, ``MalformedError`` if it is broken, and
    ``TooLargeError`` beyond a limit.

    Args:
        kind: The Struct that it asks for.
        limits: How large it may be.
    """

    def decode(request: Request) -> Submitted[T]:
        media = media_type(request)
        if media not in {URLENCODED, MULTIPART}:
            raise UnsupportedMediaError(
                detail=f"expected {URLENCODED} or {MULTIPART}, got {media or 'no Content-Type'}"
            )
        ensure_utf8(request)
        content = read_body(request, limits)
        if media == URLENCODED:
            return Submitted(kind, _read_urlencoded(content), {})
        return Submitted(kind, *_read_multipart(content, request.content_type or ""))

    return decode


def _read_urlencoded(content: bytes) -> dict[str, list[str]]:
    if content.count(b"&") >= VALUES_MAX:
        raise _too_many_values()
    try:
        pairs = parse_qsl(content.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as ex:
        raise MalformedError("The form could not be understood.", detail=str(ex)) from ex
    values: dict[str, list[str]] = {}
    for name, text in pairs:
        values.setdefault(name, []).append(_with_line_feeds(text))
    return values


def _read_multipart(content: bytes, content_type: str) -> tuple[dict[str, list[str]], dict[str, list[UploadedFile]]]:
    """Read a form with files, as of RFC 7578."""
    options = MultipartParseOptions()
    # The body is in memory already, and bounded.
    options.max_body_part_buffer_size = len(content) + 1
    options.max_body_part_headers_size = _PART_HEADERS_MAX_BYTES
    options.max_body_part_count = VALUES_MAX + 1
    values: dict[str, list[str]] = {}
    files: dict[str, list[UploadedFile]] = {}
    try:
        parts = MultipartFormHandler(options).deserialize(io.BytesIO(content), content_type, len(content))
        for number, part in enumerate(parts):
            if number == VALUES_MAX:
                raise _too_many_values()
            name = part.name or ""
            if part.filename is None:
                values.setdefault(name, []).append(_with_line_feeds(part.get_data().decode()))
            elif part.filename:
                # Without a name, nothing was chosen.
                file = UploadedFile(part.filename, part.content_type, part.get_data())
                files.setdefault(name, []).append(file)
    except (falcon.HTTPError, ValueError) as ex:
        detail = ex.description if isinstance(ex, falcon.HTTPError) else str(ex)
        raise MalformedError("The form could not be understood.", detail=detail) from ex
    return values, files


def _too_many_values() -> TooLargeError:
    return TooLargeError(detail=f"the form has more than {VALUES_MAX} values")


def _with_line_feeds(text: str) -> str:
    """Return a text as it was entered: forms are sent with a line end of two characters."""
    return _LINE_END.sub("\n", text)


def redirect(path: str, notice: Notice | None = None, cookies: Sequence[str] = ()) -> Response[None]:
    """Return the response to a form that was sent: the browser goes on to a page, which can be reloaded.

    Args:
        path: Of the page, with its query string. Of this service: it begins with one slash.
        notice: What the page says, once.
        cookies: Headers ``Set-Cookie``.

    Raises:
        ValueError: The path could lead to another service.
    """
    if not is_own_path(path):
        raise ValueError(f"{path!r} is no path of this service")
    headers = {"Location": path, "Cache-Control": "no-store"}
    return Response(None, 303, headers, cookies if notice is None else [*cookies, notice.cookie])
