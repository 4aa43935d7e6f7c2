"""Cached responses: encoded once, kept until the data change, and sent with an ``ETag`` or answered by a 304."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from datetime import datetime

import falcon
import msgspec

from kernel.cache import SizedCache
from kernel.contracts import Policy
from kernel.http.compression import accepted_coding, compress
from kernel.http.conditional import is_unmodified
from kernel.http.request import Request
from kernel.http.response import PreparedResponse
from kernel.tracking import measure

_ENCODER = msgspec.json.Encoder(enc_hook=str)
# Bytes that a cached response takes besides its body: key, headers, objects.
_OVERHEAD_BYTES = 1500


class CachedResponse(msgspec.Struct, frozen=True):
    """An encoded body, with the headers that do not change while it is cached.

    Args:
        content: The bytes that are sent.
        etag: A strong validator of these bytes.
        headers: By name in small letters.
    """

    content: bytes
    etag: str
    headers: dict[str, str]


class ResponseCache:
    """The cached responses of one route.

    Args:
        cache: Where they are kept.
        max_age_s: How long clients may cache a response without revalidation.
        now: Returns the time.
        policy: Of the route; only public responses may be kept by shared caches.
    """

    def __init__(self, cache: SizedCache, max_age_s: int, now: Callable[[], datetime], policy: Policy) -> None:
        self._cache = cache
        self._now = now
        scope = "public" if policy == "public" else "private"
        self._cache_control = f"{scope}, max-age={max_age_s}, stale-if-error=86400"

    def get(self, key: Hashable) -> CachedResponse | None:
        """Return a cached response."""
        found: CachedResponse | None = self._cache.get(key)
        return found

    def add(
        self,
        key: Hashable,
        name: str,
        request: Request,
        body: object,
        *,
        version: int | None = None,
    ) -> CachedResponse:
        """Encode a response and cache it.

        Args:
            key: Everything that the response depends on, including the client's content coding.
            name: Its name for ``tiercel cache clear NAME``.
            request: Its ``Accept-Encoding`` selects the coding.
            body: Encoded as JSON.
            version: Of the dataset; an index has none.
        """
        with measure("encoding"):
            content = _ENCODER.encode(body)
        coding = accepted_coding(request).choose(len(content))
        # Other bytes need another strong ETag (RFC 9110, 8.8.3.3).
        digest = hashlib.sha256(content).hexdigest()[:32]
        etag = f'"{digest}"' if coding is None else f'"{digest}-{coding}"'
        headers = {
            "etag": etag,
            "cache-control": self._cache_control,
            "vary": "Accept-Encoding",
        }
        if version is not None:
            headers["x-data-version"] = str(version)
        if coding is not None:
            headers["content-encoding"] = coding
        with measure("compression"):
            cached = CachedResponse(content if coding is None else compress(content, coding), etag, headers)
        self._cache.set(key, cached, len(cached.content) + len(request.query_string) + _OVERHEAD_BYTES, name)
        return cached

    def respond(self, request: Request, cached: CachedResponse, fresh_at: datetime) -> PreparedResponse:
        """Return the response to send: the cached one, or a 304 if the client has it.

        Args:
            request: Its validators may match (304).
            cached: From ``get`` or ``add``.
            fresh_at: When the data were last known to be up to date; ``X-Data-Age`` counts from there.

        Raises:
            PreconditionFailedError: See ``is_unmodified``.
        """
        unmodified = is_unmodified(request, cached.etag)
        age = self._now() - fresh_at
        headers = cached.headers.copy()
        headers["x-data-age"] = str(max(0, age.days * 86400 + age.seconds))
        if unmodified:
            # A 304 has no body that could be coded.
            headers.pop("content-encoding", None)
            return PreparedResponse(falcon.HTTP_304, headers, None)
        return PreparedResponse(falcon.HTTP_200, headers, cached.content)
