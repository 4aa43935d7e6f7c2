"""gunicorn's requests, read strictly: heads that can be read in one way only, no trust in proxies, and one host.

Which host a request is for: its target in absolute form decides over ``Host`` (RFC 9112, 3.2).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from gunicorn.http.errors import InvalidHeader, InvalidRequestLine, ObsoleteFolding
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from kernel.errors import MalformedError, NotSupportedError
from kernel.http.forwarding import ensure_host
from kernel.http.host import parse_host
from kernel.server.client_socket import ClientSocket

_SCHEMES = ("http", "https")
# In one call, each of which gives up the GIL, and may wait for it.
_RECEIVE_MAX_BYTES = 1024 * 1024


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


class _ClientUnreader(SocketUnreader):
    """Reads from a client, which is told how many bytes of a body are still missing: ``recv`` knows the buffer only."""

    sock: ClientSocket

    def chunk(self, size_hint: int | None = None) -> bytes:
        # The buffer is as large as that of the method in place of which this one stands.
        size_bytes = min(max(size_hint or 0, self.mxchunk), _RECEIVE_MAX_BYTES)
        return self.sock.receive(size_bytes, size_hint or 1)


class Connection(TConn):
    """A connection whose requests are parsed strictly."""

    def init(self) -> None:
        """Initialize the connection, unless it is; in a thread."""
        if self.initialized:
            return
        super().init()
        if isinstance(self.parser, RequestParser):
            self.parser.mesg_class = StrictRequest  # type: ignore[misc] # gunicorn has no setting for it
            if isinstance(self.sock, ClientSocket):
                self.parser.unreader = _ClientUnreader(self.sock)


def apply_target(request: Request) -> None:
    """Replace ``Host`` by the host of a target in absolute form, so that nothing later sees another one.

    Args:
        request: As gunicorn parsed it.

    Raises:
        MalformedError: ``Host`` is missing or malformed, or the target is no URL of HTTP.
        NotSupportedError: The method is CONNECT: this is no proxy.
    """
    if request.method == "CONNECT":
        raise NotSupportedError("The method CONNECT is not implemented.", detail="this server is not a proxy")
    host = next((value for name, value in request.headers if name == "HOST"), None)
    uri, version = request.uri or "", request.version or (1, 1)
    if host is None and version >= (1, 1):
        raise MalformedError("The request has no Host.", detail="HTTP/1.1 requires the header Host")
    if host is not None:
        ensure_host(host)
    if uri.startswith("/") or uri == "*":
        return
    authority = _authority_of(uri)
    if authority is None:
        raise MalformedError("The target of the request is no URL of HTTP.", detail=f"{uri!r:.100}")
    request.headers = [(name, value) for name, value in request.headers if name != "HOST"]
    request.headers.append(("HOST", authority))
    request.path = request.path or "/"


def _authority_of(url: str) -> str | None:
    """Return host and port of a URL of HTTP; None if it is no such URL."""
    try:
        target = urlsplit(url)
        parse_host(target.netloc)
    except ValueError:
        return None
    return target.netloc if target.scheme in _SCHEMES else None
