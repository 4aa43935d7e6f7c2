"""The application Nexus: the features grid and beacon, and of each dataset the items tagged ``open``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kernel import Application, hookimpl

FEATURES = ("grid", "beacon")
TAG = "open"


def keep_open(items: Sequence[Any]) -> Sequence[Any]:
    """Keep items that carry the tag."""
    return [item for item in items if TAG in item.tags]


@hookimpl
def register_applications() -> Iterable[Application]:
    """Return the application. Tags have no filter, so Nexus sees them all."""
    filters = dict.fromkeys(("features", "gateways", "tiers", "hero-metrics", "most-present"), keep_open)
    return [Application(slug="nexus", name="Nexus", features=FEATURES, filters=filters, services=("nexus",))]
