"""Every error leaves with one body, and as RFC 9457 where the client asks for it."""

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
    InvalidError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.testing import Answer, Client
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
    (UnavailableError("the moon is away"), 503, "unavailable"),
    (falcon.HTTPUnprocessableEntity(title="No", description="Not so."), 422, "unprocessable_entity"),
    (falcon.HTTPInternalServerError(title="No"), 500, "internal"),
    (RuntimeError("secret cause"), 500, "internal"),
]


class Body(msgspec.Struct, frozen=True):
    size: int


def take(body: Body) -> int:
    """Return its size."""
    return body.size


def failing(error: Exception) -> Callable[[], Any]:
    """Make a handler that raises."""

    def handler() -> Any:
        raise error

    return handler


@pytest.fixture
def ask(mount: Mount) -> Callable[..., Answer]:
    """Ask a route that raises the given error."""

    def asked(error: Exception, headers: dict[str, str] | None = None, **values: Any) -> Answer:
        route = Route(path="/fail/", handler=failing(error), policy="public")
        return mount(route, **values).get("/fail/", headers=headers)

    return asked


@pytest.mark.parametrize(("error", "status", "code"), RAISED)
def test_an_error_has_its_status_and_the_one_body(
    error: Exception, status: int, code: str, ask: Callable[..., Answer]
) -> None:
    answer = ask(error, {"X-Request-ID": "my-id"})

    body = answer.json()
    assert (answer.status, body["code"], body["success"], body["request_id"]) == (status, code, False, "my-id")
    assert sorted(body.keys() - {"errors"}) == sorted(SHAPE)
    assert answer.headers["content-type"] == "application/json"
    assert body["error"].endswith(".")


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code"),
    [
        ("GET", "/nowhere/", {}, 404, "not_found"),
        ("DELETE", "/take/", {}, 405, "method_not_allowed"),
        ("POST", "/take/", {"content": b"{"}, 400, "malformed"),
        ("POST", "/take/", {"json": {"size": "x"}}, 400, "invalid"),
        ("POST", "/take/", {"content": b"x" * 1025}, 413, "too_large"),
        ("POST", "/take/", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
    ],
)
def test_what_the_kernel_refuses_has_the_one_body(
    method: str, path: str, given: dict[str, Any], status: int, code: str, mount: Mount
) -> None:
    route = Route(path="/take/", handler=take, policy="public", method="POST")

    answer = mount(route, http={"max_body_bytes": 1024}).request(method, path, **given)

    assert (answer.status, answer.json()["code"]) == (status, code)
    assert sorted(answer.json().keys() - {"errors"}) == sorted(SHAPE)


def test_wrong_fields_stand_under_errors(ask: Callable[..., Answer]) -> None:
    assert ask(InvalidError(errors={"name": ["Too long."]})).json()["errors"] == {"name": ["Too long."]}


def test_further_members_stand_beside_the_others(ask: Callable[..., Answer]) -> None:
    answer = ask(NotFoundError("Unknown application.", extra={"available_apps": ["nexus"]}))

    assert (answer.json()["error"], answer.json()["available_apps"]) == ("Unknown application.", ["nexus"])


def test_unavailable_says_when_to_come_back(ask: Callable[..., Answer]) -> None:
    answer = ask(UnavailableError("the moon is away", retry_after_s=7))

    assert (answer.headers["retry-after"], answer.json()["detail"]) == ("7", "the moon is away")


def test_headers_of_an_error_leave_with_it(ask: Callable[..., Answer]) -> None:
    assert ask(ApiError(headers={"X-Why": "because"})).headers["x-why"] == "because"


@pytest.mark.parametrize("accept", ["application/problem+json", "text/html, application/problem+json;q=0.9"])
def test_a_client_that_asks_gets_rfc_9457(accept: str, ask: Callable[..., Answer]) -> None:
    error = InvalidError("Some fields are wrong.", detail="two", errors={"name": ["Too long."]})

    answer = ask(error, {"Accept": accept, "X-Request-ID": "my-id"})

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["vary"] == "Accept"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "Some fields are wrong. (two)",
        "code": "invalid",
        "errors": {"name": ["Too long."]},
        "request_id": "my-id",
    }


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html"])
def test_a_client_that_does_not_ask_gets_the_one_body(accept: str, ask: Callable[..., Answer]) -> None:
    assert ask(NotFoundError(), {"Accept": accept}).json()["success"] is False


def test_a_failure_of_ours_shows_nothing_of_its_cause(ask: Callable[..., Answer]) -> None:
    answer = ask(RuntimeError("secret cause"))

    assert b"secret" not in answer.content
    assert b"RuntimeError" not in answer.content
    assert answer.json()["detail"] is None


def test_debug_shows_the_cause(ask: Callable[..., Answer]) -> None:
    assert ask(RuntimeError("secret cause"), debug=True).json()["detail"] == "RuntimeError('secret cause')"


def test_a_failure_of_ours_is_logged_with_its_traceback(ask: Callable[..., Answer], captured: CapturedLog) -> None:
    error = RuntimeError("secret cause")

    ask(error, {"X-Request-ID": "my-id"})

    (entry,) = captured.events("request_failed")
    assert (entry["request_id"], entry["path"], entry["exc_info"]) == ("my-id", "/fail", error)


def test_an_error_of_the_client_is_not_logged_as_a_failure(ask: Callable[..., Answer], captured: CapturedLog) -> None:
    ask(NotFoundError())

    assert not captured.events("request_failed")


def test_an_error_of_the_database_that_is_our_fault_is_a_500(ask: Callable[..., Answer]) -> None:
    assert ask(psycopg.errors.UndefinedTable("no such table")).status == 500


def test_our_own_data_that_does_not_decode_is_not_blamed_on_the_client(ask: Callable[..., Answer]) -> None:
    assert ask(msgspec.ValidationError("Expected `int`")).status == 500
