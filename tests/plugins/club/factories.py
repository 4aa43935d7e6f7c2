"""Factories of services with sources, and shorthands to refresh and inspect them."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from kernel.datasets import DatasetReport
from kernel.errors import UnavailableError
from kernel.testing import Client
from plugins.club import run_full_export
from plugins.club.jobs import RefreshError
from plugins.club.report import RefreshReport, SourceReport
from plugins.club.settings import Source
from tests.applications import warning_of
from tests.conftest import Serve
from tests.plugins.club.fetching import LIMITS
from tests.processes import eventually

PLUGINS = ["system", "club", "skyflow", "nexus"]


def table(sources: dict[str, Source], **more: Any) -> dict[str, Any]:
    """Make the ``[club]`` table of a configuration."""
    plain = {name: msgspec.to_builtins(source) for name, source in sources.items()}
    named = {name: {key: value for key, value in each.items() if value is not None} for name, each in plain.items()}
    return {**LIMITS, "retries": 0, **more, "sources": named}


def serve_club(serve: Serve, sources: dict[str, Source], club: dict[str, Any] | None = None, **more: Any) -> Client:
    """Start a service with sources."""
    return serve(**{"plugins": PLUGINS, "club": table(sources, **(club or {})), **more})


def refresh(client: Client) -> RefreshReport:
    """Refresh, and wait until the service serves the result."""
    report = run_full_export(client.service.registry.services["club"])
    for dataset in report.datasets:
        assert eventually(partial(_serves, client, dataset)), dataset
    return report


def refresh_and_fail(client: Client, *refused: str) -> str:
    """Refresh while every source fails; return the error once the datasets have a warning."""
    try:
        run_full_export(client.service.registry.services["club"])
    except RefreshError as ex:
        assert eventually(lambda: all(warning_of(client, name) for name in refused))
        return str(ex)
    raise AssertionError("the refresh succeeded")


def version_of(client: Client, dataset: str) -> int:
    """Return the current version of a dataset."""
    return client.service.shared.datasets.read(dataset).snapshot.version


def keys_of(client: Client, dataset: str) -> list[str]:
    """Return the keys of the current items of a dataset."""
    return sorted(item.key for item in client.service.shared.datasets.read(dataset).items)


def by_source(report: RefreshReport) -> dict[str, SourceReport]:
    """Return the reports of sources by name."""
    return {each.source: each for each in report.sources}


def by_dataset(report: RefreshReport) -> dict[str, DatasetReport]:
    """Return the reports of datasets by name."""
    return {each.dataset: each for each in report.datasets}


def health_of(client: Client) -> dict[str, Any]:
    """Return the service health."""
    data: dict[str, Any] = client.get("/club/admin/service-health/").json()["data"]
    return data


def readiness_of(client: Client) -> dict[str, Any]:
    """Return the readiness check of this plugin."""
    checks = client.get("/readyz?verbose").json()["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == "club")
    return found


def _serves(client: Client, dataset: DatasetReport) -> bool:
    try:
        snapshot = client.service.shared.datasets.read(dataset.dataset).snapshot
    except UnavailableError:
        return dataset.version is None
    return snapshot.version == dataset.version and bool(snapshot.warning) == (dataset.outcome == "refused")
