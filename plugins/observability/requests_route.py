"""Paths of the routes of request logs: every route has two roots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kernel import Handler, Method, Policy, route

ROOTS = ("/api/requests/", "/api/v1/requests/")
H = TypeVar("H", bound=Handler)


def requests_route(
    path: str, *, policy: Policy, method: Method = "GET", menu: str | None = None, throttle: str | None = None
) -> Callable[[H], H]:
    """Declare where a handler is served, below both roots of request logs; other arguments as of ``kernel.route``.

    Args:
        path: Below the roots, such as ``ingest/``; empty for the roots themselves.
    """
    first, *others = (root + path for root in ROOTS)
    return route(first, aliases=tuple(others), policy=policy, method=method, menu=menu, throttle=throttle)
