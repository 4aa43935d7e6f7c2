"""Encoded answers: made once, kept, and sent with the headers by which clients and proxies keep them, too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from email.utils import format_datetime

import falcon
import msgspec

from kernel.cache import SizedCache
from kernel.contracts import Policy
from kernel.http.compression import accepted_coding, compress
from kernel.http.request import Request
from kernel.http.response import PreparedResponse
from kernel.settings import Settings

_ENCODER = msgspec.json.Encoder(enc_hook=str)
# What a kept answer takes beside its body: key, headers, objects.
_OVERHEAD_BYTES = 1500


class Stamp(msgspec.Struct, frozen=True):
    """What data an answer is made of.

    Args:
        version: Of the dataset; an index has none.
        published_at: When they became what they are.
    """

    version: int | None
    published_at: datetime


class Answer(msgspec.Struct, frozen=True):
    """An encoded body with the headers that do not change while it is kept.

    Args:
        content: The bytes that are sent.
        etag: A strong validator of these bytes.
        headers: By name in small letters.
    """

    content: bytes
    etag: str
    headers: dict[str, str]


class Answers:
    """Keeps encoded answers and sends them.

    Args:
        cache: Where they are kept.
        settings: For how long clients may keep an answer.
        now: Tells the time.
        policy: Of the route: what not everybody may have is not for caches that several share.
    """

    def __init__(self, cache: SizedCache, settings: Settings, now: Callable[[], datetime], policy: Policy) -> None:
        self._cache = cache
        self._now = now
        whose = "public" if policy == "public" else "private"
        self._cache_control = f"{whose}, max-age={settings.datasets.max_age_s}, stale-if-error=86400"

    def find(self, key: Hashable) -> Answer | None:
        """Return a kept answer."""
        found: Answer | None = self._cache.get(key)
        return found

    def make(self, key: Hashable, name: str, request: Request, stamp: Stamp, body: object) -> Answer:
        """Encode an answer and keep it.

        Args:
            key: All that it depends on.
            name: Under which people know it.
            request: Says which content codings the client takes.
            stamp: What it is made of.
            body: Encoded as JSON.
        """
        content = _ENCODER.encode(body)
        coding = accepted_coding(request).choose(len(content))
        # The coding belongs to the validator: other bytes, another strong ETag (RFC 9110, 8.8.3.3).
        digest = hashlib.sha256(content).hexdigest()[:32]
        etag = f'"{digest}"' if coding is None else f'"{digest}-{coding}"'
        headers = {
            "etag": etag,
            "last-modified": format_datetime(stamp.published_at.astimezone(UTC), usegmt=True),
            "cache-control": self._cache_control,
            "vary": "Accept-Encoding",
        }
        if stamp.version is not None:
            headers["x-data-version"] = str(stamp.version)
        if coding is not None:
            headers["content-encoding"] = coding
        answer = Answer(content if coding is None else compress(content, coding), etag, headers)
        self._cache.set(key, answer, len(answer.content) + len(request.query_string) + _OVERHEAD_BYTES, name)
        return answer

    def send(self, request: Request, answer: Answer, confirmed_at: datetime) -> PreparedResponse:
        """Return what leaves: the answer, or a 304 for a client that has it.

        Args:
            request: May say what the client has.
            answer: From ``find`` or ``make``.
            confirmed_at: When the data were last found to be so.
        """
        age = self._now() - confirmed_at
        headers = answer.headers.copy()
        headers["x-data-age"] = str(max(0, age.days * 86400 + age.seconds))
        tags: str = request.env.get("HTTP_IF_NONE_MATCH", "")
        if tags and _is_among(answer.etag, tags):
            # Of what a 304 does not send, it does not tell the coding either.
            headers.pop("content-encoding", None)
            return PreparedResponse(falcon.HTTP_304, headers, None)
        return PreparedResponse(falcon.HTTP_200, headers, answer.content)


def _is_among(etag: str, tags: str) -> bool:
    # Tags alone (RFC 9110, 13.1.2): other filters change an answer whose data are as old as ever.
    return tags == etag or tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))
