"""Community figures: fetched from the APIs that the configuration names, ranked, and served to each application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from kernel import Command, Dataset, HealthCheck, Job, Route, Services, hookimpl
from plugins.club.commands import make_refresh_command
from plugins.club.datasets import DATASETS, FEATURES_SHOWN, HERO_METRICS, MEMBERS_SHOWN, METRICS_SHOWN, MOST_PRESENT
from plugins.club.freshness import Freshness
from plugins.club.refresh import Refresh, export
from plugins.club.report import RefreshReport
from plugins.club.service_health import ServiceHealthRoute
from plugins.club.settings import ClubSettings

_FEATURES = "/club/public/features/"
# ``club_available_features`` for everybody, ``club_skyflow_available_features`` for an application.
_FEATURES_CACHE = ("club", "available_features")


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the sources and the limits of fetching."""
    return ClubSettings


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """Return key figures, and who is most present."""
    return DATASETS


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the figures, ranked and compared, per application; and the health of it all."""
    return [
        services.dataset_route(
            "/club/public/hero-metrics/", HERO_METRICS, derivation=METRICS_SHOWN, menu="key figures of the community"
        ),
        services.dataset_route(
            _FEATURES, MOST_PRESENT, derivation=FEATURES_SHOWN, menu="community features", cache_name=_FEATURES_CACHE
        ),
        services.dataset_route(f"{_FEATURES}{{feature}}/", MOST_PRESENT, derivation=MEMBERS_SHOWN),
        services.index_route("/club/public/index/", DATASETS, file="club_index.json", menu="index of community data"),
        ServiceHealthRoute(services, Freshness(services)).route(),
    ]


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``club.refresh``."""
    return [Refresh(services).job()]


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the sources. Not critical: what they gave last is served."""
    return [HealthCheck(name="club", probe=Freshness(services).check, critical=False)]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``refresh``."""
    return [make_refresh_command(services)]


def run_full_export(services: Services) -> RefreshReport:
    """Fetch every source and publish what they say, in this process. Blocks.

    Args:
        services: Of this plugin: ``service.registry.services["club"]``.

    Raises:
        ConflictError: A refresh is running already.
        RefreshError: Every source failed.
    """
    return export(services)


async def run_full_export_async(services: Services) -> RefreshReport:
    """Do as ``run_full_export``, without blocking the event loop.

    Args:
        services: As there.
    """
    return await asyncio.to_thread(export, services)
