"""The documented health endpoints, beside the kernel's ``/livez``, ``/readyz`` and ``/startupz``."""

from __future__ import annotations

import msgspec

from kernel import CheckResult, Request, Response, Route, Services


class HealthQuery(msgspec.Struct, frozen=True):
    """Parameters of ``/api/health/``.

    Args:
        db: Check the database as well.
    """

    db: bool = False


class ApiHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer of ``/api/health/``: ``db`` only where it was asked for."""

    status: str
    db: str | None = None


class BasicHealth(msgspec.Struct, frozen=True):
    """Answer of ``/health/``.

    Args:
        status: ``ok``, ``degraded`` or ``failed``.
        database: ``ok``, or why not.
        cache: ``ok``, or why not.
        engine: The database engine and version in use; None while it cannot be asked.
    """

    status: str
    database: str
    cache: str
    engine: str | None


class ApiRoot(msgspec.Struct, frozen=True):
    """Answer of ``/api/``: resources by what they are."""

    resources: dict[str, str]


class HealthRoutes:
    """Handlers of the documented health endpoints.

    Args:
        services: For the checks.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def basic(self) -> Response[BasicHealth]:
        """Check database and cache. 503 if the database is away."""
        results = {result.name: result for result in self._services.health.run(only=("database", "cache"))}
        database, cache = results["database"], results["cache"]
        status = "failed" if database.status != "ok" else cache.status
        engine = database.detail if database.status == "ok" else None
        body = BasicHealth(status, _word(database), _word(cache), engine)
        return Response(body, 200 if database.status == "ok" else 503, {"Cache-Control": "no-store"})

    def api(self, query: HealthQuery) -> Response[ApiHealth]:
        """Say ok; with ``db=1``, only if the database answers."""
        headers = {"Cache-Control": "no-store"}
        if not query.db:
            return Response(ApiHealth("ok"), 200, headers)
        (database,) = self._services.health.run(only=("database",))
        if database.status == "ok":
            return Response(ApiHealth("ok", "ok"), 200, headers)
        return Response(ApiHealth("error", _word(database)), 503, headers)

    def root(self, request: Request) -> ApiRoot:
        """List what the API has."""
        routes = [mounted.route for mounted in self._services.routes]
        return ApiRoot({route.menu: request.origin + route.path for route in routes if route.menu is not None})

    def routes(self) -> list[Route]:
        """Return the routes. Probes are not logged."""
        return [
            Route(path="/health/", handler=self.basic, policy="public", logged=False, menu="health"),
            Route(path="/api/health/", handler=self.api, policy="public", logged=False),
            Route(path="/api/", aliases=("/api/v1/",), handler=self.root, policy="public", menu="this list"),
        ]


def _word(result: CheckResult) -> str:
    return "ok" if result.status == "ok" else result.detail or "failed"
