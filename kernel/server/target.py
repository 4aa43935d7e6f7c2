"""Which host a request is for: its target in absolute form decides over ``Host`` (RFC 9112, 3.2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from gunicorn.http.message import Request

from kernel.errors import MalformedError, NotSupportedError
from kernel.http.forwarding import ensure_host
from kernel.http.host import parse_host

_SCHEMES = ("http", "https")


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
