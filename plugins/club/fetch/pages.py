"""The pages of a source: conditional requests for known pages, the list of items on each, and the next page."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec

from kernel import strip_bom
from plugins.club.fetch.allowed_hosts import ensure_same_host
from plugins.club.fetch.client import PageResponse, SourceClient
from plugins.club.fetch.results import FetchError, PageValidator, Validators
from plugins.club.mapping import look_up, parse_path
from plugins.club.settings import Source


class Page(msgspec.Struct, frozen=True):
    """A page of a source.

    Args:
        items: The list of items, decoded but not mapped.
        validator: For the next conditional request; None if the server sent none.
        size_bytes: Size of the page, decompressed.
    """

    items: list[Any]
    validator: PageValidator | None
    size_bytes: int


def fingerprint(source: Source) -> str:
    """Return a hash of a source's configuration, hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(source, order="sorted")).hexdigest()


async def fetch_first_page(client: SourceClient, source: Source, known: Validators | None) -> PageResponse | Validators:
    """Fetch the first page of a source, unless no page has changed.

    Args:
        client: Sends the requests.
        source: Its configuration.
        known: Validators of the last successful fetch; ignored if the configuration has changed since.

    Returns:
        The first page; or, if the server answered 304 for every known page, the validators as given.

    Raises:
        FetchError: A page could not be fetched.
    """
    url = httpx.URL(source.url)
    if known is None or known.fingerprint != fingerprint(source) or not known.pages:
        return await client.get(url)
    first = await client.get(url, known.pages[0])
    if first.body is not None:
        return first
    for page in known.pages[1:]:
        if (await client.get(httpx.URL(page.url), page)).body is not None:
            # All pages are needed now, and the unchanged ones came without a body.
            return await client.get(url)
    return known


async def follow_pages(
    client: SourceClient, source: Source, first: PageResponse, max_pages: int
) -> AsyncGenerator[Page, None]:
    """Yield the pages of a source, from the first to the last.

    Args:
        client: Sends the requests.
        source: Its configuration; ``next`` is the path to the URL of the next page.
        first: The response with the first page.
        max_pages: Maximum number of pages.

    Raises:
        FetchError: A page could not be fetched, is not as configured, repeats, or is one too many.
    """
    visited = {httpx.URL(source.url)}
    response = first
    while True:
        body = response.body or b""
        document = _decode(body)
        yield Page(_find_items(document, source.items), response.validator, len(body))
        url = _find_next(document, source.next, response.url)
        if url is None:
            return
        if url in visited:
            raise FetchError("content", f"the pages form a loop: page {len(visited)} links back to an earlier one")
        if len(visited) >= max_pages:
            raise FetchError("too-large", f"there are more than {max_pages} pages")
        visited.add(url)
        response = await client.get(url)


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(strip_bom(body))
    except RecursionError as ex:
        raise FetchError("malformed", "the response is nested too deeply") from ex
    except ValueError as ex:
        raise FetchError("malformed", f"the response is not valid JSON: {ex}") from ex


def _find_items(document: Any, path: str) -> list[Any]:
    found = look_up(document, parse_path(path))
    if isinstance(found, list):
        return found
    where = repr(path) if path else "the top level of the document"
    what = "nothing" if found is msgspec.UNSET else type(found).__name__
    raise FetchError("content", f"expected a list at {where}, found {what}")


def _find_next(document: Any, path: str | None, current: httpx.URL) -> httpx.URL | None:
    """Return the URL of the next page; None on the last one, or if the source has only one page."""
    if not path:
        return None
    found = look_up(document, parse_path(path))
    if found is msgspec.UNSET or found is None or found == "":
        return None
    if not isinstance(found, str):
        raise FetchError("content", f"expected the URL of the next page at {path!r}, found {type(found).__name__}")
    try:
        target = current.join(found)
    except httpx.InvalidURL as ex:
        raise FetchError("content", f"the next page at {path!r} is not a valid URL") from ex
    ensure_same_host(current, target, "the next page")
    return target
