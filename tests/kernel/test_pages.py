"""Pages by number and by cursor."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.contracts import Route
from kernel.errors import InvalidError
from kernel.http.pagination import Cursor, Page, decode_cursor, encode_cursor, link, numbered
from kernel.http.request import Request
from kernel.testing import Client

Mount = Callable[..., Client]
TOTAL = 7

_KEYS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
CURSORS = st.builds(
    Cursor,
    ordering=st.text(max_size=20),
    values=st.lists(_KEYS, max_size=4).map(tuple),
    backwards=st.booleans(),
)


class Query(msgspec.Struct, frozen=True):
    page: int = 1
    page_size: int = 3
    q: str = ""


def listing(request: Request, query: Query) -> Page[int]:
    """Return a page of the numbers below TOTAL."""
    first = (query.page - 1) * query.page_size
    results = list(range(first, min(first + query.page_size, TOTAL)))
    more = first + query.page_size < TOTAL
    return numbered(request, results, page=query.page, page_size=query.page_size, count=TOTAL, more=more)


def linked(request: Request, name: str) -> str:
    """Return a link to this page with another cursor."""
    return link(request, cursor="a&b=c", page=None)


@pytest.fixture
def client(mount: Mount) -> Client:
    return mount(
        Route(path="/list/", handler=listing, policy="public"),
        Route(path="/linked/{name}/", handler=linked, policy="public"),
    )


def walk(client: Client, path: str, direction: str) -> list[Any]:
    """Follow the links of a list; return the results of every page."""
    found = []
    while path:
        page = client.get(path).json()
        found.append(page["results"])
        split = urlsplit(page[direction] or "")
        path = f"{split.path}?{split.query}" if split.path else ""
    return found


@given(CURSORS)
def test_a_cursor_comes_back(cursor: Cursor) -> None:
    assert decode_cursor(encode_cursor(cursor)) == cursor


@given(CURSORS)
def test_a_cursor_needs_no_escaping_in_a_url(cursor: Cursor) -> None:
    assert parse_qs(f"cursor={encode_cursor(cursor)}")["cursor"] == [encode_cursor(cursor)]


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_whatever_is_sent_as_a_cursor_is_one_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidError):
        assert isinstance(decode_cursor(text), Cursor)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"{}",
        b"[]",
        b'["-time"]',
        b'["-time", 5]',
        b"[5, []]",
        b'["t", [], 1]',
        b'["t", [], true, 1]',
        b"\xff",
    ],
)
def test_what_was_never_a_cursor_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(InvalidError) as caught:
        decode_cursor(base64.urlsafe_b64encode(content).decode())

    assert list(caught.value.errors or ()) == ["cursor"]


@given(CURSORS, st.integers(0, 200))
def test_a_cursor_that_is_cut_short_is_refused(cursor: Cursor, length: int) -> None:
    text = encode_cursor(cursor)
    if length >= len(text):
        return

    with pytest.raises(InvalidError):
        decode_cursor(text[:length])


def test_pages_link_to_each_other_forwards(client: Client) -> None:
    assert walk(client, "/list/", "next") == [[0, 1, 2], [3, 4, 5], [6]]


def test_pages_link_to_each_other_backwards(client: Client) -> None:
    assert walk(client, "/list/?page=3", "previous") == [[6], [3, 4, 5], [0, 1, 2]]


def test_links_keep_the_other_parameters_and_say_where_they_lead(client: Client) -> None:
    page = client.get("/list/?q=a%26b+c&page=2&page_size=2").json()

    assert page["next"] == "http://127.0.0.1/list/?q=a%26b+c&page_size=2&page=3"
    assert page["previous"] == "http://127.0.0.1/list/?q=a%26b+c&page_size=2"


def test_a_link_is_a_url_whatever_stands_in_it(client: Client) -> None:
    answer = client.get("/linked/caf%C3%A9%20%3F/")

    assert answer.json() == "http://127.0.0.1/linked/caf%C3%A9%20%3F/?cursor=a%26b%3Dc"


def test_the_first_page_of_nothing_is_empty() -> None:
    page: Page[int] = numbered(None, [], page=1, page_size=3, count=0, more=False)  # type: ignore[arg-type]

    assert page == Page(0, None, None, [])


def test_a_page_beyond_the_last_is_not_found(client: Client) -> None:
    answer = client.get("/list/?page=4")

    assert (answer.status, answer.json()["error"], answer.json()["detail"]) == (404, "Invalid page.", "page 4 of 3")


def test_a_link_does_not_believe_a_forwarded_host(client: Client) -> None:
    answer = client.get("/linked/a/", headers={"X-Forwarded-Host": "evil.example"})

    assert answer.json().startswith("http://127.0.0.1/")
