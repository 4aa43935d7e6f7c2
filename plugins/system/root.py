"""The routes ``/``, ``/api/`` and ``/api/v1/``: where people and programs begin to look around."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version

import msgspec

from kernel import ApiError, Engine, PluginStatus, Request, Response, Services, UnavailableError, route
from kernel.http import TemplateResponse

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
        """Show where everything is to people; programs get the list that ``/api/`` returns."""
        about = self._about(request) if request.prefers_html else None
        context = {"resources": self._services.once(list_resources), "about": about}
        page = TemplateResponse("system/root.html", context, data=self._list(request))
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

    def _about(self, request: Request) -> About | None:
        """Return what strangers need not know; None for them."""
        services = self._services
        try:
            if services.identify(request) is None:
                return None
        except ApiError:
            # A session that has expired, or the database is away.
            return None
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
