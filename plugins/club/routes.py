"""The routes: ranked figures per application, ``/club/admin/service-health/``, and pages."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kernel import Request, Response, Route, Services, collect_routes, route
from plugins.club.datasets import (
    DATASETS,
    FEATURE_SUMMARIES,
    HERO_METRICS,
    MOST_PRESENT,
    RANKED_MEMBERS,
    RANKED_METRICS,
)
from plugins.club.health import ClubHealth, ServiceHealth
from plugins.club.pages import make_pages

_FEATURES = "/club/public/features/"
# Cached as ``club_available_features`` without an application, as ``club_skyflow_available_features`` for one.
_FEATURES_CACHE = ("club", "available_features")


class ServiceHealthMeta(msgspec.Struct, frozen=True):
    """The ``meta`` of the response, as of all routes of this plugin."""

    application: str
    endpoint: str
    total_items: int
    generated_at: datetime


class ServiceHealthResponse(msgspec.Struct, frozen=True):
    """The response in the envelope of all routes of this plugin."""

    data: ServiceHealth
    meta: ServiceHealthMeta


class ServiceHealthRoutes:
    """The handler of ``/club/admin/service-health/``.

    Args:
        services: What is checked; clock.
    """

    def __init__(self, services: Services) -> None:
        self._health = ClubHealth(services)
        self._clock = services.clock

    @route("/club/admin/service-health/", policy="staff", menu="health of community data")
    def show(self, request: Request) -> Response[ServiceHealthResponse]:
        """Report the health of sources, storage, caches and database."""
        health = self._health.report()
        meta = ServiceHealthMeta("default", request.path_as_sent, 1, self._clock.now())
        return Response(ServiceHealthResponse(health, meta), headers={"Cache-Control": "no-store"})


def make_routes(services: Services) -> list[Route]:
    """Return all routes of the plugin."""
    return [
        services.dataset_route(
            "/club/public/hero-metrics/", HERO_METRICS, derivation=RANKED_METRICS, menu="key figures of the community"
        ),
        services.dataset_route(
            _FEATURES, MOST_PRESENT, derivation=FEATURE_SUMMARIES, menu="community features", cache_name=_FEATURES_CACHE
        ),
        services.dataset_route(f"{_FEATURES}{{feature}}/", MOST_PRESENT, derivation=RANKED_MEMBERS),
        services.index_route("/club/public/index/", DATASETS, file="club_index.json", menu="index of community data"),
        *collect_routes(ServiceHealthRoutes(services).show),
        *make_pages(services),
    ]
