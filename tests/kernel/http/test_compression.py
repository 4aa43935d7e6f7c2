"""Compressed request bodies, within limits; compressed responses."""

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
from kernel.http.compression import STEP_BYTES, DecompressionError, decompress
from kernel.http.request import RawBody, StreamBody
from kernel.http.response import Response
from kernel.testing import Client, Result

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


def lines(body: StreamBody) -> list[tuple[int, int]]:
    """Measure the lines of a body that are not blank; each with its position."""
    return [(position, len(line)) for position, line in body.lines(max_line_bytes=5000) if line.strip()]


def answer(query: Size) -> Response[str]:
    """Return a long text."""
    return Response("x" * query.size, headers={"ETag": '"strong"'})


def fail() -> None:
    """Raise a long error."""
    raise ConflictError(detail=LONG)


class Size(msgspec.Struct, frozen=True):
    size: int = 8000


class Special:
    """Responses that are not to be compressed."""

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
        route("/fail/", fail, "GET"),
        route("/special/{kind}/", Special(), None),
        http={"max_body_bytes": LIMIT_BYTES, "max_decoded_bytes": LIMIT_BYTES},
    )


def post(client: Client, path: str, content: bytes, coding: str) -> Result:
    """Post a compressed body."""
    return client.post(path, content=content, headers={"Content-Encoding": coding})


def get(client: Client, path: str, accept: str, method: str = "GET") -> Result:
    """Request a response with this ``Accept-Encoding``."""
    return client.request(method, path, headers={"Accept-Encoding": accept})


@CODED
def test_a_compressed_body_is_decompressed(coding: str, client: Client) -> None:
    assert post(client, "/echo/", ENCODE[coding](TEXT), coding).json().encode() == TEXT[1:-1]


@pytest.mark.parametrize("header", ["GZIP", "x-gzip", "identity, gzip"])
def test_aliases_case_and_identity_are_understood_in_content_encoding(header: str, client: Client) -> None:
    assert post(client, "/size/", gzip.compress(TEXT), header).json() == len(TEXT)


def test_a_body_with_coding_identity_is_read_as_it_is(client: Client) -> None:
    assert post(client, "/size/", TEXT, "identity").json() == len(TEXT)


@pytest.mark.parametrize("header", ["br", "deflate", "gzip, zstd", "gzip, gzip"])
def test_an_unknown_coding_is_a_415_that_lists_the_known_ones(header: str, client: Client) -> None:
    refused = post(client, "/echo/", TEXT, header)

    assert (refused.status, refused.json()["code"]) == (415, "unsupported_media_type")
    assert refused.headers["accept-encoding"] == "zstd, gzip"
    assert "zstd, gzip" in refused.json()["detail"]


@CODED
def test_concatenated_members_are_decompressed(coding: str, client: Client) -> None:
    content = b"".join(ENCODE[coding](part) for part in (TEXT, b"", TEXT * 30, b"x"))

    assert post(client, "/size/", content, coding).json() == 31 * len(TEXT) + 1


@CODED
@pytest.mark.parametrize("path", ["/size/", "/lines/"])
@pytest.mark.parametrize(
    "damage",
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
def test_a_damaged_stream_is_malformed(damage: Any, path: str, coding: str, client: Client) -> None:
    refused = post(client, path, damage(ENCODE[coding](TEXT)), coding)

    assert (refused.status, refused.json()["code"]) == (400, "malformed")


def test_a_wrong_checksum_is_malformed(client: Client) -> None:
    content = bytearray(gzip.compress(TEXT))
    content[-8] ^= 1

    assert post(client, "/size/", bytes(content), "gzip").status == 400


@CODED
@pytest.mark.parametrize(("length", "status"), [(LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413)])
def test_a_body_may_decompress_up_to_the_limit(length: int, status: int, coding: str, client: Client) -> None:
    assert post(client, "/size/", ENCODE[coding](b"x" * length), coding).status == status


def test_a_compressed_body_is_also_limited_as_sent(client: Client) -> None:
    assert post(client, "/size/", gzip.compress(b"") * 6000, "gzip").status == 413


@CODED
def test_a_decompression_bomb_is_never_held_in_memory(coding: str) -> None:
    bomb = ENCODE[coding](bytes(BOMB_BYTES))
    tracemalloc.start()

    given_bytes = sum(len(piece) for piece in decompress([bomb], coding, BOMB_BYTES))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert given_bytes == BOMB_BYTES
    assert peak_bytes < 8 * STEP_BYTES


@CODED
@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (lambda content: content[:-1], "truncated", "the {} stream is cut off"),
        (lambda content: b"", "truncated", "the {} stream is cut off"),
        (lambda content: content + b"garbage", "corrupt", "."),
        (lambda content: content + bytes(512), "corrupt", "."),
        (lambda content: content * 2, "too_large", "the {} stream decompresses to more than 2603 bytes"),
    ],
)
def test_a_stream_that_cannot_be_decompressed_says_why(
    change: Callable[[bytes], bytes], reason: str, message: str, coding: str
) -> None:
    with pytest.raises(DecompressionError, match=message.format(coding)) as caught:
        list(decompress([change(ENCODE[coding](TEXT))], coding, 2603))

    assert caught.value.reason == reason


