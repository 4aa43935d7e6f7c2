"""Path, query and body are decoded into the types of the handler, or everything that is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernel.contracts import Method, Route
from kernel.http.request import RawBody, Request
from kernel.http.response import Response
from kernel.http.routing import EMPTY, QUERY_PARAMETERS_MAX
from kernel.testing import Client, Result

Mount = Callable[..., Client]


class Query(msgspec.Struct, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    mode: Literal["asc", "desc"] = "asc"
    since: datetime | None = None
    names: tuple[str, ...] = ()
    flag: bool = False
    search: str = "all"
    ordering: str = ""
    cursor: str = ""


class Span(msgspec.Struct, frozen=True):
    start: int
    end: int = 9

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("end lies before start")


class Inner(msgspec.Struct, frozen=True):
    depth: int


class Body(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(max_length=3)]
    size: int
    tags: list[int] = []
    inner: Inner | None = None


def echo_query(query: Query) -> Query:
    """Return the query."""
    return query


def echo_span(query: Span) -> Span:
    """Return the query."""
    return query


def echo_body(body: Body) -> Body:
    """Return the body."""
    return body


def echo_list(body: list[int]) -> list[int]:
    """Return the body."""
    return body


def echo_post_init(body: Span) -> Span:
    """Return the body."""
    return body


def show_raw(body: RawBody) -> dict[str, Any]:
    """Return what was received."""
    return {"bytes": len(body.content), "media_type": body.media_type}


def show_path(number: int, key: UUID, request: Request) -> Response[list[str]]:
    """Return what was received."""
    return Response([str(number), str(key), request.method], 202, {"X-Extra": "yes"})


def get(path: str, handler: Callable[..., Any]) -> Route:
    """Return a public GET route."""
    return Route(path=path, handler=handler, policy="public")


def post(path: str, handler: Callable[..., Any], method: Method = "POST") -> Route:
    """Return a public route that takes a body."""
    return Route(path=path, handler=handler, policy="public", method=method)


@pytest.fixture
def client(mount: Mount) -> Client:
    return mount(
        get("/query/", echo_query),
        get("/span/", echo_span),
        get("/path/{number}/{key}/", show_path),
        post("/body/", echo_body),
        post("/list/", echo_list),
        post("/post-init/", echo_post_init),
        post("/raw/", show_raw),
        http={"max_body_bytes": 2000},
    )


def assert_errors(answer: Result, errors: dict[str, list[str]]) -> None:
    """Check a 400 that names fields."""
    assert (answer.status, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["errors"] == errors


@pytest.mark.parametrize(
    ("query", "field", "expected"),
    [
        ("", "count", 1),
        ("count=7", "count", 7),
        ("mode=desc", "mode", "desc"),
        ("since=2025-12-14", "since", "2025-12-14T00:00:00Z"),
        ("since=2025-12-14T10:00:00%2B02:00", "since", "2025-12-14T08:00:00Z"),
        ("since=2025-12-14T10:00:00+02:00", "since", "2025-12-14T08:00:00Z"),
        ("names=a,b&names=c", "names", ["a", "b", "c"]),
        ("flag=1", "flag", True),
        ("flag=false", "flag", False),
        ("flag=Yes", "flag", True),
        ("flag=off", "flag", False),
        ("flag", "flag", True),
        ("search=", "search", ""),
        ("ordering=&cursor=", "search", "all"),
    ],
)
def test_a_query_is_decoded_into_its_types(query: str, field: str, expected: object, client: Client) -> None:
    assert client.get(f"/query/?{query}").json()[field] == expected


def test_all_wrong_parameters_are_named_in_one_response(client: Client) -> None:
    answer = client.get("/query/?count=10&mode=up&since=noon&flag=maybe&nam=x&count=2")

    assert_errors(
        answer,
        {
            "count": ["This parameter is given more than once: '10', '2'."],
            "flag": ["Expected bool, got 'maybe'."],
            "mode": ["Expected asc or desc, got 'up'."],
            "nam": ["Unknown parameter. There are: count, mode, since, names, flag, search, ordering, cursor."],
            "since": ["Expected an ISO 8601 date or time, got 'noon'."],
        },
    )
    assert answer.json()["error"] == "Some parameters are wrong: count, flag, mode, nam, since."


def test_an_empty_parameter_is_named(client: Client) -> None:
    answer = client.get("/query/?count=&mode=%20&since&names=,&flag=&search=")

    assert_errors(answer, {name: [EMPTY] for name in ("count", "flag", "mode", "names", "since")})


def test_a_missing_parameter_is_named(client: Client) -> None:
    assert_errors(client.get("/span/"), {"start": ["This field is required."]})


def test_a_route_without_a_query_refuses_every_parameter(client: Client) -> None:
    answer = client.get("/path/1/0192aa6e-0000-7000-8000-000000000000/?verbose=1")

    assert_errors(answer, {"verbose": ["Unknown parameter. There are: none."]})


@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.get("/span/?start=5&end=4"),
        lambda client: client.post("/post-init/", {"start": 5, "end": 4}),
    ],
)
def test_values_that_contradict_each_other_are_invalid(send: Callable[[Client], Result], client: Client) -> None:
    answer = send(client)

    assert (answer.status, answer.json()["detail"]) == (400, "end lies before start")


@pytest.mark.parametrize("query", ["names=%ff", "&".join(f"a{n}=1" for n in range(QUERY_PARAMETERS_MAX + 1))])
def test_a_query_string_that_cannot_be_parsed_is_malformed(query: str, client: Client) -> None:
    answer = client.get(f"/query/?{query}")

    assert (answer.status, answer.json()["code"]) == (400, "malformed")


def test_path_parameters_are_decoded_into_their_types(client: Client) -> None:
    answer = client.get("/path/5/0192aa6e-0000-7000-8000-000000000000/")

    assert (answer.status, answer.headers["x-extra"]) == (202, "yes")
    assert answer.json() == ["5", "0192aa6e-0000-7000-8000-000000000000", "GET"]


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/path/five/0192aa6e-0000-7000-8000-000000000000/", "number is not a valid int: 'five'"),
        ("/path/5e0/0192aa6e-0000-7000-8000-000000000000/", "number is not a valid int: '5e0'"),
        ("/path/5.0/0192aa6e-0000-7000-8000-000000000000/", "number is not a valid int: '5.0'"),
        ("/path/5/nonsense/", "key is not a valid UUID: 'nonsense'"),
    ],
)
def test_a_path_parameter_of_the_wrong_type_is_a_404(path: str, detail: str, client: Client) -> None:
    answer = client.get(path)

    assert (answer.status, answer.json()["detail"]) == (404, detail)


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8", "Application/LD+JSON"])
def test_a_body_is_decoded_into_its_type(media_type: str, client: Client) -> None:
    body = {"name": "abc", "size": 1, "tags": [1], "inner": {"depth": 2}}

    assert client.post("/body/", body, headers={"Content-Type": media_type}).json() == body


def test_a_byte_order_mark_before_a_body_is_skipped(client: Client) -> None:
    assert client.post("/list/", content="\ufeff[1, 2]".encode()).json() == [1, 2]


def test_a_body_in_another_charset_is_a_415(client: Client) -> None:
    answer = client.post("/list/", content=b"[]", headers={"Content-Type": "application/json; charset=utf-16"})

    assert (answer.status, answer.json()["detail"]) == (415, "expected utf-8, got utf-16")


def test_all_wrong_fields_of_a_body_are_named_in_one_response(client: Client) -> None:
    answer = client.post("/body/", {"name": "abcd", "tags": [1, "x"], "inner": {"depth": "deep"}, "colour": 1})

    assert_errors(
        answer,
        {
            "colour": ["Unknown field."],
            "name": ["Expected str of length <= 3, got 'abcd'."],
            "size": ["This field is required."],
            "tags": ["Expected int at [1], got [1, 'x']."],
            "inner": ["Expected int at .depth, got {'depth': 'deep'}."],
        },
    )


def test_a_body_that_is_no_object_is_invalid(client: Client) -> None:
    message = "Invalid data. Expected an object, got list."

    assert_errors(client.post("/body/", [1]), {"non_field_errors": [message]})


def test_a_wrong_item_of_a_list_is_located(client: Client) -> None:
    answer = client.post("/list/", [1, 2, "x"])

    assert (answer.status, answer.json()["detail"]) == (400, "Expected int, got str - at $[2]")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"name": "abcd", nonsense',
        b'{"name": 1, "size": 1e999}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b"[" * 5000,
        b'{"name": 1, "deep": ' + b"[" * 1500 + b"]" * 400,
    ],
)
def test_invalid_json_is_malformed_even_after_a_wrong_value(content: bytes, client: Client) -> None:
    answer = client.post("/body/", content=content[:2000])

    assert (answer.status, answer.json()["code"]) == (400, "malformed")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_media_type_is_a_415(media_type: str, client: Client) -> None:
    answer = client.post("/body/", content=b"{}", headers={"Content-Type": media_type})

    assert (answer.status, answer.json()["detail"]) == (415, f"expected application/json, got {media_type}")


@pytest.mark.parametrize("size", [2000, 2001])
@pytest.mark.parametrize("path", ["/body/", "/raw/"])
def test_a_body_over_the_limit_is_a_413(path: str, size: int, client: Client) -> None:
    answer = client.post(path, content=b'"' + b"x" * (size - 2) + b'"')

    assert (answer.status == 413) is (size > 2000)


def test_a_raw_body_is_not_decoded(client: Client) -> None:
    answer = client.post("/raw/", content=b"\x00\xff", headers={"Content-Type": "Text/CSV; charset=x"})

    assert answer.json() == {"bytes": 2, "media_type": "text/csv"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.from_regex(rb'\A\{"(name|size|tags|inner)": .{0,20}\}\Z'))
@example(content=b'{"size":\x000}')
@example(content=b'{"size":"\x80"')
def test_no_body_causes_a_500(content: bytes, client: Client) -> None:
    assert client.post("/body/", content=content).status in {200, 400}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=40))
def test_no_query_string_causes_a_500(query: str, client: Client) -> None:
    assert client.get(f"/query/?{query}").status in {200, 400}
