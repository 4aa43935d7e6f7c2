"""Requests that never reach the application: the server answers them with the same body as every other error."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.http import errors as gunicorn_errors

from kernel.errors import InternalError
from kernel.server.error_responses import as_api_error
from tests.processes import Service, copy_home, eventually, serving

HOST = "Host: 127.0.0.1\r\n"
GET = f"GET /livez HTTP/1.1\r\n{HOST}"
POST = f"POST /livez HTTP/1.1\r\n{HOST}"
CLOSE = "Connection: close\r\n\r\n"
MALFORMED = {
    # request line
    "GET\r\n\r\n": (400, "malformed"),
    "\x16\x03\x01\x02\x00\r\n\r\n": (400, "malformed"),
    f"get /livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"G(T /livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET /\xe9 HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET * HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET /{'a' * 9000} HTTP/1.1\r\n{HOST}\r\n": (414, "uri_too_long"),
    f"GET /{'a' * 90_000} HTTP/1.1\r\n{HOST}\r\n": (414, "uri_too_long"),
    f"GET /livez HTTP/2.0\r\n{HOST}\r\n": (505, "http_version_not_supported"),
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": (505, "http_version_not_supported"),
    # headers
    f"{GET}A b: c\r\n\r\n": (400, "malformed"),
    f"{GET}A: b\x00c\r\n\r\n": (400, "malformed"),
    f"{GET}Authorization Bearer s3cret\r\n\r\n": (400, "malformed"),
    f"{GET}Host: other.example\r\n\r\n": (400, "malformed"),
    f"{GET}Expect: nonsense\r\n\r\n": (417, "expectation_failed"),
    f"{GET}A: {'b' * 9000}\r\n\r\n": (431, "request_header_fields_too_large"),
    GET + "A: b\r\n" * 200 + "\r\n": (431, "request_header_fields_too_large"),
    # length of the body
    f"{POST}Content-Length: x\r\n\r\n": (400, "malformed"),
    f"{POST}Content-Length: -1\r\n\r\n": (400, "malformed"),
    f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n": (400, "malformed"),
    f"{POST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": (400, "malformed"),
    f"{POST}Transfer-Encoding: gzip\r\n\r\n": (400, "malformed"),
    f"{POST}Transfer-Encoding: nonsense\r\n\r\n": (501, "not_implemented"),
    # host and target
    "GET /livez HTTP/1.1\r\n\r\n": (400, "malformed"),
    "GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n": (400, "malformed"),
    f"GET http:///livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET http://user@127.0.0.1/livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"GET ftp://127.0.0.1/livez HTTP/1.1\r\n{HOST}\r\n": (400, "malformed"),
    f"CONNECT 127.0.0.1:443 HTTP/1.1\r\n{HOST}\r\n": (501, "not_implemented"),
    # slow
    "GET /livez HT": (408, "request_timeout"),
}


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits one second for the head of a request."""
    home = copy_home(initialised, tmp_path_factory.mktemp("malformed"))
    with serving(home, TIERCEL_LOG="json", TIERCEL_SERVER__HEADER_TIMEOUT_S="1") as started:
        yield started


def send(service: Service, raw: str) -> bytes:
    """Send raw bytes, and read until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(raw.encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def parse(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers by name in lower case, and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    return int(line.split()[1]), {name.lower(): value for name, value in headers.items()}, body


def logged(service: Service) -> list[tuple[str, int]]:
    """Return request id and status of every line of the request log."""
    lines = [json.loads(line) for line in service.errors.splitlines()]
    return [(line["request_id"], line["status"]) for line in lines if line["event"] == "request"]


@pytest.mark.process
def test_what_the_server_refuses_has_the_body_of_an_error_and_a_line_in_the_log(service: Service) -> None:
    sent = []
    for raw, expected in MALFORMED.items():
        status, headers, content = parse(send(service, raw))
        body = json.loads(content)

        assert (status, body["code"]) == expected, raw[:80]
        assert list(body) == ["success", "error", "detail", "code", "request_id"], raw[:80]
        assert (body["success"], headers["content-type"]) == (False, "application/json")
        assert (headers["x-request-id"], headers["connection"]) == (body["request_id"], "close")
        assert headers["content-length"] == str(len(content))
        sent.append((body["request_id"], status))
    assert eventually(lambda: logged(service) == sent)
    assert "s3cret" not in service.errors
    assert "Traceback" not in service.errors


@pytest.mark.process
def test_the_server_does_not_negotiate_and_keeps_the_request_id_where_it_could_read_it(service: Service) -> None:
    asked = f"CONNECT a:1 HTTP/1.1\r\n{HOST}Accept: application/problem+json\r\nX-Request-ID: mine\r\n\r\n"

    status, headers, content = parse(send(service, asked))

    assert (status, headers["content-type"], headers["x-request-id"]) == (501, "application/json", "mine")
    assert json.loads(content)["request_id"] == "mine"


@pytest.mark.process
def test_a_malformed_rest_of_a_body_is_no_second_request(service: Service) -> None:
    response = send(service, f"{POST}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")

    assert (parse(response)[0], response.count(b"HTTP/1.1 ")) == (405, 1)


@pytest.mark.process
@pytest.mark.parametrize(
    ("target", "host", "status", "links"),
    [
        ("http://127.0.0.1:99/api/", "other.example", 200, "http://127.0.0.1:99/api/"),
        ("http://other.example/api/", "127.0.0.1", 400, None),
        ("http://127.0.0.1:99", "other.example", 200, "http://127.0.0.1:99/api/"),
        ("/api/", "127.0.0.1:98", 200, "http://127.0.0.1:98/api/"),
    ],
)
def test_a_target_in_absolute_form_decides_over_host(
    service: Service, target: str, host: str, status: int, links: str | None
) -> None:
    got, _, content = parse(send(service, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{CLOSE}"))

    assert got == status
    assert json.loads(content).get("resources", {}).get("api", {}).get("url") == links


@pytest.mark.process
def test_the_options_of_the_server_can_be_asked_for(service: Service) -> None:
    status, headers, content = parse(send(service, f"OPTIONS * HTTP/1.1\r\n{HOST}X-Request-ID: mine\r\n{CLOSE}"))

    assert (status, content, headers["x-request-id"]) == (204, b"", "mine")
    assert headers["allow"] == "OPTIONS, GET, POST, PUT, PATCH, DELETE, HEAD"


def test_every_exception_of_the_parser_has_an_error() -> None:
    for name, kind in vars(gunicorn_errors).items():
        if isinstance(kind, type) and issubclass(kind, gunicorn_errors.ParseException):
            arguments = getattr(kind.__init__, "__code__", None)
            made: Any = kind(*("x" for _ in range(arguments.co_argcount - 1 if arguments else 0)))
            is_own_fault = name in ("ConfigurationProblem", "InvalidResponseHeader", "InvalidResponseHeaderName")
            assert isinstance(as_api_error(made), InternalError) == is_own_fault, name


def test_any_other_exception_is_a_failure_of_the_service() -> None:
    error = as_api_error(RuntimeError("secret cause"))

    assert (error.status, error.detail) == (500, None)
