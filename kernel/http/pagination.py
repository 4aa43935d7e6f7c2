"""Pages of a list: by number as in Django REST Framework, or by cursor; and the links between them.

A handler reads what page is asked for with ``page_size_of`` and ``read_cursor``, selects one item more than the page
holds, and returns ``numbered_page`` or ``cursor_page``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from kernel.errors import InvalidError, NotFoundError
from kernel.http.request import Request

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list.

    Args:
        count: How many items the whole list has; None if they were not counted.
        next: Link to the next page, or None.
        previous: Link to the previous page, or None.
        results: The items of this page.
    """

    count: int | None
    next: str | None
    previous: str | None
    results: Sequence[T]


def page_size_of(requested: int | None, default: int, maximum: int) -> int:
    """Return how many items a page has.

    Args:
        requested: The query parameter ``page_size``; None if the client did not send it.
        default: Such as ``services.kernel_settings.http.page_size``; always allowed.
        maximum: Such as ``services.kernel_settings.http.page_size_max``.

    Raises:
        InvalidError: The client asks for more than the maximum.
    """
    size = default if requested is None else requested
    if size > max(default, maximum):
        raise InvalidError(errors={"page_size": [f"Expected int <= {max(default, maximum)}, got {size}."]})
    return size


def page_link(request: Request, *, absolute: bool = True, **changes: str | None) -> str:
    """Return the link to another page: this request with some query parameters changed.

    Args:
        request: The request.
        absolute: Whether the link has scheme and host; else it begins with the path.
        changes: New values by parameter; None removes a parameter.
    """
    pairs = [
        (name, value) for name, value in parse_qsl(request.query_string, keep_blank_values=True) if name not in changes
    ]
    pairs += [(name, value) for name, value in changes.items() if value is not None]
    path = f"{request.origin}{request.url_path}" if absolute else request.url_path
    return f"{path}?{urlencode(pairs)}" if pairs else path


# --- by number --------------------------------------------------------------------------------------------------------


def count_pages(count: int, page_size: int) -> int:
    """Return how many pages a list of ``count`` items has; an empty list has one, which is empty."""
    return max(1, -(-count // page_size))


def page_not_found(page: int, pages: int | None) -> NotFoundError:
    """Return the error for a page beyond the last.

    Args:
        page: Its number.
        pages: How many there are, if that is known.
    """
    return NotFoundError("Invalid page.", detail=f"page {page}" if pages is None else f"page {page} of {pages}")


def numbered_page(
    request: Request, results: Sequence[T], *, page: int, page_size: int, count: int | None, has_next: bool
) -> Page[T]:
    """Return a page by number, for the query parameters ``page`` and ``page_size``.

    Args:
        request: For the links.
        results: The items of this page.
        page: Its number; the first is 1.
        page_size: How many items a full page has.
        count: How many items the whole list has; None if they were not counted.
        has_next: Whether there is an item after this page.

    Raises:
        NotFoundError: The page lies beyond the last.
    """
    if page > 1 and not results:
        raise page_not_found(page, None if count is None else count_pages(count, page_size))
    return Page(
        count=count,
        next=page_link(request, page=str(page + 1)) if has_next else None,
        # The first page is the one without a number.
        previous=page_link(request, page=str(page - 1) if page > 2 else None) if page > 1 else None,
        results=results,
    )


# --- by cursor --------------------------------------------------------------------------------------------------------


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The position between two pages: the sort keys of the item next to it.

    Args:
        ordering: The ordering that it belongs to, as in the query parameter ``ordering``.
        values: The sort keys of the item.
        backwards: False for the page after that item, True for the page before it.
    """

    ordering: str
    values: tuple[Any, ...]
    backwards: bool = False

    def encode(self) -> str:
        """Encode the cursor as text for a URL: opaque to clients, but no secret."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Decode what ``encode`` returned.

        Raises:
            InvalidError: The text is not a cursor.
        """
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as ex:
            raise _invalid_cursor() from ex


def read_cursor(text: str, ordering: str, key_types: Sequence[Any]) -> Cursor | None:
    """Return the cursor that a client sent; None for the first page, which has an empty one.

    Args:
        text: The query parameter ``cursor``.
        ordering: The ordering of the list.
        key_types: The types of the sort keys, in their order.

    Raises:
        InvalidError: It is not a cursor, or one of another ordering.
    """
    if not text:
        return None
    cursor = Cursor.decode(text)
    if cursor.ordering != ordering or len(cursor.values) != len(key_types):
        raise InvalidError(errors={"cursor": ["This cursor belongs to another ordering."]})
    try:
        values = tuple(msgspec.convert(value, kind) for value, kind in zip(cursor.values, key_types, strict=True))
    except msgspec.ValidationError as ex:
        raise _invalid_cursor() from ex
    return msgspec.structs.replace(cursor, values=values)


def cursor_page(
    request: Request,
    items: Sequence[T],
    *,
    cursor: Cursor | None,
    page_size: int,
    ordering: str,
    keys_of: Callable[[T], tuple[Any, ...]],
    count: int | None = None,
) -> Page[T]:
    """Return a page by cursor, for the query parameters ``cursor`` and ``page_size``.

    Args:
        request: For the links.
        items: Those of the page in the order of the list and, if there is one, the next item in the direction of the
            cursor: the last of them, or the first if the cursor goes backwards.
        cursor: From ``read_cursor``.
        page_size: How many items a full page has.
        ordering: The ordering of the list.
        keys_of: Returns the sort keys of an item.
        count: How many items the whole list has; None if they were not counted.
    """
    has_more = len(items) > page_size
    if cursor is not None and cursor.backwards:
        results = items[-page_size:]
        has_previous, has_next = has_more, True
    else:
        results = items[:page_size]
        has_previous, has_next = cursor is not None, has_more

    def cursor_link(item: T, *, backwards: bool) -> str:
        return page_link(request, cursor=Cursor(ordering, keys_of(item), backwards).encode())

    return Page(
        count=count,
        next=cursor_link(results[-1], backwards=False) if results and has_next else None,
        previous=cursor_link(results[0], backwards=True) if results and has_previous else None,
        results=results,
    )


def _invalid_cursor() -> InvalidError:
    return InvalidError(errors={"cursor": ["Invalid cursor."]})
