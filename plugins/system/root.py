"""The routes ``/``, ``/api/`` and ``/api/v1/``: where people and programs begin to look around."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from itertools import groupby
from typing import Any

import msgspec

from kernel import Engine, Identity, PluginStatus, Request, Response, Services, UnavailableError, route
from kernel.http import Panel, TemplateResponse
from kernel.jobs import JobFigures
from plugins.system.job_access import may_read_all
from plugins.system.pages import summarize_health

_REFRESH_S = 30
# Segments of paths that tell no resource from another.
_COMMON_SEGMENTS = frozenset({"api", "v1", "public"})


class Resource(msgspec.Struct, frozen=True):
    """A resource of the API.

    Args:
        title: For people.
        url: Absolute.
    """

    title: str
    url: str


class ApiRoot(msgspec.Struct, frozen=True):
    """Response of ``/api/``: resources by name. ``requests-kpis`` is ``/api/requests/kpis/``."""

    resources: dict[str, Resource]


class ResourcePath(msgspec.Struct, frozen=True):
    """A route in the list of resources, as pages show it."""

    name: str
    title: str
    path: str
    owner: str


class About(msgspec.Struct, frozen=True):
    """What the page says of the service to whom it knows.

    Args:
        version: Of Tiercel.
        engine: The database; None while it is unavailable.
        plugins: In configured order.
    """

    version: str
    engine: Engine | None
    plugins: tuple[PluginStatus, ...]


class RootRoutes:
    """The handlers of the roots.

    Args:
        services: The list of routes, and what the page says of the service.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @route("/", policy="public", menu="Start page")
    def page(self, request: Request) -> Response[TemplateResponse]:
        """Show what goes on and where everything is to people; programs get the list that ``/api/`` returns."""
        identity = self._services.requester(request) if request.prefers_html else None
        resources = self._services.once(list_resources)
        context = {
            "resources": {owner: list(group) for owner, group in groupby(resources, lambda resource: resource.owner)},
            "resource_count": len(resources),
            "about": None if identity is None else self._about(),
        }
        now = Panel(lambda: self._now(identity), "system/root_now.html", "Now", refresh_s=_REFRESH_S)
        page = TemplateResponse("system/root.html", context, data=self._list(request), panels={"now": now})
        # What it says depends on who is signed in.
        return Response(page, headers={"Cache-Control": "no-store"})

    @route("/api/v1/", policy="public")
    def versioned_root(self, request: Request) -> ApiRoot:
        """List the resources of the API, in the envelope of ``/api/v1``."""
        return self._list(request)

    @route("/api/", policy="public", menu="API root")
    def root(self, request: Request) -> ApiRoot:
        """List the resources of the API."""
        return self._list(request)

    def _list(self, request: Request) -> ApiRoot:
        resources = self._services.once(list_resources)
        return ApiRoot({each.name: Resource(each.title, request.origin + each.path) for each in resources})

    def _now(self, identity: Identity | None) -> Mapping[str, Any]:
        """Return how the service is, to staff also how far its jobs are."""
        figures: JobFigures | None = None
        if identity is not None and may_read_all(identity):
            # Of the database, the checks tell.
            with suppress(UnavailableError):
                figures = self._services.jobs.figures()
        return {**summarize_health(self._services.health.run()), "figures": figures}

    def _about(self) -> About:
        """Return what strangers need not know."""
        services = self._services
        engine: Engine | None = None
        with suppress(UnavailableError):
            engine = services.db.engine
        return About(version("tiercel"), engine, tuple(services.plugins))


def list_resources(services: Services) -> tuple[ResourcePath, ...]:
    """List the routes that have a label, except for pages, each with a name of its own."""
    found: dict[str, ResourcePath] = {}
    for each in services.routes:
        path, title = each.route.path, each.menu
        if title is None or each.is_page:
            continue
        segments = path.strip("/").split("/")
        name = "-".join(segment for segment in segments if segment not in _COMMON_SEGMENTS) or segments[0]
        # Two plugins may have paths that differ in what is left out only.
        name = path if name in found else name
        found[name] = ResourcePath(name, title, path, each.owner)
    return tuple(found.values())
