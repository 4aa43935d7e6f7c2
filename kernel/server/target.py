"""Which host a request is for: its target in absolute form decides over ``Host`` (RFC 9112, 3.2)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from gunicorn.http.message import Request

from kernel.errors import MalformedError, NotSupportedError

# uri-host [":" port], RFC 9110 section 7.2; without user information, which RFC 9110 section 4.2.4 rejects.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[^\]\s]+\])(?::[0-9]*)?")
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
    if host is not None and not _HOST.fullmatch(host):
        raise MalformedError("Host is malformed.", detail=f"{host!r:.100}")
    if uri.startswith("/") or uri == "*":
        return
    target = urlsplit(uri)
    if target.scheme not in _SCHEMES or target.netloc[:1] in ("", ":") or not _HOST.fullmatch(target.netloc):
        raise MalformedError("The target of the request is no URL of HTTP.", detail=f"{uri!r:.100}")
    request.headers = [(name, value) for name, value in request.headers if name != "HOST"]
    request.headers.append(("HOST", target.netloc))
    request.path = request.path or "/"
