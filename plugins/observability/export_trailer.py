"""The last line of an NDJSON export, which says that it is complete: made by ``export``, recognised by ingest."""

from __future__ import annotations

import hashlib

import msgspec

# How a line of an export begins; see ``models.Event``.
_EVENT_START = b'{"id":"'
_TRAILER_START = b'{"rows":'


class Trailer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of a file: one without it was cut off.

    Args:
        rows: The number of events in the file.
        sha256: The digest of all bytes before the trailer, in hexadecimal.
    """

    rows: int
    sha256: str


_TRAILER = msgspec.json.Decoder(Trailer)


class WrongTrailerError(Exception):
    """A trailer does not fit the lines before it; the message is for people."""


class TrailerCheck:
    """Recognises the trailers among lines, and compares each with the lines before it.

    Several exports may follow one another. Lines that are no export pass through.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._rows = 0
        self._is_export = False
        self._digest = hashlib.sha256()

    @property
    def is_missing(self) -> bool:
        """Whether the lines since the last trailer are those of an export."""
        return self._is_export

    def is_trailer(self, line: bytes) -> bool:
        """Read the next line; tell whether it is a trailer, and no event.

        Args:
            line: Not blank, and without its line end.

        Raises:
            WrongTrailerError: It is one, and does not fit.
        """
        trailer = _decode(line) if line.startswith(_TRAILER_START) else None
        if trailer is not None:
            rows, digest = self._rows, self._digest.hexdigest()
            self._start()
            if trailer.rows != rows:
                raise WrongTrailerError(
                    f"The export is not complete: {rows} of {trailer.rows} lines came before its last."
                )
            if trailer.sha256 != digest:
                raise WrongTrailerError(
                    "The export was changed: its lines do not have the digest that its last line says."
                )
            return True
        if self._rows == 0:
            self._is_export = line.startswith(_EVENT_START)
        self._rows += 1
        if self._is_export:
            self._digest.update(line)
            self._digest.update(b"\n")
        return False


def _decode(line: bytes) -> Trailer | None:
    try:
        return _TRAILER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
