"""A plugin with one typed route that returns a small dict."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Route, Services, hookimpl

SMALL = {"id": 42, "name": "tiercel", "tags": ["small", "falcon"], "ok": True}


def small() -> dict[str, object]:
    """Answer."""
    return SMALL


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the route, and one like it that is logged."""
    return [
        Route(path="/small", handler=small, policy="read", logged=False),
        Route(path="/small-logged", handler=small, policy="read"),
    ]
