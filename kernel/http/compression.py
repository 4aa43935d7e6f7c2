"""Compress answers for clients that ask for it (RFC 9110, 12.5.3)."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from kernel.http.encodings import CODINGS, canonical, encode
from kernel.http.request import Request
from kernel.http.response import FalconResponse

# Below this, headers cost more than the body saves.
MIN_BYTES = 1024
_COMPRESSED_ALREADY = re.compile(
    r"(?:image/(?!svg)|video/|audio/|font/|text/event-stream|application/(?:zip|gzip|zstd|octet-stream))"
)
# The weight of a coding that is acceptable without being named.
_LEAST = 0.0001
_WEIGHT = re.compile(r"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


class Preference(msgspec.Struct, frozen=True):
    """What a client wants.

    Args:
        coding: The coding it likes best of ours; None if it likes the plain body better.
        plain: Whether it takes a plain body at all.
    """

    coding: str | None
    plain: bool


@lru_cache(maxsize=256)
def preference(accept_encoding: str) -> Preference:
    """Read an ``Accept-Encoding``. Members that make no sense are ignored."""
    weights: dict[str, float] = {}
    for member in accept_encoding.split(","):
        name, parted, parameter = member.partition(";")
        weight = _WEIGHT.fullmatch(parameter)
        if weight is not None or not parted:
            weights[canonical(name)] = 1.0 if weight is None else float(weight[1])
    others = weights.get("*", 0.0)
    # The first of equals.
    coding = max(CODINGS, key=lambda name: weights.get(name, others))
    plain = weights.get("identity", weights.get("*", _LEAST))
    wanted = weights.get(coding, others)
    return Preference(coding if wanted > 0 and wanted >= plain else None, plain > 0)


class Compression:
    """Falcon's middleware that every answer passes, errors too."""

    def process_response(
        self,
        request: Request,
        response: FalconResponse,
        _resource: object,
        _succeeded: bool,  # noqa: FBT001 - Falcon calls it
    ) -> None:
        """Compress the body of an answer if it is worth while and wanted. Streams are left alone."""
        if response.is_prepared:
            return
        content = response.render_body()
        accept: str = request.env.get("HTTP_ACCEPT_ENCODING", "")
        if content is None or (len(content) <= MIN_BYTES and "=0" not in accept):
            return
        if not content or not _can_be_encoded(response):
            return
        response.append_header("Vary", "Accept-Encoding")
        if accept:
            _compress(response, content, preference(accept))


def _can_be_encoded(response: FalconResponse) -> bool:
    # A range is one of the bytes that were named, not of those that a coding would make.
    if response.get_header("Content-Encoding") is not None or response.get_header("Content-Range") is not None:
        return False
    if response.status_code in {204, 304}:
        return False
    return _COMPRESSED_ALREADY.match((response.content_type or "").lower()) is None


def _compress(response: FalconResponse, content: bytes, wanted: Preference) -> None:
    if wanted.coding is None or (wanted.plain and len(content) <= MIN_BYTES):
        return
    encoded = encode(content, wanted.coding)
    if wanted.plain and len(encoded) >= len(content):
        return
    response.text = response.media = None
    response.data = encoded
    response.set_header("Content-Encoding", wanted.coding)
    etag = response.get_header("ETag")
    if etag is not None and not etag.startswith("W/"):
        # Other bytes than those that the strong validator stands for.
        response.set_header("ETag", f"W/{etag}")
