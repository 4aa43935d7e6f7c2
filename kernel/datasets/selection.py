"""What a question about a dataset may ask for, and the items that answer it."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, cast

import msgspec

from kernel.conversion import base_type, is_sequence, parse_time
from kernel.datasets.ordering import ordered_by
from kernel.errors import InvalidError
from kernel.http.pagination import count_pages, page_not_found, page_size_of

_SCALARS = (str, int, float, bool, datetime)
_DATE_LENGTH = len("2026-11-21")
_INCLUDE = "include"


class BaseQuery(msgspec.Struct, frozen=True):
    """Parameters that every dataset route takes, beside the fields of its items.

    Args:
        search: Items that hold this text in any of their texts, in capitals or not.
        ordering: Fields parted by commas; a leading ``-`` turns one around.
        page: Number of a page, from 1; without it and without ``page_size`` everything comes.
        page_size: Items a page.
        as_of: A version, or a time; a date alone is the end of that day, UTC.
        explain: Say how many items each filter of the application hid, and which.
    """

    search: str = ""
    ordering: str = ""
    page: Annotated[int, msgspec.Meta(ge=1)] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    as_of: str = ""
    explain: bool = False
    # A parameter where items have relations: the fields whose keys make way for what they stand for.
    include: ClassVar[tuple[str, ...]] = ()


_COMMON = frozenset({*BaseQuery.__struct_fields__, _INCLUDE})


class PageOf(msgspec.Struct, frozen=True):
    """The place of a page among others."""

    page: int
    page_size: int
    pages: int


@cache
def query_struct(item: type[msgspec.Struct], includable: tuple[str, ...] = ()) -> type[BaseQuery]:
    """Return the Struct of the parameters of a route over items: the common ones, and the fields to ask for.

    A field that holds a list is asked for one of its members.

    Args:
        item: The Struct of the items.
        includable: What ``include`` takes; without any there is no such parameter.
    """
    fields: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(item):
        kind = base_type(field.type)
        if is_sequence(field.type):
            kind = base_type(typing.get_args(kind)[0])
        if field.name in _COMMON or not _is_scalar(kind):
            continue
        # Not None by default: that is also how the text "null" is read.
        fields.append((field.name, typing.Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
    if includable:
        choice: Any = Literal
        fields.append((_INCLUDE, tuple[choice[includable], ...], ()))
    made: Any = msgspec.defstruct(f"{item.__name__}Query", fields, bases=(BaseQuery,), frozen=True)
    return cast("type[BaseQuery]", made)


def select(items: Sequence[Any], query: BaseQuery, item: type[msgspec.Struct]) -> Sequence[Any]:
    """Return the items that a query asks for, in the order it wants, before paging.

    Raises:
        InvalidError: It wants an order by a field that is not there.
    """
    for name in query.__struct_fields__:
        if name not in _COMMON and (wanted := getattr(query, name)) is not msgspec.UNSET:
            items = [each for each in items if _matches(getattr(each, name), wanted)]
    if query.search:
        text = query.search.casefold()
        items = [each for each in items if _holds(each, text)]
    return _ordered(items, query.ordering, item) if query.ordering else items


def paged(items: Sequence[Any], query: BaseQuery, size: int, size_max: int) -> tuple[Sequence[Any], PageOf | None]:
    """Cut a page out of items, if the query asks for one.

    Raises:
        InvalidError: The page is larger than allowed.
        NotFoundError: It is beyond the last.
    """
    if query.page is None and query.page_size is None:
        return items, None
    size = page_size_of(query.page_size, size, size_max)
    number = query.page or 1
    pages = count_pages(len(items), size)
    if number > pages:
        raise page_not_found(number, pages)
    return items[(number - 1) * size : number * size], PageOf(number, size, pages)


def read_as_of(text: str, name: str = "as_of") -> int | datetime:
    """Read a version, or a time; a date alone is the end of that day, UTC.

    Args:
        text: As a client gave it.
        name: Of the parameter, for the error.

    Raises:
        InvalidError: It is neither a version nor a time.
    """
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    try:
        moment = parse_time(text)
        return moment + timedelta(days=1, microseconds=-1) if len(text.strip()) == _DATE_LENGTH else moment
    except (ValueError, OverflowError):
        message = f"Expected a version or an ISO 8601 date or time, got {text!r:.80}."
        raise InvalidError(errors={name: [message]}) from None


def _is_scalar(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return True
    return isinstance(kind, type) and issubclass(kind, _SCALARS)


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return wanted in value
    return bool(value == wanted)


def _holds(item: msgspec.Struct, text: str) -> bool:
    for name in item.__struct_fields__:
        value = getattr(item, name)
        if isinstance(value, str):
            if text in value.casefold():
                return True
        elif isinstance(value, list | tuple) and any(isinstance(one, str) and text in one.casefold() for one in value):
            return True
    return False


def _ordered(items: Sequence[Any], ordering: str, item: type[msgspec.Struct]) -> list[Any]:
    allowed = {field.name for field in msgspec.structs.fields(item) if _is_scalar(base_type(field.type))}
    wanted = [part.strip() for part in ordering.split(",") if part.strip()]
    for name in wanted:
        if name.removeprefix("-") not in allowed:
            message = f"Expected {', '.join(sorted(allowed))}, each with or without '-', got {name!r:.80}."
            raise InvalidError(errors={"ordering": [message]})
    return ordered_by(items, wanted)
