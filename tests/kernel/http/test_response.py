"""What is made of what a handler returns: the envelope of ``/api/v1``, and conditions on an ``ETag``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kernel.contracts import Route
from kernel.http.request import Request
from kernel.http.response import Envelope, Response, StreamingResponse, envelope
from kernel.testing import Client

Mount = Callable[..., Client]
ID = {"X-Request-ID": "my-id"}
ENVELOPE = {"success": True, "data": {"size": 1}, "request_id": "my-id"}


def plain() -> dict[str, int]:
    """Return a value."""
    return {"size": 1}


def created() -> Response[dict[str, int]]:
    """Return a response."""
    return Response({"size": 1}, 201)


def nothing() -> Response[None]:
    """Return no body."""
    return Response(None, 204)


def own(request: Request) -> Envelope[dict[str, int]]:
    """Return an envelope."""
    return envelope(request, {"size": 1})


def stream() -> StreamingResponse:
    """Return no JSON."""
    return StreamingResponse([b"raw"], "text/plain")


def route(path: str, handler: object, **given: Any) -> Route:
    """Return a public route."""
    return Route(path=path, handler=handler, policy="public", **given)


@pytest.mark.parametrize(("handler", "status"), [(plain, 200), (created, 201), (own, 200)])
def test_json_has_an_envelope_under_api_v1(handler: object, status: int, mount: Mount) -> None:
    answer = mount(route("/api/v1/things/", handler)).get("/api/v1/things/", headers=ID)

    assert (answer.status, answer.json()) == (status, ENVELOPE)


@pytest.mark.parametrize(("handler", "content"), [(nothing, b""), (stream, b"raw")])
def test_what_is_no_json_has_no_envelope(handler: object, content: bytes, mount: Mount) -> None:
    assert mount(route("/api/v1/things/", handler)).get("/api/v1/things/").content == content


def test_an_alias_has_the_body_of_its_route(mount: Mount) -> None:
    client = mount(
        route("/api/v1/things/", plain, aliases=("/things/",)), route("/others/", plain, aliases=("/api/v1/others/",))
    )

    assert client.get("/things/", headers=ID).json() == ENVELOPE
    assert client.get("/api/v1/others/").json() == {"size": 1}


# --- conditions -------------------------------------------------------------------------------------------------------


class Chunks:
    """A body that remembers whether it was closed."""

    is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"{}"

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("etag", "headers", "status"),
    [
        ('"a"', {}, 200),
        ('"a"', {"If-None-Match": '"a"'}, 304),
        ('"a"', {"If-None-Match": 'W/"a"'}, 304),
        ('W/"a"', {"If-None-Match": '"a"'}, 304),
        ('"a"', {"If-None-Match": '"b"'}, 200),
        ('"a,b"', {"If-None-Match": '"c", "a,b"'}, 304),
        ('"a"', {"If-Match": '"a"'}, 200),
        ('"a"', {"If-Match": "*"}, 200),
        ('"a"', {"If-Match": '"b"'}, 412),
        ('W/"a"', {"If-Match": 'W/"a"'}, 412),
        ('"a"', {"If-Match": '"b"', "If-None-Match": '"a"'}, 412),
        ('"a"', {"If-Unmodified-Since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 200),
    ],
)
def test_conditions_are_compared_with_the_etag(etag: str, headers: dict[str, str], status: int, mount: Mount) -> None:
    chunks = Chunks()
    client = mount(
        route("/thing/", lambda: Response({}, headers={"ETag": etag})),
        route("/stream/", lambda: Response(StreamingResponse(chunks, "text/plain"), headers={"ETag": etag})),
    )

    answer, streamed = client.get("/thing/", headers=headers), client.get("/stream/", headers=headers)

    assert (answer.status, streamed.status, answer.headers["etag"]) == (status, status, etag)
    assert (answer.content == b"") == (status == 304)
    assert chunks.is_closed
    assert client.request("HEAD", "/thing/", headers=headers).status == status


def test_only_what_is_read_has_conditions(mount: Mount) -> None:
    client = mount(
        route("/things/", lambda: Response({}, 200, {"ETag": '"a"'}), method="POST"),
        route("/failed/", lambda: Response({}, 503, {"ETag": '"a"'})),
    )

    assert client.post("/things/", headers={"If-Match": '"b"'}).status == 200
    assert client.get("/failed/", headers={"If-None-Match": '"a"'}).status == 503