def test_padding_after_a_member_is_skipped_where_it_is_allowed() -> None:
    chunks = [gzip.compress(TEXT), bytes(512), bytes(512) + gzip.compress(b"x"), bytes(1)]

    assert b"".join(decompress(chunks, "gzip", allow_padding=True)) == TEXT + b"x"


def test_a_zstd_window_beyond_8_mib_is_refused(client: Client) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    content = compressor.compress(TEXT) + compressor.flush()

    assert post(client, "/size/", content, "zstd").status == 400


@pytest.mark.parametrize("content", [b"a\nbc\n\ndef", b"a\nbc\n\ndef\n"])
def test_a_streamed_body_is_read_by_line(content: bytes, client: Client) -> None:
    assert client.post("/lines/", content=content).json() == [[0, 1], [1, 2], [3, 3]]


@pytest.mark.parametrize("blank", [b"", b" ", b"\r", b"\t \r"])
@pytest.mark.parametrize("blanks", [1, 40_000])
def test_blank_lines_count_in_positions(blank: bytes, blanks: int, client: Client) -> None:
    between = b"\n".join([blank] * blanks)[: LIMIT_BYTES // 3]
    content = b"first\n" + between + b"\nsecond\n" + between + b"\nthird"
    expected = [[at, len(line)] for at, line in enumerate(content.split(b"\n")) if line.strip()]

    assert client.post("/lines/", content=content).json() == expected
    assert len(expected) == 3


@CODED
def test_the_number_of_members_can_be_limited(coding: str) -> None:
    members = ENCODE[coding](b"ab") * 3 + ENCODE[coding](b"")

    assert b"".join(decompress([members], coding, members_max=4)) == b"ababab"
    with pytest.raises(DecompressionError) as raised:
        list(decompress([members], coding, members_max=3))
    assert raised.value.reason == "too_many_members"


@CODED
def test_lines_may_cross_chunks(coding: str, client: Client) -> None:
    expected = [number % 4999 for number in range(0, 90_000, 997)]
    content = b"\n".join(b"x" * length for length in expected)[:LIMIT_BYTES]

    found = post(client, "/lines/", ENCODE[coding](content), coding).json()

    assert found == [[at, len(line)] for at, line in enumerate(content.split(b"\n")) if line]


@pytest.mark.parametrize("content", [b"x" * 5001, b"x" * 5001 + b"\n", b"\n" + b"x" * 90_000])
def test_a_line_beyond_the_limit_is_a_413(content: bytes, client: Client) -> None:
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
    assert given.headers["vary"] == "Accept-Encoding, Origin"


def test_head_has_the_headers_of_get(client: Client) -> None:
    head, answered = get(client, "/answer/", "gzip", "HEAD"), get(client, "/answer/", "gzip")

    names = ("content-encoding", "content-length", "vary", "etag")
    assert [head.headers[name] for name in names] == [answered.headers[name] for name in names]
    assert head.content == b""


def test_an_error_is_compressed_too(client: Client) -> None:
    refused = get(client, "/fail/", "gzip")

    assert (refused.status, refused.headers["vary"]) == (409, "Accept, Accept-Encoding, Origin")
    assert LONG.encode() in gzip.decompress(refused.content)


@pytest.mark.parametrize(("accept", "expected"), [("gzip", None), ("gzip, identity;q=0", "gzip")])
def test_a_small_response_is_compressed_only_if_identity_is_excluded(
    accept: str, expected: str | None, client: Client
) -> None:
    assert get(client, "/answer/?size=1000", accept).headers.get("content-encoding") == expected


def test_a_client_without_accept_encoding_gets_an_uncompressed_body(client: Client) -> None:
    given = client.get("/answer/")

    assert (len(given.content), given.headers["vary"]) == (8002, "Accept-Encoding, Origin")
    assert (given.headers["etag"], given.headers.get("content-encoding")) == ('"strong"', None)


def test_the_etag_of_a_compressed_response_is_weak(client: Client) -> None:
    assert get(client, "/answer/", "gzip").headers["etag"] == 'W/"strong"'


@pytest.mark.parametrize(
    ("kind", "expected"), [("encoded", "br"), *dict.fromkeys(["events", "image", "range", "204", "304"]).items()]
)
def test_some_responses_are_never_compressed(kind: str, expected: str | None, client: Client) -> None:
    given = get(client, f"/special/{kind}/", "gzip")

    assert (given.headers.get("content-encoding"), given.headers["vary"]) == (expected, "Origin")
    assert given.content in {TEXT, b""}


def test_a_body_that_does_not_shrink_is_sent_uncompressed(client: Client) -> None:
    assert "content-encoding" not in get(client, "/special/noise/", "zstd").headers
    assert get(client, "/special/plain/", "zstd").headers["content-encoding"] == "zstd"
