"""The request as handlers see it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import falcon
import msgspec

# Version 00 ends after the flags; later ones may go on.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SAMPLED = 0x01
CONTEXT = "tiercel.context"


class RequestContext(msgspec.Struct):
    """What the request log knows about a request before and after Falcon.

    Args:
        request_id: The client's ``X-Request-ID`` if it is sane, else a new one.
        trace_id: 32 hexadecimal digits of W3C Trace Context.
        span_id: 16 hexadecimal digits; ours.
        sampled: ``01`` if the trace is sampled, else ``00``. Flags we do not know are not handed on.
        template: The route that answered, such as ``/api/requests/{id}``; empty if none did.
        logged: False leaves the request out of the log and its subscribers, as for probes.
        application: Slug of the application whose view was asked for, if the path named one.
    """

    request_id: str
    trace_id: str
    span_id: str
    sampled: str
    template: str = ""
    logged: bool = True
    application: str | None = None

    @property
    def traceparent(self) -> str:
        """The header that hands this trace on, with our own span as parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled}"


def make_context(environ: dict[str, Any]) -> RequestContext:
    """Read the identifiers of a request, or make new ones.

    Sources: https://www.w3.org/TR/trace-context/ for ``traceparent``. A malformed one is ignored, as it asks.
    """
    # Unlike os.urandom, this does not let go of the GIL, which another thread would take. They tell requests apart and
    # keep no secret; after a fork, Python seeds it anew.
    digits = random.getrandbits(320).to_bytes(40).hex()
    given = environ.get("HTTP_X_REQUEST_ID")
    request_id = given if given is not None and _SANE_ID.fullmatch(given) else digits[:32]
    parent = environ.get("HTTP_TRACEPARENT")
    trace = None if parent is None else _TRACEPARENT.fullmatch(parent)
    if trace is None:
        return RequestContext(request_id, digits[32:64], digits[64:], "01")
    return RequestContext(request_id, trace[1], digits[64:], f"{int(trace[2], 16) & _SAMPLED:02x}")


def path_as_sent(environ: Mapping[str, Any]) -> str:
    """Return the path of a request with its trailing slash, as text: WSGI has it as bytes in disguise (PEP 3333)."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "/")
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")


class Request(falcon.Request):
    """A Falcon request with the identifiers of the request log."""

    __slots__ = ()

    @property
    def log_context(self) -> RequestContext:
        """Identifiers and route of this request."""
        context: RequestContext = self.env[CONTEXT]
        return context

    @property
    def request_id(self) -> str:
        """The id that ``X-Request-ID`` answers with."""
        return self.log_context.request_id

    @property
    def path_as_sent(self) -> str:
        """The path with its trailing slash, which ``path`` has lost."""
        return path_as_sent(self.env)

    @property
    def url_as_sent(self) -> str:
        """The URL without its query, for links to further pages."""
        # Not what X-Forwarded-Host says: anybody can send that, and nobody checked it. A proxy hands Host on.
        return f"{self.scheme}://{self.netloc}{quote(self.path_as_sent)}"
