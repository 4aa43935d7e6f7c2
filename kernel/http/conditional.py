"""Conditional requests: whether a client has a representation already, or assumes another (RFC 9110, section 13)."""

from __future__ import annotations

import re

from kernel.errors import PreconditionFailedError
from kernel.http.request import Request

# entity-tag, RFC 9110 section 8.8.3. Commas may be part of one.
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def is_unmodified(request: Request, etag: str) -> bool:
    """Tell whether the client of a GET or HEAD has this representation already, so that a 304 suffices.

    ``If-Match`` is compared strongly, ``If-None-Match`` weakly (RFC 9110, 13.1.1 and 13.1.2). The conditions on a date
    are ignored, as RFC 9110 demands where there is no ``Last-Modified``, which Tiercel never sends: settings, filters
    and the warning of a refused export change a response at no date that could be told, and two versions may appear
    within the second that is the unit of dates.

    Args:
        request: A request that is answered with 200.
        etag: Of the representation that would be sent.

    Raises:
        PreconditionFailedError: ``If-Match`` names other representations only.
    """
    if_match: str = request.env.get("HTTP_IF_MATCH", "")
    if if_match and if_match.strip() != "*" and (etag.startswith("W/") or etag not in _ENTITY_TAG.findall(if_match)):
        raise PreconditionFailedError(detail=f"ETag is {etag}, If-Match {if_match!r:.100}", headers={"ETag": etag})
    if_none_match: str = request.env.get("HTTP_IF_NONE_MATCH", "")
    if not if_none_match:
        return False
    if if_none_match == etag or if_none_match.strip() == "*":
        return True
    opaque = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in _ENTITY_TAG.findall(if_none_match))
