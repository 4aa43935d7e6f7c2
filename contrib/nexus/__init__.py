"""The application Nexus: grid and beacon, and of everything what is tagged ``open``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kernel import Application, hookimpl

FEATURES = ("grid", "beacon")
TAG = "open"


def tagged(items: Sequence[Any]) -> Sequence[Any]:
    """Keep what has the tag."""
    return [item for item in items if TAG in item.tags]


@hookimpl
def register_applications() -> Iterable[Application]:
    """Return the application. It has no filter for tags, so it sees them all."""
    filters = dict.fromkeys(("feature", "gateway", "tier", "hero-metrics", "most-present"), tagged)
    return [Application(slug="nexus", name="Nexus", features=FEATURES, filters=filters, services=("nexus",))]
