"""The application Skyflow: the features flow, clout and kudos, and what belongs to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kernel import Application, hookimpl

FEATURES = ("flow", "clout", "kudos")


def keep_features(items: Sequence[Any]) -> Sequence[Any]:
    """Keep feature specifications of Skyflow's areas."""
    return [item for item in items if item.area in FEATURES]


def keep_tiers(items: Sequence[Any]) -> Sequence[Any]:
    """Keep tiers that include one of Skyflow's features."""
    return [item for item in items if not set(FEATURES).isdisjoint(item.features)]


def keep_figures(items: Sequence[Any]) -> Sequence[Any]:
    """Keep community figures about one of Skyflow's features, and those about the whole community."""
    return [item for item in items if item.feature is None or item.feature in FEATURES]


@hookimpl
def register_applications() -> Iterable[Application]:
    """Return the application. A filter whose dataset no plugin publishes has no effect."""
    filters = {
        "features": keep_features,
        "tiers": keep_tiers,
        "hero-metrics": keep_figures,
        "most-present": keep_figures,
    }
    return [Application(slug="skyflow", name="Skyflow", features=FEATURES, filters=filters, services=("skyflow",))]
