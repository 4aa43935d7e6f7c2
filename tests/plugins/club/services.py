"""Services with sources, and their refreshes."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from kernel.errors import UnavailableError
from kernel.testing import Client
from plugins.club import run_full_export
from plugins.club.refresh import RefreshError
from plugins.club.report import DatasetReport, RefreshReport, SourceReport
from plugins.club.settings import Source
from tests.applications import warning_of
from tests.conftest import Serve
from tests.plugins.club.fetches import PATIENCE
from tests.processes import eventually

PLUGINS = ["system", "club", "skyflow", "nexus"]


def table(sources: dict[str, Source], **more: Any) -> dict[str, Any]:
    """Return the table of the configuration."""
    plain = {name: msgspec.to_builtins(source) for name, source in sources.items()}
    named = {name: {key: value for key, value in each.items() if value is not None} for name, each in plain.items()}
    return {**PATIENCE, "retries": 0, **more, "sources": named}


def serve_club(serve: Serve, sources: dict[str, Source], club: dict[str, Any] | None = None, **more: Any) -> Client:
    """Start a service with these sources."""
    return serve(**{"plugins": PLUGINS, "club": table(sources, **(club or {})), **more})


def refresh(client: Client) -> RefreshReport:
    """Refresh, and wait until the service serves what came of it."""
    report = run_full_export(client.service.registry.services["club"])
    for dataset in report.datasets:
        assert eventually(partial(_serves, client, dataset)), dataset
    return report


def refresh_in_vain(client: Client, *refused: str) -> str:
    """Refresh with every source failing; return why, once these datasets say so."""
    try:
        run_full_export(client.service.registry.services["club"])
    except RefreshError as ex:
        assert eventually(lambda: all(warning_of(client, name) for name in refused))
        return str(ex)
    raise AssertionError("the refresh succeeded")


def version_of(client: Client, dataset: str) -> int:
    """Return what serves."""
    return client.service.shared.datasets.read(dataset).snapshot.version


def keys_of(client: Client, dataset: str) -> list[str]:
    """Return what identifies the items that serve."""
    return sorted(item.key for item in client.service.shared.datasets.read(dataset).items)


def by_source(report: RefreshReport) -> dict[str, SourceReport]:
    """Find sources by name."""
    return {each.source: each for each in report.sources}


def by_dataset(report: RefreshReport) -> dict[str, DatasetReport]:
    """Find datasets by name."""
    return {each.dataset: each for each in report.datasets}


def health_of(client: Client) -> dict[str, Any]:
    """Return what the service says of its health."""
    data: dict[str, Any] = client.get("/club/admin/service-health/").json()["data"]
    return data


def readiness_of(client: Client) -> dict[str, Any]:
    """Return the check of this plugin."""
    checks = client.get("/readyz?verbose").json()["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == "club")
    return found


def _serves(client: Client, dataset: DatasetReport) -> bool:
    try:
        snapshot = client.service.shared.datasets.read(dataset.dataset).snapshot
    except UnavailableError:
        return dataset.version is None
    return snapshot.version == dataset.version and bool(snapshot.warning) == (dataset.outcome == "refused")
