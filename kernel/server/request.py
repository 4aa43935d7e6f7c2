"""gunicorn's request class, which trusts no proxy and no lenient line end."""

from __future__ import annotations

from typing import Any

from gunicorn.http.errors import InvalidHeader, InvalidRequestLine, ObsoleteFolding
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn


class StrictRequest(Request):
    """A request whose head can be read in one way only, and that no header moves to another path or scheme.

    gunicorn's C parser takes a line feed alone for the end of a line, and a folded line for a header without a name. A
    proxy that forwards them as parts of a value would see one request where there are two.

    Headers of proxies are read by ``kernel.http.forwarding``. gunicorn would trust those of every client of this
    machine, and let ``SCRIPT_NAME`` move the path.
    """

    def _parse_fast(self, unreader: Any, buf: bytearray) -> bytes:
        rest: bytes = super()._parse_fast(unreader, buf)  # type: ignore[misc] # not in the stubs
        head = bytes(buf[: len(buf) - len(rest)])
        line_ends = head.count(b"\r\n")
        if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends:
            raise InvalidHeader("a line ends without CR LF", req=self)
        if b"\n " in head or b"\n\t" in head:
            raise ObsoleteFolding("a line begins with a blank")
        start = 2 if head.startswith(b"\r\n") else 0
        if head.count(b" ", start, head.index(b"\r\n", start)) != 2:  # METHOD SP target SP version
            raise InvalidRequestLine("its parts are not separated by single blanks")
        return rest

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []


class Connection(TConn):
    """A connection whose requests are parsed strictly."""

    def init(self) -> None:
        """Initialize the connection; in a thread."""
        super().init()
        if isinstance(self.parser, RequestParser):
            self.parser.mesg_class = StrictRequest  # type: ignore[misc] # gunicorn has no setting for it
