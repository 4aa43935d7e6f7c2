"""What stands on a page: a list of items, and perhaps where the next page is."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from plugins.club.fetching.hosts import refusal, shown
from plugins.club.fetching.outcome import FetchError
from plugins.club.jsonpath import find, parse_path


def decode_page(body: bytes) -> Any:
    """Read JSON.

    Raises:
        FetchError: It is none.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError as ex:
        raise FetchError("malformed", "the answer is nested too deeply") from ex
    except ValueError as ex:
        raise FetchError("malformed", f"the answer is no JSON: {ex}") from ex


def items_at(document: Any, path: str) -> list[Any]:
    """Return the list at a path.

    Raises:
        FetchError: There is none.
    """
    found = find(document, parse_path(path))
    if isinstance(found, list):
        return found
    place = repr(path) if path else "the top of the document"
    what = "nothing" if found is msgspec.UNSET else type(found).__name__
    raise FetchError("content", f"expected a list at {place}, found {what}")


def next_page(document: Any, path: str | None, current: httpx.URL) -> httpx.URL | None:
    """Return where the next page is; None after the last.

    Args:
        document: The page.
        path: Where its URL stands; None or empty if there is but one page.
        current: The URL of the page.

    Raises:
        FetchError: What stands there is no URL, or one that must not be followed.
    """
    if not path:
        return None
    found = find(document, parse_path(path))
    if found is msgspec.UNSET or found is None or found == "":
        return None
    if not isinstance(found, str):
        raise FetchError("content", f"expected the URL of the next page at {path!r}, found {type(found).__name__}")
    try:
        target = current.join(found)
    except httpx.InvalidURL as ex:
        raise FetchError("content", f"what stands at {path!r} is no URL") from ex
    if reason := refusal(current, target):
        raise FetchError("redirect", f"the next page, {shown(target)}, is refused: it {reason}")
    return target
