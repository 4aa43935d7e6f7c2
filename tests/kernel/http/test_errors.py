"""Every error has the same body, or the one of RFC 9457 for clients that accept it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
import msgspec
import psycopg
import pytest

from kernel.contracts import Route
from kernel.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InternalError,
    InvalidError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.testing import Client, Result
from tests.kernel.fakes import CapturedLog

Mount = Callable[..., Client]
SHAPE = ["success", "error", "detail", "code", "request_id"]
RAISED: list[tuple[Exception, int, str]] = [
    (MalformedError(), 400, "malformed"),
    (InvalidError(errors={"name": ["Too long."]}), 400, "invalid"),
    (UnauthorizedError(), 401, "unauthorized"),
    (ForbiddenError(), 403, "forbidden"),
    (NotFoundError(), 404, "not_found"),
    (ConflictError(), 409, "conflict"),
    (TooLargeError(), 413, "too_large"),
    (UnsupportedMediaError(), 415, "unsupported_media_type"),
    (UnavailableError("the database is unavailable"), 503, "unavailable"),
    (falcon.HTTPUnprocessableEntity(title="No", description="Not so."), 422, "unprocessable_entity"),
    (falcon.HTTPInternalServerError(title="No"), 500, "internal"),
    (RuntimeError("secret cause"), 500, "internal"),
]


class Body(msgspec.Struct, frozen=True):
    size: int


def size_of(body: Body) -> int:
    """Return its size."""
    return body.size


def make_failing_handler(error: Exception) -> Callable[[], Any]:
    """Make a handler that raises."""

    def handler() -> Any:
        raise error

    return handler


@pytest.fixture
def get_error(mount: Mount) -> Callable[..., Result]:
    """Request a route that raises the given error: ``get_error(NotFoundError())``."""

    def get(error: Exception, headers: dict[str, str] | None = None, **values: Any) -> Result:
        route = Route(path="/fail/", handler=make_failing_handler(error), policy="public")
        return mount(route, **values).get("/fail/", headers=headers)

    return get


@pytest.mark.parametrize(("error", "status", "code"), RAISED)
def test_every_error_has_its_status_and_the_same_body(
    error: Exception, status: int, code: str, get_error: Callable[..., Result]
) -> None:
    answer = get_error(error, {"X-Request-ID": "my-id"})

    body = answer.json()
    assert (answer.status, body["code"], body["success"], body["request_id"]) == (status, code, False, "my-id")
    assert sorted(body.keys() - {"errors"}) == sorted(SHAPE)
    assert answer.headers["content-type"] == "application/json"
    assert body["error"].endswith(".")


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code"),
    [
        ("GET", "/nowhere/", {}, 404, "not_found"),
        ("DELETE", "/size/", {}, 405, "method_not_allowed"),
        ("POST", "/size/", {"content": b"{"}, 400, "malformed"),
        ("POST", "/size/", {"json": {"size": "x"}}, 400, "invalid"),
        ("POST", "/size/", {"content": b"x" * 1025}, 413, "too_large"),
        ("POST", "/size/", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
    ],
)
def test_errors_of_the_kernel_have_the_same_body(
    method: str, path: str, given: dict[str, Any], status: int, code: str, mount: Mount
) -> None:
    route = Route(path="/size/", handler=size_of, policy="public", method="POST")

    answer = mount(route, http={"max_body_bytes": 1024}).request(method, path, **given)

    assert (answer.status, answer.json()["code"]) == (status, code)
    assert sorted(answer.json().keys() - {"errors"}) == sorted(SHAPE)


def test_errors_by_field_are_members_of_the_body(get_error: Callable[..., Result]) -> None:
    assert get_error(InvalidError(errors={"name": ["Too long."]})).json()["errors"] == {"name": ["Too long."]}


def test_extra_members_are_added_to_the_body(get_error: Callable[..., Result]) -> None:
    answer = get_error(NotFoundError("Unknown application.", extra={"available_apps": ["nexus"]}))

    assert (answer.json()["error"], answer.json()["available_apps"]) == ("Unknown application.", ["nexus"])


def test_unavailable_has_retry_after(get_error: Callable[..., Result]) -> None:
    answer = get_error(UnavailableError("the database is unavailable", retry_after_s=7))

    assert (answer.headers["retry-after"], answer.json()["detail"]) == ("7", "the database is unavailable")


def test_headers_of_an_error_are_sent(get_error: Callable[..., Result]) -> None:
    assert get_error(ApiError(headers={"X-Why": "because"})).headers["x-why"] == "because"


@pytest.mark.parametrize("accept", ["application/problem+json", "text/html, application/problem+json;q=0.9"])
def test_a_client_that_accepts_problem_json_gets_rfc_9457(accept: str, get_error: Callable[..., Result]) -> None:
    error = InvalidError("Some fields are wrong.", detail="two", errors={"name": ["Too long."]})

    answer = get_error(error, {"Accept": accept, "X-Request-ID": "my-id"})

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["vary"] == "Accept, Origin"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "Some fields are wrong. (two)",
        "code": "invalid",
        "errors": {"name": ["Too long."]},
        "request_id": "my-id",
    }


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/plain"])
def test_any_other_client_gets_the_usual_body(accept: str, get_error: Callable[..., Result]) -> None:
    assert get_error(NotFoundError(), {"Accept": accept}).json()["success"] is False


def test_a_browser_gets_a_page_with_the_same_status(mount: Mount) -> None:
    errors = list(enumerate(RAISED))
    client = mount(
        *(Route(path=f"/{n}/", handler=make_failing_handler(error), policy="public") for n, (error, *_) in errors)
    )

    for n, (_, status, code) in errors:
        answer = client.get(f"/{n}/", headers={"Accept": "text/html", "X-Request-ID": "my-id"})

        page = answer.content.decode()
        assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert f'<p class="status" aria-hidden="true">{status}</p>' in page
        assert "my-id" in page
        assert "secret cause" not in page
        # Only what may be over soon.
        assert ('<meta http-equiv="refresh" content="10">' in page) == (code == "unavailable")
        assert "Accept" in answer.headers["vary"]


def test_the_page_of_an_error_names_fields_and_is_escaped(get_error: Callable[..., Result]) -> None:
    error = InvalidError("Wrong.", detail="<script>", errors={"name": ["Longer than <b>."]})

    page = get_error(error, {"Accept": "text/html"}).content.decode()

    assert "&lt;script&gt;" in page
    assert "<code>name</code></dt>" in page
    assert "<dd>Longer than &lt;b&gt;.</dd>" in page


def test_what_a_browser_does_not_open_as_a_page_is_answered_as_any_client(mount: Mount) -> None:
    route = Route(path="/size/", handler=size_of, policy="public", method="POST")

    answer = mount(route).post("/size/", {"size": "x"}, headers={"Accept": "text/html"})

    assert (answer.status, answer.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            InvalidError("Some fields are wrong.", errors={"name": ["Too long."]}, detail="two"),
            400,
            {
                "title": "400 Bad Request",
                "description": "Some fields are wrong. (two)",
                "errors": {"name": ["Too long."]},
            },
        ),
        (
            falcon.HTTPUnprocessableEntity(title="No", description="Not so."),
            422,
            {"title": "422 Unprocessable Entity", "description": "Not so. (No)"},
        ),
        (RuntimeError("oops"), 500, {"title": "500 Internal Server Error", "description": InternalError().message}),
    ],
)
def test_without_unified_errors_the_body_is_that_of_the_framework(
    error: Exception, status: int, expected: dict[str, Any], get_error: Callable[..., Result]
) -> None:
    answer = get_error(error, http={"unified_errors": False})

    assert (answer.status, answer.json()) == (status, expected)
    assert answer.headers["x-request-id"]


def test_without_unified_errors_a_client_can_still_ask_for_a_problem(get_error: Callable[..., Result]) -> None:
    answer = get_error(NotFoundError(), {"Accept": "application/problem+json"}, http={"unified_errors": False})

    assert (answer.headers["content-type"], answer.json()["code"]) == ("application/problem+json", "not_found")


def test_a_process_without_memory_asks_to_send_the_request_again(get_error: Callable[..., Result]) -> None:
    answer = get_error(MemoryError())

    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "5")


def test_an_unexpected_exception_is_not_revealed(get_error: Callable[..., Result]) -> None:
    answer = get_error(RuntimeError("secret cause"))

    assert b"secret" not in answer.content
    assert b"RuntimeError" not in answer.content
    assert answer.json()["detail"] is None


def test_debug_reveals_an_unexpected_exception(get_error: Callable[..., Result]) -> None:
    assert get_error(RuntimeError("secret cause"), debug=True).json()["detail"] == "RuntimeError('secret cause')"


def test_an_unexpected_exception_is_logged_with_its_traceback(
    get_error: Callable[..., Result], captured: CapturedLog
) -> None:
    error = RuntimeError("secret cause")

    get_error(error, {"X-Request-ID": "my-id"})

    (entry,) = captured.events("request_failed")
    assert (entry["request_id"], entry["path"], entry["exc_info"]) == ("my-id", "/fail/", error)


def test_an_error_of_the_client_is_not_logged_as_a_failure(
    get_error: Callable[..., Result], captured: CapturedLog
) -> None:
    get_error(NotFoundError())

    assert not captured.events("request_failed")


def test_an_error_in_a_statement_is_a_500(get_error: Callable[..., Result]) -> None:
    assert get_error(psycopg.errors.UndefinedTable("no such table")).status == 500


def test_a_validation_error_inside_a_handler_is_a_500(get_error: Callable[..., Result]) -> None:
    assert get_error(msgspec.ValidationError("Expected `int`")).status == 500
