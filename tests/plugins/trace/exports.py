"""Services that export from the fake Notion."""

from __future__ import annotations

from functools import partial
from typing import Any

from kernel import UnavailableError
from kernel.testing import Client
from plugins.trace import run_full_export
from plugins.trace.export.model import Certificate, DatasetReport, SourceReport
from plugins.trace.export.refresh import RECONCILE, ExportError, run_export
from tests.applications import warning_of
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource, Page, Workspace
from tests.processes import eventually

PLUGINS = ["system", "trace", "skyflow", "nexus"]
# As impatient as a test may be; the budget is large enough not to slow it down.
PATIENCE = {"requests_per_minute": 600_000, "burst": 1000, "retry_wait_s": 0.01, "timeout_s": 5.0}


class Specifications:
    """A workspace with the four tables of specifications, related to each other."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.tags = workspace.add_data_source("Tags", {"Name": "title", "Color": "rich_text"})
        self.tiers = workspace.add_data_source("Tiers", {"Name": "title", "Level": "number"})
        self.gateways = workspace.add_data_source("Gateways", {"Name": "title", "Kind": "select"})
        self.features = workspace.add_data_source(
            "Features",
            {
                "Name": "title",
                "Area": "select",
                "Status": "status",
                "Tier": ("relation", {"data_source_id": self.tiers.id}),
                "Gateways": ("relation", {"data_source_id": self.gateways.id}),
                "Tags": ("relation", {"data_source_id": self.tags.id}),
            },
        )

    def fill(self, features: int = 3) -> None:
        """Add a few rows to each table."""
        tag = self.workspace.add_page(self.tags, {"Name": "Open", "Color": "#2a6f97"})
        tier = self.workspace.add_page(self.tiers, {"Name": "Free", "Level": 1})
        gateway = self.workspace.add_page(self.gateways, {"Name": "Web client", "Kind": "web"})
        for number in range(features):
            self.workspace.add_page(
                self.features,
                {
                    "Name": f"Feature {number}",
                    "Area": "flow",
                    "Status": "live",
                    "Tier": [tier],
                    "Gateways": [gateway],
                    "Tags": [tag],
                },
            )

    def sources(self) -> dict[str, Any]:
        """Return the table of the configuration."""

        def source(table: DataSource, **fields: str) -> dict[str, Any]:
            return {"databases": [table.database_id], "fields": fields}

        return {
            "tags": source(self.tags, color="Color"),
            "tiers": source(self.tiers, level="Level"),
            "gateways": source(self.gateways, kind="Kind"),
            "features": source(
                self.features, area="Area", status="Status", tier="Tier", gateways="Gateways", tags="Tags"
            ),
        }


def serve_trace(serve: Serve, notion: FakeNotion, sources: dict[str, Any], **more: Any) -> Client:
    """Start a service that exports these sources."""
    table = {**PATIENCE, "token": notion.token, "api_url": notion.url, "sources": sources, **more}
    return serve(plugins=PLUGINS, trace=table)


def refresh(client: Client, *, full: bool = False) -> Certificate:
    """Export, and wait until the service serves what came of it."""
    services = client.service.registry.services["trace"]
    certificate = run_full_export(services) if full else run_export(services)
    for dataset in certificate.datasets:
        assert eventually(partial(_serves, client, dataset)), dataset
    return certificate


def refresh_in_vain(client: Client, *refused: str, full: bool = False) -> str:
    """Export what will be refused; return why, once these datasets say so."""
    try:
        run_export(client.service.registry.services["trace"], full=full)
    except ExportError as ex:
        assert eventually(lambda: all(warning_of(client, name) for name in refused))
        return str(ex)
    raise AssertionError("the export succeeded")


def keys_of(client: Client, dataset: str) -> list[str]:
    """Return what identifies the items that serve."""
    return [item.slug for item in client.service.shared.datasets.read(dataset).items]


def report_of(certificate: Certificate, name: str = "features") -> SourceReport:
    """Return the certificate of a source."""
    return next(each for each in certificate.sources if each.source == name)


def first_of(specifications: Specifications) -> Page:
    """Return the first of the features."""
    return next(iter(specifications.features.pages.values()))


def reconcile(client: Client) -> None:
    """Run the job that reads every row."""
    record = client.service.shared.jobs.run_here(RECONCILE)
    assert record.state == "succeeded", record.error


def _serves(client: Client, dataset: DatasetReport) -> bool:
    try:
        return client.service.shared.datasets.read(dataset.dataset).snapshot.version == dataset.version
    except UnavailableError:
        return False  # the first version was published a moment ago
