"""Lines of log files, plain or gzip, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

from kernel.http import DecompressionError, decompress

CHUNK_BYTES = 256 * 1024
# A longer line is truncated, to a length at which parsers still reject it.
LINE_MAX_BYTES = 2 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class LogFile:
    """A file that is read once.

    Args:
        stream: Opened for reading bytes.
        on_read: Called with the number of bytes read: compressed ones, if the file is compressed.

    Attributes:
        problem: Why reading stopped before the end of the file; None if it did not. Set after the last line.
        complete: False once a line without a line end was returned.
    """

    def __init__(self, stream: BinaryIO, on_read: Callable[[float], None]) -> None:
        self._stream = stream
        self._on_read = on_read
        self.problem: str | None = None
        self.complete = True

    def lines(self) -> Iterator[bytes]:
        """Read the lines, without their line ends."""
        rest = b""
        try:
            for chunk in self._contents():
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()[:LINE_MAX_BYTES]
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
            # Files that were concatenated or appended to have several members, perhaps padded with zeros.
            yield from decompress(chain((first,), chunks), "gzip", allow_padding=True)
        else:
            yield first
            yield from chunks

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self._on_read(len(chunk))
            yield chunk
