"""Which pages of other origins may use the service, and what browsers are told of it: CORS.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol. Falcon's own ``CORSMiddleware`` sets no ``Vary``, so that a
cache would hand the response for one origin to another; it answers a preflight with the responder of the route, which
may authenticate, or not exist; and it knows no subdomains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kernel.settings import Settings

# Where the development servers of web frameworks listen by default: Next.js and others, Angular, Vite, Vue.
DEVELOPMENT_PORTS = (3000, 4200, 5173, 8080)
_DEVELOPMENT_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_ANY_SUBDOMAIN = "https://*."
# One label of a host name, as a browser writes it.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_PREFLIGHT_MAX_AGE_S = 600
# What scripts may read of a response, besides the few headers that they may always read.
EXPOSED_HEADERS = (
    "Allow",
    "Content-Disposition",
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "traceparent",
    "WWW-Authenticate",
    "X-Data-Age",
    "X-Data-Version",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-ID",
    "X-Resource-Tracking-ID",
)


class AllowedOrigins:
    """The origins whose pages may use the service, with the credentials that a browser has for it.

    Args:
        settings: ``http.cors_origins`` and ``http.cors_local_ports``. Without the latter, ports of this machine are
            allowed where everything is that this machine sends: in mode ``open`` without ``insecure``.
    """

    def __init__(self, settings: Settings) -> None:
        http = settings.http
        given = [origin.lower() for origin in http.cors_origins]
        ports = http.cors_local_ports
        if ports is None:
            ports = DEVELOPMENT_PORTS if settings.auth == "open" and not settings.insecure else ()
        local = [f"http://{host}:{port}" for host in _DEVELOPMENT_HOSTS for port in ports]
        self._exact = frozenset([*local, *(origin for origin in given if not origin.startswith(_ANY_SUBDOMAIN))])
        # With the port, if there is one: ``.example.com:8443``.
        self._suffixes = tuple(
            origin.removeprefix(_ANY_SUBDOMAIN[:-1]) for origin in given if origin.startswith(_ANY_SUBDOMAIN)
        )

    def __bool__(self) -> bool:
        return bool(self._exact or self._suffixes)

    def __contains__(self, origin: str) -> bool:
        """Tell whether an origin is allowed, as a browser writes it in ``Origin``; ``null`` never is."""
        if origin in self._exact:
            return True
        return any(
            origin.endswith(suffix) and _LABEL.fullmatch(origin[: -len(suffix)].removeprefix("https://")) is not None
            for suffix in self._suffixes
            if origin.startswith("https://")
        )


_COMMON = {
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": ", ".join(EXPOSED_HEADERS),
}


def response_headers(origin: str) -> dict[str, str]:
    """Return the headers of a response to a page of an allowed origin."""
    return {"access-control-allow-origin": origin, **_COMMON}


def preflight_headers(env: Mapping[str, str], methods: Iterable[str]) -> dict[str, str]:
    """Return the further headers of the response to a preflight, with which a browser asks before it sends a request.

    It is about the origin, and not about the resource: that there is none, or that it has no such method, the page
    learns from the request itself. So may the request have any header that it asks for.

    Args:
        env: The WSGI environment.
        methods: Those that a request may have.
    """
    headers = {
        "access-control-allow-methods": ", ".join(methods),
        "access-control-max-age": str(_PREFLIGHT_MAX_AGE_S),
    }
    names = env.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").strip()
    if _HEADER_NAMES.fullmatch(names):
        headers["access-control-allow-headers"] = names
    return headers
