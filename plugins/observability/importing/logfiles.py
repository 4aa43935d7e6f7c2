"""Lines of log files, plain or gzip, in constant memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
# Of a longer line only so much is kept, which is enough to refuse it.
LINE_KEPT_BYTES = 2 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


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
        except (OSError, EOFError, zlib.error) as ex:
            self.problem = f"reading stopped early: {ex}"
        if rest:
            self.complete = False
            yield rest.removesuffix(b"\r")

    def _contents(self) -> Iterator[bytes]:
        chunks = self._chunks()
        first = next(chunks, b"")
        if first.startswith(_GZIP_MAGIC):
            yield from _gunzip(first, chunks)
        else:
            yield first
            yield from chunks

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self._on_read(len(chunk))
            yield chunk


def _gunzip(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack as far as it goes. Not by the standard library's reader: what that has in hand at an error is lost."""
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    for chunk in chain((first,), chunks):
        left = chunk
        while left:
            if decompressor.eof:
                # Files put together, or written in several goes, are several streams, perhaps padded with zeros.
                left = left.lstrip(b"\0")
                decompressor = zlib.decompressobj(_GZIP_WINDOW) if left else decompressor
                continue
            yield decompressor.decompress(left, CHUNK_BYTES)
            left = decompressor.unconsumed_tail or decompressor.unused_data
    if not decompressor.eof:
        yield decompressor.flush()
        raise EOFError("the gzip stream is cut off")
