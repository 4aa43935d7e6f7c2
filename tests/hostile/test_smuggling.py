"""Requests that a proxy in front and the service could read differently: all are refused, and nothing behind them is
served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.raw_http import exchange
from tests.processes import Service, copy_home, serving

pytestmark = pytest.mark.process

HOST = "Host: 127.0.0.1\r\n"
GET = f"GET /api/ HTTP/1.1\r\n{HOST}"
POST = f"POST /api/requests/ingest/ HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n"
# What an attacker would have the service take for a request of its own.
SECOND = f"GET /livez HTTP/1.1\r\n{HOST}\r\n"
HEADS = {
    "line feeds only": "GET /api/ HTTP/1.1\nHost: 127.0.0.1\n\n",
    "request line ends with a line feed": f"GET /api/ HTTP/1.1\n{HOST}\r\n",
    "header ends with a line feed": f"{GET}A: b\nC: d\r\n\r\n",
    "last header ends with a line feed": f"{GET}A: b\n\r\n",
    "empty line is a line feed": f"{GET}A: b\r\n\n",
    "a line feed first": f"\n{GET}\r\n",
    "a carriage return only": f"{GET}A: b\rC: d\r\n\r\n",
    "two carriage returns": f"{GET}A: b\r\r\n\r\n",
    "length behind a line feed": f"{GET}A: b\nContent-Length: 5\r\n\r\nhello",
    "codings behind a line feed": f"{POST}A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded with a blank": f"{GET}A: b\r\n c\r\n\r\n",
    "folded with a tab": f"{GET}A: b\r\n\tc\r\n\r\n",
    "folded length": f"{POST}Content-Length:\r\n 5\r\n\r\nhello",
    "the first header is folded": f"GET /api/ HTTP/1.1\r\n {HOST}\r\n",
    "blanks in the request line": f"GET  /api/ HTTP/1.1\r\n{HOST}\r\n",
    "a blank ends the request line": f"GET /api/ HTTP/1.1 \r\n{HOST}\r\n",
    "same length twice": f"{POST}Content-Length: 2\r\nContent-Length: 2\r\n\r\n[]",
    "list of lengths": f"{POST}Content-Length: 2, 2\r\n\r\n[]",
    "signed length": f"{POST}Content-Length: +2\r\n\r\n[]",
    "length in another base": f"{POST}Content-Length: 0x2\r\n\r\n[]",
    "superscript length": f"{POST}Content-Length: \xb2\r\n\r\n[]",
    "blank before the colon of a length": f"{POST}Content-Length : 2\r\n\r\n[]",
    "length and chunks": f"{CHUNKED}Content-Length: 2\r\n\r\n0\r\n\r\n",
    "chunks and length": f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": f"{CHUNKED}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, and something else after it": f"{POST}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "blank before the colon of the coding": f"{POST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "tab before the colon of the coding": f"{POST}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "vertical tab in the coding": f"{POST}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": f"POST /api/ HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "not chunked": f"{POST}Transfer-Encoding: gzip\r\n\r\n",
    "two hosts": f"{GET}Host: evil.example\r\n\r\n",
}
BODIES = {
    "size ends with a line feed": "2\n[]\r\n0\r\n\r\n",
    "chunk ends with a line feed": "2\r\n[]\n0\r\n\r\n",
    "chunk is longer than its size": "2\r\n[  ]\r\n0\r\n\r\n",
    "last size ends with a line feed": "2\r\n[]\r\n0\n\n",
    "trailer with a line feed": "2\r\n[]\r\n0\r\nA: b\nC: d\r\n\r\n",
    "trailer ends with line feeds": "2\r\n[]\r\n0\r\nA: b\n\n",
    "line feed in an extension": "2;a\nb\r\n[]\r\n0\r\n\r\n",
    "blank before the size": " 2\r\n[]\r\n0\r\n\r\n",
    "signed size": "+2\r\n[]\r\n0\r\n\r\n",
    "size with a prefix": "0x2\r\n[]\r\n0\r\n\r\n",
    "length in the trailer": "2\r\n[]\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(copy_home(initialised, tmp_path_factory.mktemp("smuggling"))) as started:
        yield started


def test_an_ambiguous_head_is_refused_and_ends_the_connection(service: Service) -> None:
    for name, head in HEADS.items():
        # The first request of a connection, and a later one: a worker reads them in different ways.
        for before in ([], [SECOND]):
            *served, refused = exchange(service.port, "".join([*before, head, SECOND]))

            assert [each.status for each in served] == [200] * len(before), name
            assert (refused.status, refused.headers["content-type"]) == (400, "application/json"), name
            assert refused.json()["code"] == "malformed", name
            assert refused.headers["connection"] == "close", name
    assert "Traceback" not in service.errors


def test_ambiguous_chunks_are_refused_and_end_the_connection(service: Service) -> None:
    for name, body in BODIES.items():
        [refused] = exchange(service.port, f"{CHUNKED}\r\n{body}{SECOND}")

        assert (refused.status, refused.json()["code"]) == (400, "malformed"), name
    assert "Traceback" not in service.errors


def test_ambiguous_chunks_of_a_body_that_nobody_reads_end_the_connection(service: Service) -> None:
    for name, body in BODIES.items():
        answers = exchange(
            service.port, f"POST /none/ HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{body}{SECOND}"
        )

        assert [each.status for each in answers] == [404], name


def test_what_is_unambiguous_is_served(service: Service) -> None:
    several = [
        SECOND,
        # One empty line may precede a request (RFC 9112, 2.2).
        f"\r\n{SECOND}",
        f"{GET}A:\tb \t\r\nX-Empty:\r\n\r\n",
        f"{CHUNKED}\r\n2;name=value\r\n[]\r\n0\r\nTrailer-Field: x\r\n\r\n",
        SECOND,
    ]

    assert [each.status for each in exchange(service.port, "".join(several))] == [200] * len(several)
