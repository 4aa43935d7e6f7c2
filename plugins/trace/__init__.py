"""Feature specifications: features, gateways, tiers and tags, as each application sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from kernel import Command, Dataset, HealthCheck, Job, Route, Services, hookimpl
from plugins.trace.commands import make_commands
from plugins.trace.datasets import DATASETS, FEATURES
from plugins.trace.export.model import Certificate
from plugins.trace.export.refresh import Refresh, run_export
from plugins.trace.freshness import Freshness
from plugins.trace.matrix import MATRIX
from plugins.trace.settings import TraceSettings
from plugins.trace.webhooks.routes import Webhook

# ``trace_matrix_data`` for everybody, ``trace_matrix_skyflow_data`` for an application.
CACHE_NAME = ("trace_matrix", "data")


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return what to read from Notion, and how patiently."""
    return TraceSettings


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """Return features, gateways, tiers and tags."""
    return DATASETS


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return lists of the datasets, single items, features by tiers, the index, and where Notion tells of changes."""
    routes: list[Route] = []
    for dataset in DATASETS:
        path = f"/trace/public/{dataset.name}/"
        one = f"{path}{{slug}}/"
        routes += (
            services.dataset_route(path, dataset, menu=dataset.name, cache_name=CACHE_NAME),
            services.dataset_route(one, dataset, one=True, cache_name=CACHE_NAME),
        )
    matrix = services.dataset_route(
        "/trace/public/matrix/", FEATURES, derivation=MATRIX, menu="features by tiers", cache_name=CACHE_NAME
    )
    index = services.index_route(
        "/trace/public/index/", DATASETS, file="fsm_index.json", menu="index of specifications", cache_name=CACHE_NAME
    )
    return [*routes, matrix, index, Webhook(services).route()]


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``trace.refresh`` and ``trace.reconcile``."""
    return Refresh(services).jobs()


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the exports. Not critical: what was exported last is served."""
    freshness = Freshness(services)
    return [HealthCheck(name="trace", probe=freshness.check, critical=False, setup=freshness.setup)]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``refresh``, ``check`` and ``webhook``."""
    return make_commands(services)


@hookimpl
def startup(services: Services) -> None:
    """Say in the log when nothing is read although it is configured what to read."""
    idle = Freshness(services).idle_reason()
    if idle and services.settings(TraceSettings).sources:
        services.log.warning("notion_not_read", reason=idle)


def run_full_export(services: Services) -> Certificate:
    """Read all of Notion and publish what it has, in this process. Blocks.

    Args:
        services: Of this plugin: ``service.registry.services["trace"]``.

    Raises:
        ConflictError: An export is running already.
        ExportError: It was refused; what serves serves on.
    """
    return run_export(services, full=True)


async def run_full_export_async(services: Services) -> Certificate:
    """Do as ``run_full_export``, without blocking the event loop.

    Args:
        services: As there.
    """
    return await asyncio.to_thread(run_full_export, services)
