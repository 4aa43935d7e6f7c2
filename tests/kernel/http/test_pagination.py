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
from kernel.http.pagination import Cursor, Page, cursor_page, numbered_page, page_link, page_size_of, read_cursor
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
    has_next = first + query.page_size < TOTAL
    return numbered_page(request, results, page=query.page, page_size=query.page_size, count=TOTAL, has_next=has_next)


def link_of(request: Request, name: str) -> str:
    """Return a link to this page with another cursor."""
    return page_link(request, cursor="a&b=c", page=None)


class CursorQuery(msgspec.Struct, frozen=True):
    cursor: str = ""
    page_size: int | None = None


def by_cursor(request: Request, query: CursorQuery) -> Page[int]:
    """Return a page of the numbers below TOTAL, in descending order."""
    size = page_size_of(query.page_size, 3, 5)
    cursor = read_cursor(query.cursor, "-number", [int])
    if cursor is not None and cursor.backwards:
        items = [number for number in reversed(range(TOTAL)) if number > cursor.values[0]][-size - 1 :]
    else:
        items = [number for number in reversed(range(TOTAL)) if cursor is None or number < cursor.values[0]][: size + 1]
    return cursor_page(
        request, items, cursor=cursor, page_size=size, ordering="-number", keys_of=lambda number: (number,), count=TOTAL
    )


def linked_by_path(request: Request, query: Query) -> str:
    """Return a link without a host."""
    return page_link(request, absolute=False, page="2")


@pytest.fixture
def client(mount: Mount) -> Client:
    return mount(
        Route(path="/cursor/", handler=by_cursor, policy="public"),
        Route(path="/by-path/", handler=linked_by_path, policy="public"),
        Route(path="/list/", handler=listing, policy="public"),
        Route(path="/linked/{name}/", handler=link_of, policy="public"),
    )


def follow_links(client: Client, path: str, direction: str) -> list[Any]:
    """Follow the links of a list; return the results of every page."""
    found = []
    while path:
        page = client.get(path).json()
        found.append(page["results"])
        split = urlsplit(page[direction] or "")
        path = f"{split.path}?{split.query}" if split.path else ""
    return found


@pytest.mark.slow
@given(CURSORS)
def test_a_cursor_is_decoded_as_it_was_encoded(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor


@given(CURSORS)
def test_a_cursor_needs_no_escaping_in_a_url(cursor: Cursor) -> None:
    assert parse_qs(f"cursor={cursor.encode()}")["cursor"] == [cursor.encode()]


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_text_is_either_a_cursor_or_invalid(text: str) -> None:
    with contextlib.suppress(InvalidError):
        assert isinstance(Cursor.decode(text), Cursor)


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
def test_other_json_than_a_cursor_is_invalid(content: bytes) -> None:
    with pytest.raises(InvalidError) as caught:
        Cursor.decode(base64.urlsafe_b64encode(content).decode())

    assert list(caught.value.errors or ()) == ["cursor"]


@given(CURSORS, st.integers(0, 200))
def test_a_truncated_cursor_is_invalid(cursor: Cursor, length: int) -> None:
    text = cursor.encode()
    if length >= len(text):
        return

    with pytest.raises(InvalidError):
        Cursor.decode(text[:length])


def test_next_links_lead_through_all_pages(client: Client) -> None:
    assert follow_links(client, "/list/", "next") == [[0, 1, 2], [3, 4, 5], [6]]


def test_previous_links_lead_back_through_all_pages(client: Client) -> None:
    assert follow_links(client, "/list/?page=3", "previous") == [[6], [3, 4, 5], [0, 1, 2]]


def test_links_keep_the_other_query_parameters(client: Client) -> None:
    page = client.get("/list/?q=a%26b+c&page=2&page_size=2").json()

    assert page["next"] == "http://127.0.0.1/list/?q=a%26b+c&page_size=2&page=3"
    assert page["previous"] == "http://127.0.0.1/list/?q=a%26b+c&page_size=2"


def test_a_link_is_quoted(client: Client) -> None:
    answer = client.get("/linked/caf%C3%A9%20%3F/")

    assert answer.json() == "http://127.0.0.1/linked/caf%C3%A9%20%3F/?cursor=a%26b%3Dc"


def test_the_first_page_of_nothing_is_empty() -> None:
    page: Page[int] = numbered_page(None, [], page=1, page_size=3, count=0, has_next=False)  # type: ignore[arg-type]

    assert page == Page(0, None, None, [])


def test_a_page_beyond_the_last_is_not_found(client: Client) -> None:
    answer = client.get("/list/?page=4")

    assert (answer.status, answer.json()["error"], answer.json()["detail"]) == (404, "Invalid page.", "page 4 of 3")


def test_a_link_does_not_trust_x_forwarded_host(client: Client) -> None:
    answer = client.get("/linked/a/", headers={"X-Forwarded-Host": "evil.example"})

    assert answer.json().startswith("http://127.0.0.1/")


def test_a_link_may_begin_with_the_path(client: Client) -> None:
    assert client.get("/by-path/?q=a%20b&page=7").json() == "/by-path/?q=a+b&page=2"


def test_pages_by_cursor_link_to_each_other_in_both_directions(client: Client) -> None:
    assert follow_links(client, "/cursor/", "next") == [[6, 5, 4], [3, 2, 1], [0]]

    last = client.get("/cursor/?cursor=" + Cursor("-number", (1,)).encode()).json()
    split = urlsplit(last["previous"])
    assert follow_links(client, f"{split.path}?{split.query}", "previous") == [[3, 2, 1], [6, 5, 4]]
    assert (last["next"], last["count"]) == (None, TOTAL)


def test_an_empty_page_by_cursor_has_no_links(client: Client) -> None:
    page = client.get("/cursor/?cursor=" + Cursor("-number", (0,)).encode()).json()

    assert page == {"count": TOTAL, "next": None, "previous": None, "results": []}


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        (Cursor("number", (3,)), "This cursor belongs to another ordering."),
        (Cursor("-number", (3, 4)), "This cursor belongs to another ordering."),
        (Cursor("-number", ("three",)), "Invalid cursor."),
    ],
)
def test_a_cursor_of_another_list_is_refused(cursor: Cursor, message: str, client: Client) -> None:
    answer = client.get(f"/cursor/?cursor={cursor.encode()}")

    assert (answer.status, answer.json()["errors"]) == (400, {"cursor": [message]})


def test_a_page_size_beyond_the_maximum_is_refused(client: Client) -> None:
    answer = client.get("/cursor/?page_size=6")

    assert (answer.status, answer.json()["errors"]) == (400, {"page_size": ["Expected int <= 5, got 6."]})
    assert len(client.get("/cursor/?page_size=5").json()["results"]) == 5
    assert page_size_of(None, 10, 5) == 10
