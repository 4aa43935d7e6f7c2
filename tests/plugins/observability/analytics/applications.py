"""Applications for tests: one that owns two services, one that owns none."""

from __future__ import annotations

from kernel import Application, hookimpl


@hookimpl
def register_applications() -> list[Application]:
    return [
        Application(slug="shop", name="Shop", services=("Billing", "store")),
        Application(slug="idle", name="Idle"),
    ]
