"""Pages of a list: numbered as Django REST Framework numbers them, or by cursor."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from kernel.errors import InvalidError, NotFoundError
from kernel.http.request import Request

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list.

    Args:
        count: How many items the whole list has; None where the client did not want it counted.
        next: Link to the page after this one, or None.
        previous: Link to the page before this one, or None.
        results: The items.
    """

    count: int | None
    next: str | None
    previous: str | None
    results: Sequence[T]


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page by cursor begins.

    Args:
        ordering: The ordering it belongs to, as in the parameter of that name.
        values: The sort keys of the item beside which the page lies.
        backwards: True for the page before that item.
    """

    ordering: str
    values: tuple[Any, ...]
    backwards: bool = False


def encode_cursor(cursor: Cursor) -> str:
    """Encode a cursor as text for a URL. Opaque to clients, but no secret."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode("ascii")


def decode_cursor(text: str) -> Cursor:
    """Decode a cursor.

    Raises:
        InvalidError: The text is no cursor of ours.
    """
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Cursor)
    except (binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as ex:
        raise InvalidError(errors={"cursor": ["This is no cursor that a page was given with."]}) from ex


def link(request: Request, **changes: str | None) -> str:
    """Return the URL of this request with some parameters changed; None takes one away."""
    pairs = [
        (name, value) for name, value in parse_qsl(request.query_string, keep_blank_values=True) if name not in changes
    ]
    pairs += [(name, value) for name, value in changes.items() if value is not None]
    query = urlencode(pairs)
    return f"{request.url_as_sent}?{query}" if query else request.url_as_sent


def numbered(
    request: Request, results: Sequence[T], *, page: int, page_size: int, count: int | None, more: bool
) -> Page[T]:
    """Make a numbered page.

    Args:
        request: For the links.
        results: The items of this page.
        page: Its number; the first is 1.
        page_size: How many items a full page has.
        count: Items of the whole list, if counted.
        more: Whether there is an item after this page.

    Raises:
        NotFoundError: A page beyond the last.
    """
    if page > 1 and not results:
        pages = None if count is None else max(1, -(-count // page_size))
        raise NotFoundError("Invalid page.", detail=f"page {page}" + (f" of {pages}" if pages else ""))
    previous = None
    if page > 1:
        previous = link(request, page=str(page - 1) if page > 2 else None)
    return Page(count, link(request, page=str(page + 1)) if more else None, previous, results)
