"""A plugin whose only route streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kernel import Response, Route, Services, StreamingResponse, hookimpl


class Place(msgspec.Struct, frozen=True):
    """Where the file ``gate`` lets the second piece out, and ``closed`` tells the end."""

    folder: str


class Pieces:
    """Two pieces, and a heartbeat between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[bytes]:
        yield b"one\n"
        while not (self._folder / "gate").exists():
            time.sleep(0.02)
            yield b"-\n"
        yield b"two\n"

    def close(self) -> None:
        (self._folder / "closed").touch()


def stream(query: Place) -> Response[StreamingResponse]:
    return Response(StreamingResponse(Pieces(Path(query.folder)), "text/x-pieces"), 203, {"X-Own": "yes"})


@hookimpl
def register_routes(services: Services) -> list[Route]:
    return [Route(path="/stream/", handler=stream, policy="public")]
