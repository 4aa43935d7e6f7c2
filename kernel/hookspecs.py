"""Every extension point of Tiercel.

Hooks run at boot, plugin after plugin in configured order, and return frozen data. No request calls a hook.
An implementation declares the arguments it needs and is marked with ``kernel.hookimpl``::

    @hookimpl
    def register_routes(services: Services) -> Iterable[Route]:
        return [Route(path="/hello/", handler=hello, policy="public")]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import pluggy

if TYPE_CHECKING:
    from kernel.contracts import Application, Command, Dataset, HealthCheck, Job, Route
    from kernel.http.search import Search
    from kernel.services import Services

PROJECT = "tiercel"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_settings() -> type[msgspec.Struct]:  # type: ignore[empty-body]
    """Return the Struct that decodes this plugin's table in the configuration.

    Runs first, before there are services. The table has the plugin's name. A field without a default is required.
    """


@hookspec
def register_applications(services: Services) -> Iterable[Application]:  # type: ignore[empty-body]
    """Return applications: slug, name, features, and filters by dataset."""


@hookspec
def register_datasets(services: Services) -> Iterable[Dataset]:  # type: ignore[empty-body]
    """Return datasets: the kinds of data this plugin publishes."""


@hookspec
def register_routes(services: Services) -> Iterable[Route]:  # type: ignore[empty-body]
    """Return HTTP routes. Two plugins with a route for the same method and path stop the boot."""


@hookspec
def register_jobs(services: Services) -> Iterable[Job]:  # type: ignore[empty-body]
    """Return jobs: exports, refreshes and maintenance, run by ``tiercel worker``."""


@hookspec
def register_health_checks(services: Services) -> Iterable[HealthCheck]:  # type: ignore[empty-body]
    """Return health checks of what this plugin needs."""


@hookspec
def register_commands(services: Services) -> Iterable[Command]:  # type: ignore[empty-body]
    """Return commands for ``tiercel <plugin> ...``."""


@hookspec
def register_searches(services: Services) -> Iterable[Search]:  # type: ignore[empty-body]
    """Return what this plugin finds for a text, at ``/search/`` and in the palette of every page."""


@hookspec
def startup(services: Services) -> None:
    """Start background work, once per process, after the pool opened. Do not wait for the database: it may be down."""


@hookspec
def shutdown(services: Services) -> None:
    """Stop background work, once per process, before the pool closes. Plugins are stopped in reverse order."""
