"""``tiercel trace refresh``, and the same from Python."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernel.testing import Client
from plugins.trace import run_full_export, run_full_export_async
from plugins.trace.jobs import REFRESH, ExportError
from plugins.trace.store import list_sources
from tests.commands import RunCommand
from tests.conftest import Serve
from tests.contract.tree import ROOT
from tests.notion import faults
from tests.notion.server import FakeNotion
from tests.plugins.trace.factories import Specifications, export, keys_of, serve_trace
from tests.processes import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def exported(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Client:
    """A service that has exported once."""
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    return client


@pytest.mark.parametrize("words", [("trace", "refresh"), ("refresh_trace_data",)])
def test_a_refresh_prints_the_outcome_of_each_dataset(tiercel: RunCommand, words: tuple[str, ...]) -> None:
    ran = tiercel(*words)

    assert ran.code == 0, ran.errors
    lines = [line.split() for line in ran.output.splitlines()]
    assert lines[:2] == [
        ["dataset", "outcome", "version", "items", "rejected"],
        ["features", "published", "1", "3", "0"],
    ]
    assert lines[5][:3] == ["full:", "6", "rows,"]


def test_a_refresh_prints_its_report_as_json(tiercel: RunCommand) -> None:
    full = tiercel("trace", "refresh", "--json").json()
    changes = tiercel("trace", "refresh", "--json").json()
    again = tiercel("trace", "refresh", "--full", "--json").json()

    assert [{each["mode"] for each in given["sources"]} for given in (full, changes, again)] == [
        {"full"},
        {"incremental"},
        {"full"},
    ]
    assert [{each["outcome"] for each in given["datasets"]} for given in (full, changes)] == [
        {"published"},
        {"unchanged"},
    ]


def test_progress_is_printed_on_standard_error(tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.cli.output.LINE_INTERVAL_S", 0.0)

    assert "reading Notion: 3, Features: 3 rows" in tiercel("trace", "refresh").errors


def test_a_renamed_column_is_a_warning(tiercel: RunCommand, specifications: Specifications) -> None:
    tiercel("trace", "refresh")
    specifications.workspace.rename(specifications.features, "Area", "Part")

    ran = tiercel("trace", "refresh")

    assert ran.code == 0
    assert "features: area: 'Area' renamed: is now called 'Part'" in ran.errors


@pytest.mark.parametrize("options", [(), ("--full",), ("--dry-run",)])
def test_a_refused_export_exits_with_1(
    tiercel: RunCommand, specifications: Specifications, options: tuple[str, ...]
) -> None:
    specifications.workspace.remove_column(specifications.features, "Area")

    ran = tiercel("trace", "refresh", *options)

    assert (ran.code, ran.output) == (1, "")
    assert "tiercel: features: area: 'Area' missing" in ran.errors


def test_a_refresh_during_another_one_exits_with_1(
    tiercel: RunCommand, serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    until = threading.Event()
    notion.faults.append(faults.delayed(until))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_full_export, client.service.registry.services["trace"])
        try:
            assert eventually(lambda: bool(notion.calls))
            ran = tiercel("trace", "refresh")
        finally:
            until.set()

        assert (ran.code, ran.output) == (1, "")
        assert "is running" in ran.errors
        assert {each.outcome for each in first.result().datasets} == {"published"}


def test_without_a_token_nothing_is_read(tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTION_TOKEN")

    ran = tiercel("trace", "refresh")

    assert (ran.code, ran.output, ran.errors) == (0, "", "NOTION_TOKEN is not set: imported data are served.\n")


def test_a_dry_run_shows_the_differences_and_stores_nothing(
    exported: Client, tiercel: RunCommand, specifications: Specifications
) -> None:
    first, second, _ = specifications.features.pages.values()
    specifications.workspace.edit(first, {"Area": "clout"})
    specifications.workspace.remove(second)
    specifications.workspace.add_page(specifications.features, {"Name": "New"})
    shared = exported.service.shared
    before = (shared.datasets.publications("features"), list_sources(shared.db), len(shared.jobs.list()))

    ran = tiercel("trace", "refresh", "--dry-run")
    found = tiercel("trace", "refresh", "--dry-run", "--json").json()["differences"][0]

    assert ran.code == 0, ran.errors
    difference = "\n".join(ran.output.splitlines()[:4])
    assert difference == (
        "features, version 1 to 2: 1 added, 1 removed, 1 changed, 1 unchanged\n"
        "  + new\n"
        "  - feature-1\n"
        '  ~ feature-0: area "flow" -> "clout"'
    )
    assert f"```text\n{difference}\n```" in (ROOT / "docs" / "howto" / "notion.md").read_text()
    assert "tags, version 1 to 1: 0 added, 0 removed, 0 changed, 1 unchanged" in ran.output
    assert [each["slug"] for each in found["added"]] == ["new"]
    assert found["changed"] == [{"key": "feature-0", "fields": {"area": {"before": "flow", "after": "clout"}}}]
    assert before == (shared.datasets.publications("features"), list_sources(shared.db), len(shared.jobs.list()))
    assert len(keys_of(exported, "features")) == 3


def test_a_dry_run_without_published_data_shows_every_item_as_added(tiercel: RunCommand) -> None:
    assert "tags, version 0 to 1: 1 added" in tiercel("trace", "refresh", "--dry-run").output


def test_loading_the_plugin_does_not_import_the_sdk_of_notion() -> None:
    script = "import sys, plugins.trace; print('notion_client' in sys.modules, 'httpx' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == ["False", "False"]


def test_exports_run_from_python(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    services = client.service.registry.services["trace"]

    certificates = [run_full_export(services), asyncio.run(run_full_export_async(services))]

    assert [each.sources[0].mode for each in certificates] == ["full", "full"]
    assert {job.name for job in client.service.shared.jobs.list()} == {REFRESH}
    specifications.workspace.remove_column(specifications.features, "Area")
    with pytest.raises(ExportError, match="'Area' missing"):
        run_full_export(services)
