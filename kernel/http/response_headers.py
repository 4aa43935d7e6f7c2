"""The headers of every response: what browsers may do with it, who may store it, and for which pages it is.

One middleware for all of them, because each depends on what the others said: ``Vary`` and ``Cache-Control`` have to be
right for origin and identity at once. It runs after everything else, so that what a handler sets stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

import falcon

from kernel.contracts import Method
from kernel.http.cors import AllowedOrigins, preflight_headers, response_headers
from kernel.http.request import Request
from kernel.http.response import FalconResponse
from kernel.identity import Identity, current_identity
from kernel.tracking import current_tracker

# What a page may load, send and be part of: the service itself, and nothing inline.
_PAGE_SOURCES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
# For what is no page, and must not become one.
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": _DATA_POLICY,
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_READS = frozenset({"GET", "HEAD"})
_NO_STORE = "no-store"
_NO_CACHE = "no-cache"
# Who sends a request, and what it selects: a cache of a browser, which one person after another may use, must tell
# them apart.
_VARY_BY_IDENTITY = "Authorization, Cookie, X-API-Key, X-Account, X-Site"
# For shared caches alone.
_SHARED_DIRECTIVES = ("public", "s-maxage", "proxy-revalidate")


class ResponseHeaders:
    """Falcon middleware: answers preflights, and completes the headers of all other responses.

    Args:
        origins: Whose pages may use the service.
        hsts_max_age_s: For how long browsers are told to use TLS only, once they did; 0 for not at all.
    """

    def __init__(self, origins: AllowedOrigins, hsts_max_age_s: int) -> None:
        self._origins = origins
        self._varies = bool(origins)
        hsts = {"strict-transport-security": f"max-age={hsts_max_age_s}"} if hsts_max_age_s else {}
        page = {"content-security-policy": page_policy()}
        # By whether the request came with TLS, and whether the response is a page.
        self._defaults = {
            (False, False): _SECURITY,
            (False, True): _SECURITY | page,
            (True, False): _SECURITY | hsts,
            (True, True): _SECURITY | hsts | page,
        }

    def process_request(self, request: Request, response: FalconResponse) -> None:
        """Answer a preflight of an allowed origin: before authentication, because it never has credentials."""
        env = request.env
        if (
            request.method == "OPTIONS"
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in env
            and env.get("HTTP_ORIGIN", "") in self._origins
        ):
            response.status = falcon.HTTP_204
            response.set_headers(preflight_headers(env, ("HEAD", *get_args(Method))))
            response.complete = True

    def process_response(
        self,
        request: Request,
        response: FalconResponse,
        _resource: object,
        _succeeded: bool,  # noqa: FBT001 - Falcon calls it
    ) -> None:
        """Complete the headers of a response."""
        env = request.env
        headers = response.complete_headers(self._defaults[env["wsgi.url_scheme"] == "https", response.is_page])
        requester = request.log_context.requester
        # A public page shows who has signed in.
        shows_somebody = isinstance(requester, Identity) and requester.scheme != "open"
        if current_identity() is not None or (response.is_page and shows_somebody):
            _keep_private(headers, request, response)
        elif "cache-control" not in headers and _is_not_for_caches(request, response):
            headers["cache-control"] = _NO_STORE
        elif response.is_page:
            # It names static files, which change with the next version.
            headers.setdefault("cache-control", _NO_CACHE)
        if (state := request.log_context.rate_state) is not None:
            for name, value in state.headers().items():
                # Those of an error say what limits it.
                headers.setdefault(name, value)
        if self._varies:
            headers["vary"] = _join(headers.get("vary", ""), "Origin")
            origin = env.get("HTTP_ORIGIN")
            if origin is not None and origin in self._origins:
                headers.update(response_headers(origin))
        tracker = current_tracker()
        if tracker is not None and tracker.is_reported:
            headers["x-resource-tracking-id"] = str(tracker.id)
            headers["server-timing"] = tracker.server_timing()
            headers["cache-control"] = _NO_STORE
            if "access-control-allow-origin" in headers:
                headers["timing-allow-origin"] = headers["access-control-allow-origin"]

    def of_rejected(self, origin: str | None) -> Mapping[str, str]:
        """Return the headers of what the server answers itself, such as a request that it cannot parse.

        Args:
            origin: Of the request, as far as it could be read.
        """
        headers = {**_SECURITY, "cache-control": _NO_STORE}
        if self._varies:
            headers["vary"] = "Origin"
            if origin is not None and origin in self._origins:
                headers |= response_headers(origin)
        return headers


def page_policy(exceptions: Mapping[str, str] | None = None) -> str:
    """Return a value of ``Content-Security-Policy`` for a page that needs more than others; those have it anyway.

    Source: https://www.w3.org/TR/CSP3/

    Args:
        exceptions: Sources by directive, in place of those of other pages: ``{"worker-src": "blob:"}``.
    """
    return "; ".join(f"{name} {sources}" for name, sources in (_PAGE_SOURCES | dict(exceptions or {})).items())


def _is_not_for_caches(request: Request, response: FalconResponse) -> bool:
    # A cache may store a 404 that says nothing about it (RFC 9110, 15.1).
    return request.method not in _READS or response.status_code >= falcon.http_status_to_code(falcon.HTTP_400)


def _keep_private(headers: dict[str, str], request: Request, response: FalconResponse) -> None:
    """Keep an authenticated response from caches that others use, and those of its own client apart by identity."""
    given = headers.get("cache-control")
    if given is None:
        # What has a validator may be kept, if it is not used without asking whether it is valid.
        may_keep = "etag" in headers and not _is_not_for_caches(request, response)
        given = "private, no-cache" if may_keep else _NO_STORE
    else:
        given = _as_private(given)
    headers["cache-control"] = given
    if _NO_STORE not in given:
        headers["vary"] = _join(headers.get("vary", ""), _VARY_BY_IDENTITY)


@lru_cache(maxsize=256)
def _as_private(directives: str) -> str:
    """Return the value of ``Cache-Control`` without what allows shared caches to store a response (RFC 9111, 5.2.2)."""
    kept = [each for each in map(str.strip, directives.split(",")) if not each.lower().startswith(_SHARED_DIRECTIVES)]
    names = {each.lower() for each in kept}
    return ", ".join(kept if names & {_NO_STORE, "private"} else ["private", *kept])


@lru_cache(maxsize=256)
def _join(vary: str, names: str) -> str:
    """Add names to a value of ``Vary``, unless it has them."""
    given = [each.strip() for each in vary.split(",") if each.strip()]
    known = {each.lower() for each in given}
    return ", ".join([*given, *(each for each in names.split(", ") if each.lower() not in known)])
