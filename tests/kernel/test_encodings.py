"""Bodies that arrive encoded, with limits on what they decode to; answers that leave encoded."""

from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import falcon
import msgspec
import pytest

from kernel.contracts import Method, Route
from kernel.errors import ConflictError
from kernel.http.bodies import RawBody, StreamBody
from kernel.http.encodings import CHUNK_BYTES, decoded
from kernel.http.response import Response
from kernel.testing import Answer, Client

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Mount = Callable[..., Client]

ENCODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
DECODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstd.decompress}
LIMIT_BYTES = 100_000
BOMB_BYTES = 50_000_000
TEXT = b'"' + bytes(range(97, 123)) * 100 + b'"'
LONG = "tiercel " * 1000
CODED = pytest.mark.parametrize("coding", ENCODE)


def echo(body: str) -> str:
    """Return a JSON text."""
    return body


def size(body: RawBody) -> int:
    """Measure a body."""
    return len(body.content)


def lines(body: StreamBody) -> list[int]:
    """Measure the lines of a body."""
    return [len(line) for line in body.lines(max_line_bytes=5000)]


def answer(query: Size) -> Response[str]:
    """Answer with a long text."""
    return Response("x" * query.size, headers={"ETag": '"strong"'})


def refuse() -> None:
    """Answer with a long error."""
    raise ConflictError(detail=LONG)


class Size(msgspec.Struct, frozen=True):
    size: int = 8000


class Special:
    """Answers that no coding would help."""

    def on_get(self, request: falcon.Request, response: falcon.Response, kind: str) -> None:
        response.data = TEXT
        response.content_type = "text/plain"
        if kind == "encoded":
            response.set_header("Content-Encoding", "br")
        elif kind == "events":
            response.content_type = "text/event-stream"
        elif kind == "image":
            response.content_type = "image/png"
        elif kind == "range":
            response.set_header("Content-Range", "bytes 0-2602/9999")
        elif kind in {"204", "304"}:
            response.status, response.content_type = int(kind), None
        elif kind == "noise":
            response.data = random.Random(1).randbytes(5000)


@pytest.fixture
def client(mount: Mount) -> Client:
    """A service with a route for each kind of body."""

    def route(path: str, handler: object, method: Method | None) -> Route:
        return Route(path=path, handler=handler, method=method, policy="public")

    return mount(
        route("/echo/", echo, "POST"),
        route("/size/", size, "POST"),
        route("/lines/", lines, "POST"),
        route("/answer/", answer, "GET"),
        route("/refuse/", refuse, "GET"),
        route("/special/{kind}/", Special(), None),
        http={"max_body_bytes": LIMIT_BYTES, "max_decoded_bytes": LIMIT_BYTES},
    )


def post(client: Client, path: str, content: bytes, coding: str) -> Answer:
    """Post an encoded body."""
    return client.post(path, content=content, headers={"Content-Encoding": coding})


def get(client: Client, path: str, accept: str, method: str = "GET") -> Answer:
    """Ask for an encoded answer."""
    return client.request(method, path, headers={"Accept-Encoding": accept})


@CODED
def test_an_encoded_body_is_decoded(coding: str, client: Client) -> None:
    assert post(client, "/echo/", ENCODE[coding](TEXT), coding).json().encode() == TEXT[1:-1]


@pytest.mark.parametrize("header", ["GZIP", "x-gzip", "identity, gzip"])
def test_a_coding_may_be_named_in_other_ways(header: str, client: Client) -> None:
    assert post(client, "/size/", gzip.compress(TEXT), header).json() == len(TEXT)


def test_identity_is_no_coding(client: Client) -> None:
    assert post(client, "/size/", TEXT, "identity").json() == len(TEXT)


@pytest.mark.parametrize("header", ["br", "deflate", "gzip, zstd", "gzip, gzip"])
def test_an_unknown_coding_is_refused_with_those_that_are_known(header: str, client: Client) -> None:
    refused = post(client, "/echo/", TEXT, header)

    assert (refused.status, refused.json()["code"]) == (415, "unsupported_media_type")
    assert refused.headers["accept-encoding"] == "zstd, gzip"
    assert "zstd, gzip" in refused.json()["detail"]


@CODED
def test_members_may_follow_one_another(coding: str, client: Client) -> None:
    content = b"".join(ENCODE[coding](part) for part in (TEXT, b"", TEXT * 30, b"x"))

    assert post(client, "/size/", content, coding).json() == 31 * len(TEXT) + 1


@CODED
@pytest.mark.parametrize("path", ["/size/", "/lines/"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: content + content[:5],
        lambda content: content + b"garbage",
        lambda content: b"garbage" + content,
        lambda content: b"",
    ],
    ids=["one byte short", "cut", "second member cut", "garbage after", "garbage before", "nothing"],
)
def test_a_spoilt_stream_is_malformed(spoil: Any, path: str, coding: str, client: Client) -> None:
    refused = post(client, path, spoil(ENCODE[coding](TEXT)), coding)

    assert (refused.status, refused.json()["code"]) == (400, "malformed")


