"""Lines of log files, plain, gzip or zstd, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from kernel.http import DecompressionError, decompress

CHUNK_BYTES = 256 * 1024
# A longer line is truncated, to a length at which parsers still reject it.
LINE_MAX_BYTES = 2 * 1024 * 1024
# By how files begin. The others are read by programs that everybody has.
_CODINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_UNREADABLE = {
    b"BZh": "compressed with bzip2: pass what bzcat prints to standard input",
    b"\xfd7zXZ\x00": "compressed with xz: pass what xzcat prints to standard input",
    b"PK\x03\x04": "a zip archive: pass what unzip -p prints to standard input",
    b"\xff\xfe": "UTF-16: convert it to UTF-8 first, as with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16: convert it to UTF-8 first, as with iconv -f UTF-16 -t UTF-8",
}
_UTF_16_SAMPLE_BYTES = 32
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Left where a file is truncated while a program writes on at its old position, and by machines that lost their power.
_NUL = b"\x00"


class UnreadableFileError(Exception):
    """A file is in an encoding that is not read."""


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
        """Read the lines, without their line ends and the NULs around them."""
        rest = b""
        try:
            for chunk in self._texts():
                lines = (rest + chunk).split(b"\n")
                # Without the NULs: there may be more of them than a line may have.
                rest = lines.pop().lstrip(_NUL)[:LINE_MAX_BYTES]
                for line in lines:
                    yield strip_line(line)
        except (OSError, DecompressionError) as ex:
            self.problem = f"reading stopped early: {ex}"
        except UnreadableFileError as ex:
            self.problem = str(ex)
        rest = strip_line(rest)
        if rest:
            self.complete = False
            yield rest

    def _texts(self) -> Iterator[bytes]:
        contents = self.contents()
        first = next(contents, b"")
        ensure_readable(first)
        yield first.removeprefix(BYTE_ORDER_MARK)
        yield from contents

    def contents(self) -> Iterator[bytes]:
        """Read the content, decompressed.

        Raises:
            OSError: It cannot be read.
            DecompressionError: It is damaged.
        """
        chunks = self._chunks()
        first = next(chunks, b"")
        coding = next((coding for magic, coding in _CODINGS.items() if first.startswith(magic)), None)
        if coding is not None:
            # Files that were concatenated or appended to have several members, perhaps padded with zeros.
            yield from decompress(chain((first,), chunks), coding, allow_padding=True)
        else:
            yield first
            yield from chunks

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self._on_read(len(chunk))
            yield chunk


def read_head(path: Path, size: int) -> bytes:
    """Return the first bytes of what a file contains, decompressed.

    Raises:
        OSError: The file cannot be read.
    """
    head = b""
    with path.open("rb") as stream:
        log = LogFile(stream, lambda _bytes: None)
        try:
            for chunk in log.contents():
                head += chunk
                if len(head) >= size:
                    break
        except DecompressionError:
            return b""
    return head[:size]


def strip_line(line: bytes) -> bytes:
    """Return a line without a carriage return at its end and the NULs around it."""
    return line.removesuffix(b"\r").strip(_NUL)


def ensure_readable(start: bytes) -> None:
    """Check how a file begins.

    Raises:
        UnreadableFileError: It is not lines in an encoding that has ASCII in it.
    """
    for magic, problem in _UNREADABLE.items():
        if start.startswith(magic):
            raise UnreadableFileError(f"the file is {problem}")
    # Without a byte order mark, every other byte of UTF-16 is NUL where the text is ASCII.
    pair = start[:_UTF_16_SAMPLE_BYTES]
    if len(pair) == _UTF_16_SAMPLE_BYTES and any(not any(pair[at::2]) and all(pair[1 - at :: 2]) for at in (0, 1)):
        raise UnreadableFileError(f"the file is {_UNREADABLE[bytes([0xFF, 0xFE])]}")
