"""Paths of the routes of request logs: every route has two roots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kernel import Handler, Method, Policy, route

ROOTS = ("/api/requests/", "/api/v1/requests/")
H = TypeVar("H", bound=Handler)


def requests_route(path: str, *, policy: Policy, method: Method = "GET", **options: Any) -> Callable[[H], H]:
    """Declare where a handler is served, below both roots of request logs.

    Args:
        path: Below the roots, such as ``ingest/``; empty for the roots themselves.
        policy: As of ``kernel.route``.
        method: As of ``kernel.route``.
        options: Further arguments of it.
    """
    first, *others = (root + path for root in ROOTS)
    return route(first, aliases=tuple(others), policy=policy, method=method, **options)
