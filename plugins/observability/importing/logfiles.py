"""Lines of log files, plain or gzip, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

from kernel import DecompressionError, decompress

CHUNK_BYTES = 256 * 1024
# Of a longer line only so much is kept, which is enough to refuse it.
LINE_KEPT_BYTES = 2 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class LogFile:
    """One file, read once.

    Args:
        stream: Opened for reading bytes.
        on_read: Told how many bytes were read, of the compressed ones if it is compressed.

    Attributes:
        problem: Why reading ended before the end of the file; None if it did not. Known after the last line.
        complete: False once a line was given that has no end.
    """

    def __init__(self, stream: BinaryIO, on_read: Callable[[float], None]) -> None:
        self._stream = stream
        self._on_read = on_read
        self.problem: str | None = None
        self.complete = True

    def lines(self) -> Iterator[bytes]:
        """Read the lines, without their ends."""
        rest = b""
        try:
            for chunk in self._contents():
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()[:LINE_KEPT_BYTES]
                for line in lines:
                    yield line.removesuffix(b"\r")
        except (OSError, DecompressionError) as ex:
            self.problem = f"reading stopped early: {ex}"
        if rest:
            self.complete = False
            yield rest.removesuffix(b"\r")

    def _contents(self) -> Iterator[bytes]:
        chunks = self._chunks()
        first = next(chunks, b"")
        if first.startswith(_GZIP_MAGIC):
            # Log files are put together of several members, and padded with zeros.
            yield from decompress(chain((first,), chunks), "gzip", allow_padding=True)
        else:
            yield first
            yield from chunks

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self._on_read(len(chunk))
            yield chunk