def test_a_wrong_checksum_is_malformed(client: Client) -> None:
    content = bytearray(gzip.compress(TEXT))
    content[-8] ^= 1

    assert post(client, "/size/", bytes(content), "gzip").status == 400


@CODED
@pytest.mark.parametrize(("length", "status"), [(LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413)])
def test_a_body_may_decode_up_to_the_limit(length: int, status: int, coding: str, client: Client) -> None:
    assert post(client, "/size/", ENCODE[coding](b"x" * length), coding).status == status


def test_an_encoded_body_is_limited_as_it_is_sent_too(client: Client) -> None:
    assert post(client, "/size/", gzip.compress(b"") * 6000, "gzip").status == 413


@CODED
def test_a_bomb_is_never_held(coding: str) -> None:
    bomb = ENCODE[coding](bytes(BOMB_BYTES))
    tracemalloc.start()

    given_bytes = sum(len(piece) for piece in decoded([bomb], coding, BOMB_BYTES))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert given_bytes == BOMB_BYTES
    assert peak_bytes < 8 * CHUNK_BYTES


def test_a_window_beyond_what_the_standard_allows_is_refused(client: Client) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    content = compressor.compress(TEXT) + compressor.flush()

    assert post(client, "/size/", content, "zstd").status == 400


@pytest.mark.parametrize("content", [b"a\nbc\n\ndef", b"a\nbc\n\ndef\n"])
def test_a_stream_is_read_by_line(content: bytes, client: Client) -> None:
    assert client.post("/lines/", content=content).json() == [1, 2, 0, 3]


@CODED
def test_lines_go_over_the_ends_of_chunks(coding: str, client: Client) -> None:
    expected = [number % 4999 for number in range(0, 90_000, 997)]
    content = b"\n".join(b"x" * length for length in expected)[:LIMIT_BYTES]

    found = post(client, "/lines/", ENCODE[coding](content), coding).json()

    assert found == [len(line) for line in content.split(b"\n")]


@pytest.mark.parametrize("content", [b"x" * 5001, b"x" * 5001 + b"\n", b"\n" + b"x" * 90_000])
def test_a_line_may_not_be_too_long(content: bytes, client: Client) -> None:
    assert client.post("/lines/", content=content).status == 413


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd; q=0.5", "gzip"),
        ("GZIP;Q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "zstd"),
        ("*;q=0.1, zstd;q=0", "gzip"),
        ("zstd;q=0, gzip;q=0", None),
        ("*;q=0", None),
        ("br", None),
        ("", None),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("gzip;q=2", None),
        ("gzip;level=1, , ;;", None),
    ],
)
def test_the_client_chooses_the_coding(accept: str, expected: str | None, client: Client) -> None:
    given = get(client, "/answer/", accept)

    assert given.headers.get("content-encoding") == expected
    assert DECODE.get(expected or "", bytes)(given.content) == b'"' + b"x" * 8000 + b'"'
    assert given.headers["content-length"] == str(len(given.content))
    assert given.headers["vary"] == "Accept-Encoding"


def test_head_has_the_headers_of_get(client: Client) -> None:
    head, answered = get(client, "/answer/", "gzip", "HEAD"), get(client, "/answer/", "gzip")

    names = ("content-encoding", "content-length", "vary", "etag")
    assert [head.headers[name] for name in names] == [answered.headers[name] for name in names]
    assert head.content == b""


def test_an_error_is_compressed_too(client: Client) -> None:
    refused = get(client, "/refuse/", "gzip")

    assert (refused.status, refused.headers["vary"]) == (409, "Accept, Accept-Encoding")
    assert LONG.encode() in gzip.decompress(refused.content)


@pytest.mark.parametrize(("accept", "expected"), [("gzip", None), ("gzip, identity;q=0", "gzip")])
def test_a_small_answer_is_compressed_only_where_it_must_be(accept: str, expected: str | None, client: Client) -> None:
    assert get(client, "/answer/?size=1000", accept).headers.get("content-encoding") == expected


def test_a_client_that_does_not_ask_gets_plain_bytes(client: Client) -> None:
    given = client.get("/answer/")

    assert (len(given.content), given.headers["vary"]) == (8002, "Accept-Encoding")
    assert (given.headers["etag"], given.headers.get("content-encoding")) == ('"strong"', None)


def test_the_tag_of_encoded_bytes_is_weak(client: Client) -> None:
    assert get(client, "/answer/", "gzip").headers["etag"] == 'W/"strong"'


@pytest.mark.parametrize(
    ("kind", "expected"), [("encoded", "br"), *dict.fromkeys(["events", "image", "range", "204", "304"]).items()]
)
def test_some_answers_are_left_as_they_are(kind: str, expected: str | None, client: Client) -> None:
    given = get(client, f"/special/{kind}/", "gzip")

    assert (given.headers.get("content-encoding"), given.headers.get("vary")) == (expected, None)
    assert given.content in {TEXT, b""}


def test_bytes_that_do_not_get_smaller_stay_as_they_are(client: Client) -> None:
    assert "content-encoding" not in get(client, "/special/noise/", "zstd").headers
    assert get(client, "/special/plain/", "zstd").headers["content-encoding"] == "zstd"
