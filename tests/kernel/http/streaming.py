"""A plugin whose only route streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kernel import Response, Route, Services, StreamingResponse, hookimpl


class StreamQuery(msgspec.Struct, frozen=True):
    """The folder in which the file ``gate`` releases the second chunk, and ``closed`` appears at the end."""

    folder: str


class Chunks:
    """Two chunks, and heartbeats between them."""

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


def stream(query: StreamQuery) -> Response[StreamingResponse]:
    return Response(StreamingResponse(Chunks(Path(query.folder)), "text/x-pieces"), 203, {"X-Own": "yes"})


@hookimpl
def register_routes(services: Services) -> list[Route]:
    return [Route(path="/stream/", handler=stream, policy="public")]
