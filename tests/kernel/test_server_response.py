"""What our server makes of the headers of an answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader, InvalidHeaderName

from kernel.server.response import ServerResponse


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Server and client of a connection."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


@pytest.fixture
def response(ends: tuple[socket.socket, socket.socket]) -> Any:
    """An answer to a GET."""
    request: Any = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    return ServerResponse(request, ends[0], Config())


def test_headers_leave_in_their_order_as_they_were_given(
    response: Any, ends: tuple[socket.socket, socket.socket]
) -> None:
    response.start_response("200 OK", [("ETag", '"a"'), ("Content-Length", "2"), ("X-Empty", ""), ("Vary", "Origin")])
    response.write(b"ok")
    sent = ends[1].recv(4096)
    assert b'ETag: "a"\r\nContent-Length: 2\r\nX-Empty: \r\nVary: Origin\r\n\r\n' in sent


@pytest.mark.parametrize("name", ["Connection", "transfer-encoding", "Server", "Date"])
def test_headers_of_the_connection_are_the_servers_own(name: str, response: Any) -> None:
    response.start_response("200 OK", [(name, "close"), ("Vary", "Origin")])
    assert response.headers == [("Vary", "Origin")]


@pytest.mark.parametrize("name", ["content-length", "Content-Length"])
def test_no_more_is_sent_than_the_length_says(name: str, response: Any) -> None:
    response.start_response("200 OK", [(name, "2")])
    response.write(b"okay")
    assert response.sent == 2
    assert not response.chunked


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=1", "a\nb", "a\0b", "a\x7fb", "€"])
def test_a_value_that_would_break_the_head_is_refused(value: str, response: Any) -> None:
    with pytest.raises(InvalidHeader):
        response.start_response("200 OK", [("X-Name", value)])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb"])
def test_a_name_that_would_break_the_head_is_refused(name: str, response: Any) -> None:
    with pytest.raises(InvalidHeaderName):
        response.start_response("200 OK", [(name, "value")])


@pytest.mark.parametrize("value", ["caf\xe9", "a\tb"])
def test_a_value_beyond_ascii_is_taken_where_http_allows_it(value: str, response: Any) -> None:
    response.start_response("200 OK", [("X-Name", value)])
    assert response.headers == [("X-Name", value)]
