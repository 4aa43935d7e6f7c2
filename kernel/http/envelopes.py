"""The envelopes of answers: success, data, request_id under ``/api/v1``; data and meta where applications look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from kernel.applications import slug_of
from kernel.contracts import Application
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


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """What an application sees.

    Args:
        data: The items.
        meta: ``application``, ``endpoint``, ``total_items`` and what else there is to say.
    """

    data: Sequence[T]
    meta: dict[str, Any]


class Single(msgspec.Struct, Generic[T], frozen=True):
    """One thing that an application sees.

    Args:
        data: The thing.
        meta: ``application``, ``endpoint``, ``total_items``, which is 1, and what else there is to say.
    """

    data: T
    meta: dict[str, Any]


def listing(request: Request, application: Application | None, items: Sequence[T], **meta: Any) -> Listing[T]:
    """Put items into the envelope of routes per application.

    Args:
        request: Whose path ``meta.endpoint`` is.
        application: Whose view it is; None is everybody's.
        items: All of them.
        meta: Further members.
    """
    return Listing(items, _about(request, application, len(items)) | meta)


def single(request: Request, application: Application | None, item: T, **meta: Any) -> Single[T]:
    """Put one thing into the envelope of routes per application.

    Args:
        request: Whose path ``meta.endpoint`` is.
        application: Whose view it is; None is everybody's.
        item: The thing.
        meta: Further members.
    """
    return Single(item, _about(request, application, 1) | meta)


def _about(request: Request, application: Application | None, count: int) -> dict[str, Any]:
    return {"application": slug_of(application), "endpoint": request.path_as_sent, "total_items": count}
