"""The application Skyflow: flow, clout and kudos, and what belongs to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kernel import Application, hookimpl

FEATURES = ("flow", "clout", "kudos")


def its_features(items: Sequence[Any]) -> Sequence[Any]:
    """Keep specifications of features in its areas."""
    return [feature for feature in items if feature.area in FEATURES]


def its_tiers(items: Sequence[Any]) -> Sequence[Any]:
    """Keep tiers that include one of its features."""
    return [tier for tier in items if not set(FEATURES).isdisjoint(tier.features)]


def its_figures(items: Sequence[Any]) -> Sequence[Any]:
    """Keep figures about its features, and those about the whole community."""
    return [figure for figure in items if figure.feature is None or figure.feature in FEATURES]


@hookimpl
def register_applications() -> Iterable[Application]:
    """Return the application. Keys are names of datasets; those that no plugin has concern nothing."""
    filters = {
        "feature": its_features,
        "tier": its_tiers,
        "hero-metrics": its_figures,
        "most-present": its_figures,
    }
    return [Application(slug="skyflow", name="Skyflow", features=FEATURES, filters=filters, services=("skyflow",))]
