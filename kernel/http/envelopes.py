"""The envelope of everything new under ``/api/v1``: success, data, request_id."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from kernel.http.request import Request

T = TypeVar("T")


class Envelope(msgspec.Struct, Generic[T], frozen=True):
    """An answer in its envelope.

    Args:
        success: Always true; errors have a body of their own with false.
        data: The answer.
        request_id: As in ``X-Request-ID``.
    """

    success: bool
    data: T
    request_id: str


def envelope(request: Request, data: T) -> Envelope[T]:
    """Put an answer into its envelope."""
    return Envelope(success=True, data=data, request_id=request.request_id)
