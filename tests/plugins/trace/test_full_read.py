"""When changes alone do not say enough, every row is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.jobs import RECONCILE
from plugins.trace.store import list_moved_pages, save_moved_page
from plugins.trace.sync.reader import LOOKUPS_MAX
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import option
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import (
    Specifications,
    export,
    first_feature,
    keys_of,
    reconcile,
    report_of,
    serve_trace,
)
from tests.processes import eventually

pytestmark = pytest.mark.slow


def test_a_full_read_notices_a_row_deleted_without_a_trace(exported: Client, specifications: Specifications) -> None:
    specifications.workspace.remove(first_feature(specifications))

    assert report_of(export(exported)).rows == 3
    reconcile(exported)

    assert eventually(lambda: keys_of(exported, "features") == ["feature-1", "feature-2"])
    report = exported.service.shared.jobs.list(name=RECONCILE)[0].result["sources"]
    assert [(each["mode"], each["missing"]) for each in report if each["source"] == "features"] == [("full", 1)]


def test_a_renamed_option_causes_a_full_read_and_a_new_option_does_not(
    exported: Client, specifications: Specifications
) -> None:
    column = specifications.features.column("Area")
    column.config = {"options": [{"id": "x", "name": "flow"}]}
    added = report_of(export(exported))
    column.config = {"options": [{"id": "x", "name": "stream"}]}
    for page in specifications.features.pages.values():
        # That does not count as an edit.
        page.values[column.id] = option("stream")

    renamed = report_of(export(exported))

    assert [each.data_sources[0].read for each in (added, renamed)] == [0, 3]
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "stream"


def test_a_full_read_notices_a_row_moved_elsewhere(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    workspace.move(first_feature(specifications), workspace.add_data_source("Elsewhere", {"Name": "title"}))

    reconcile(exported)

    assert eventually(lambda: keys_of(exported, "features") == ["feature-1", "feature-2"])


def test_a_full_read_has_a_schedule(exported: Client) -> None:
    assert exported.service.shared.jobs.registry.schedules[RECONCILE].text == "0 3 * * *"


def changed_mapping(specifications: Specifications) -> dict[str, Any]:
    sources = specifications.sources()
    sources["features"]["fields"]["area"] = "Status"
    return {"sources": sources}


def changed_type(specifications: Specifications) -> dict[str, Any]:
    specifications.workspace.change_type(specifications.features, "Area", "rich_text")
    return {"sources": specifications.sources()}


@pytest.mark.parametrize(
    "change",
    [
        changed_mapping,
        changed_type,
        lambda given: {"sources": given.sources(), "api_version": "2025-09-03"},
        lambda given: {"sources": given.sources(), "full_after_s": 3000.0},
    ],
    ids=["mapping", "type", "version", "age"],
)
def test_a_full_read_replaces_stored_rows_that_are_not_valid(
    exported: Client,
    serve: Serve,
    notion: FakeNotion,
    specifications: Specifications,
    change: Callable[[Specifications], dict[str, Any]],
) -> None:
    client = serve_trace(serve, notion, **change(specifications))

    assert report_of(export(client)).data_sources[0].read == 3


def test_edits_made_while_the_clock_of_notion_was_ahead_are_not_missed(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    workspace.wait(days=1)
    export(exported)
    workspace.wait(days=-1)
    workspace.edit(first_feature(specifications), {"Area": "clout"})

    assert report_of(export(exported)).mode == "full"
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


def test_more_moved_pages_than_lookups_allow_cause_a_full_read(
    exported: Client, workspace: Workspace, notion: FakeNotion
) -> None:
    services = exported.service.registry.services["trace"]
    for _ in range(LOOKUPS_MAX + 1):
        save_moved_page(services.db, workspace.make_id())
    before = len(notion.calls)

    report = report_of(export(exported))

    assert (report.mode, report.rows) == ("full", 3)
    assert len(notion.calls) - before < LOOKUPS_MAX
    assert list_moved_pages(services.db) == {}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trace.source SET columns = jsonb_build_object('what', 7)",
        "WITH old AS (UPDATE trace.source SET mapping = 'old') UPDATE trace.source_rows SET rows = %s",
    ],
    ids=["columns", "rows"],
)
def test_stored_state_in_another_format_causes_a_full_read(exported: Client, statement: str) -> None:
    services = exported.service.registry.services["trace"]
    row = {"id": "11111111-1111-4111-8111-111111111111", "data_source_id": "x"}
    with services.db.connection() as connection:
        connection.execute(statement, [json.dumps([row]).encode()][: statement.count("%s")])

    report = report_of(export(exported))

    assert (report.mode, report.rows) == ("full", 3)
