"""Lists that are in memory: which items a query selects, in which order, and a page of them.

Datasets are listed this way, and so is what a process knows anyway, such as applications.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from kernel.conversion import base_type, field_types, split_list
from kernel.errors import InvalidError
from kernel.http.pagination import Page, numbered_page, page_size_of
from kernel.http.request import Request
from kernel.settings import HttpSettings

T = TypeVar("T", bound=msgspec.Struct)
_SCALARS = (str, int, float, bool, date)


class ListQuery(msgspec.Struct, frozen=True):
    """Parameters that every list in memory takes. Further fields of a subclass select items by equality.

    They have the names of fields of the items, and ``msgspec.UNSET`` by default.

    Args:
        search: Items with this text in any of their text fields, ignoring case.
        ordering: Fields separated by commas; a leading ``-`` sorts descending.
        page: Number of a page, from 1.
        page_size: Items per page; ``http.page_size`` by default.
    """

    search: Annotated[str, msgspec.Meta(max_length=300)] = ""
    ordering: str = ""
    page: Annotated[int, msgspec.Meta(ge=1)] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # The fields that do not select by equality.
    reserved: ClassVar[frozenset[str]] = frozenset({"search", "ordering", "page", "page_size"})


def list_page(
    request: Request, items: Sequence[T], query: ListQuery, item: type[msgspec.Struct], settings: HttpSettings
) -> Page[T]:
    """Return the page that a query asks for.

    Args:
        request: For the links.
        items: All items.
        query: The query.
        item: Their Struct.
        settings: Sizes of pages.

    Raises:
        InvalidError: It orders by a field that does not exist, or the page is larger than allowed.
        NotFoundError: The page lies beyond the last.
    """
    selected = select_items(items, query, item)
    page, size = query.page or 1, page_size_of(query.page_size, settings.page_size, settings.page_size_max)
    end = page * size
    results = selected[end - size : end]
    return numbered_page(request, results, page=page, page_size=size, count=len(selected), has_next=end < len(selected))


def ordering_schema(fields: Collection[str]) -> dict[str, Any]:
    """Return what a JSON Schema says of the parameter ``ordering``, for ``msgspec.Meta``.

    Args:
        fields: Those that it may name.
    """
    field = f"-?({'|'.join(sorted(fields))})"
    return {"pattern": f"^({field}(,{field})*)?$"}


def is_scalar(kind: Any) -> bool:
    """Tell whether values of a type can be parameters, and be sorted."""
    if typing.get_origin(kind) is typing.Literal:
        return True
    return isinstance(kind, type) and issubclass(kind, _SCALARS)


def select_items(items: Sequence[T], query: ListQuery, item: type[msgspec.Struct]) -> Sequence[T]:
    """Return the items that a query selects, in the order it asks for, before paging.

    Args:
        items: The items to select from.
        query: The query.
        item: Their Struct.

    Raises:
        InvalidError: It orders by a field that does not exist.
    """
    for name in query.__struct_fields__:
        if name not in query.reserved and (wanted := getattr(query, name)) is not msgspec.UNSET:
            items = [each for each in items if _equals(getattr(each, name), wanted)]
    if query.search:
        text = query.search.casefold()
        items = [each for each in items if _contains(each, text)]
    if not query.ordering:
        return items
    fields = split_list(query.ordering)
    sortable = {name for name, annotation in field_types(item).items() if is_scalar(base_type(annotation))}
    for field in fields:
        if field.removeprefix("-") not in sortable:
            message = f"Expected {', '.join(sorted(sortable))}, each with or without '-', got {field!r:.80}."
            raise InvalidError(errors={"ordering": [message]})
    return sort_items(items, fields)


def _equals(value: Any, wanted: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return wanted in value
    return bool(value == wanted)


def _contains(item: msgspec.Struct, text: str) -> bool:
    for name in item.__struct_fields__:
        value = getattr(item, name)
        if isinstance(value, str):
            if text in value.casefold():
                return True
        elif isinstance(value, list | tuple) and any(isinstance(one, str) and text in one.casefold() for one in value):
            return True
    return False


def sort_items(items: Iterable[Any], order: Sequence[str]) -> list[Any]:
    """Sort items by fields; a leading ``-`` sorts descending. None comes last, in ascending and in descending order."""
    ordered = list(items)
    for field in reversed(order):
        name = field.removeprefix("-")
        with_value = [item for item in ordered if getattr(item, name) is not None]
        with_value.sort(key=lambda item: _sort_key(getattr(item, name)), reverse=field != name)
        if len(with_value) < len(ordered):
            with_value += [item for item in ordered if getattr(item, name) is None]
        ordered = with_value
    return ordered


_NUMBER, _TEXT, _TIME, _OTHER = range(4)


def _sort_key(value: Any) -> tuple[int, Any]:
    # A field may hold values of several types, which Python does not compare with each other.
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return (_TEXT, value)
    if isinstance(value, int | float):
        return (_NUMBER, value)
    if isinstance(value, datetime):
        return (_TIME, value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    return (_OTHER, str(value))
