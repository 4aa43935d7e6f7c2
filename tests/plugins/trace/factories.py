"""Workspaces with specifications, services that export them, and clients of the fake Notion without a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from kernel import Database, UnavailableError
from kernel.datasets import DatasetReport
from kernel.settings import Secret
from kernel.testing import Client
from plugins.trace import run_full_export
from plugins.trace.datasets import FEATURES
from plugins.trace.jobs import RECONCILE, ExportError, run_export
from plugins.trace.notion.client import NotionClient
from plugins.trace.notion.query import RowQuery, RowScan
from plugins.trace.notion.rate_limit import RateLimiter
from plugins.trace.notion.schema import read_schema
from plugins.trace.settings import Source, TraceSettings
from plugins.trace.sync.completeness import ExportReport, SourceReport
from plugins.trace.sync.mapping import map_columns
from plugins.trace.sync.reader import DataSourceReader, DataSourceRows
from tests.applications import warning_of
from tests.conftest import Serve
from tests.notion.server import Call, FakeNotion
from tests.notion.workspace import DataSource, Page, Workspace
from tests.plugins.trace.fakes import FakeSleep, UnlimitedRateLimiter
from tests.processes import eventually

PLUGINS = ["system", "trace", "skyflow", "nexus"]
# Settings that do not slow down a test: short waits, and a budget that no test uses up.
FAST = {"requests_per_minute": 600_000, "burst": 1000, "retry_wait_s": 0.01, "timeout_s": 5.0}


# --- workspaces ------------------------------------------------------------------------------------------------------


class Specifications:
    """Four data sources of specifications with relations between them.

    Args:
        workspace: Gets the data sources.
    """

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
        """Add a tag, a tier, a gateway, and some features with relations to them."""
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
        """Return the table ``[trace.sources]`` that exports them."""

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


def first_feature(specifications: Specifications) -> Page:
    """Return the first page of the features."""
    return next(iter(specifications.features.pages.values()))


# --- services --------------------------------------------------------------------------------------------------------


def trace_table(notion: FakeNotion, sources: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return the table ``[trace]`` that exports sources from a fake Notion."""
    return {**FAST, "token": notion.token, "api_url": notion.url, "sources": sources, **settings}


def serve_trace(serve: Serve, notion: FakeNotion, sources: dict[str, Any], **settings: Any) -> Client:
    """Start a service that exports these sources."""
    return serve(plugins=PLUGINS, trace=trace_table(notion, sources, **settings))


def export(client: Client, *, full: bool = False) -> ExportReport:
    """Export, and wait until the service serves the new versions."""
    services = client.service.registry.services["trace"]
    report = run_full_export(services) if full else run_export(services)
    for dataset in report.datasets:
        assert eventually(partial(_serves, client, dataset)), dataset
    return report


def export_refused(client: Client, *names: str, full: bool = False) -> str:
    """Export, expecting a refusal; wait until these datasets show a warning. Return the reason."""
    try:
        run_export(client.service.registry.services["trace"], full=full)
    except ExportError as ex:
        assert eventually(lambda: all(warning_of(client, name) for name in names))
        return str(ex)
    raise AssertionError("the export succeeded")


def reconcile(client: Client) -> None:
    """Run the job that reads every row."""
    record = client.service.shared.jobs.run_inline(RECONCILE)
    assert record.state == "succeeded", record.error


def keys_of(client: Client, dataset: str) -> list[str]:
    """Return the keys of the items that a dataset serves."""
    return [item.slug for item in client.service.shared.datasets.read(dataset).items]


def report_of(report: ExportReport, name: str = "features") -> SourceReport:
    """Return the report of one source."""
    return next(each for each in report.sources if each.source == name)


def _serves(client: Client, dataset: DatasetReport) -> bool:
    try:
        return client.service.shared.datasets.read(dataset.dataset).snapshot.version == dataset.version
    except UnavailableError:
        return False  # this process has not noticed the first version yet


# --- clients of Notion -----------------------------------------------------------------------------------------------


def make_limiter(db: Database, token: str, sleep: Callable[[float], None], **settings: Any) -> RateLimiter:
    """Make the rate limiter of a token; by default one that lets every request of a test through."""
    values = {"per_minute": 600_000, "burst": 1000, "wait_max_s": 300.0, **settings}
    return RateLimiter(db, Secret(token), sleep=sleep, **values)


@contextmanager
def notion_client(
    db: Database,
    notion: FakeNotion,
    sleep: Callable[[float], None] | None = None,
    rate: Mapping[str, int] | None = None,
    **settings: Any,
) -> Iterator[NotionClient]:
    """Make a client with a rate limiter.

    Args:
        db: Has the request budget.
        notion: The server.
        sleep: A ``FakeSleep`` by default.
        rate: Of the rate limiter.
        **settings: Of the plugin.
    """
    sleep = sleep or FakeSleep()
    table = make_settings(notion, **settings)
    limiter = make_limiter(db, notion.token, sleep, wait_max_s=table.retry_wait_max_s, **(rate or {}))
    with _closing(NotionClient(table, limiter, sleep, lambda reason: None)) as client:
        yield client


@contextmanager
def unlimited_client(notion: FakeNotion, **settings: Any) -> Iterator[NotionClient]:
    """Make a client that needs no database.

    Args:
        notion: The server.
        **settings: Of the plugin.
    """
    table = make_settings(notion, **settings)
    with _closing(NotionClient(table, UnlimitedRateLimiter(), FakeSleep(), lambda reason: None)) as client:
        yield client


def make_settings(notion: FakeNotion, **settings: Any) -> TraceSettings:
    """Make settings for a client of a fake Notion."""
    values = {**FAST, "api_url": notion.url, "token": Secret(notion.token), **settings}
    return TraceSettings(**values)


@contextmanager
def _closing(client: NotionClient) -> Iterator[NotionClient]:
    try:
        yield client
    finally:
        client.close()


def scan_rows(notion: FakeNotion, source: DataSource, **query: Any) -> tuple[RowScan, list[str]]:
    """Scan a data source; return the scan, and the ids of the rows that it returned."""
    with unlimited_client(notion) as client:
        schema = read_schema(client.retrieve_data_source(source.id))
        scan = RowScan(client, RowQuery(source.id, ("title",), schema.unique_id, **query))
        return scan, [row["id"] for row in scan.rows()]


@contextmanager
def data_source_reader(
    notion: FakeNotion, source: DataSource, properties: Mapping[str, str]
) -> Iterator[DataSourceReader]:
    """Make a reader of a data source as features.

    Args:
        notion: The server.
        source: What to read.
        properties: Names of columns by names of properties.
    """
    with unlimited_client(notion) as client:
        schema = read_schema(client.retrieve_data_source(source.id))
        configured = Source(data_sources=(source.id,), properties=dict(properties))
        mapping = map_columns(FEATURES, configured, schema, {}, ["features"])
        yield DataSourceReader(client, schema, mapping, lambda rows: None)


def read_every_row(reader: DataSourceReader) -> DataSourceRows:
    """Read every row, and verify them."""
    reader.read_rows()
    return reader.verify()


def requests_property(call: Call) -> bool:
    """Tell whether a request is for one property of one page."""
    return call.path[0] == "pages" and "properties" in call.path
