"""Where what has changed does not say enough, every row is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.export.reading import DOUBTFUL_MAX
from plugins.trace.export.refresh import RECONCILE
from plugins.trace.store import list_moved, save_moved
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import option
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import Specifications, first_of, keys_of, reconcile, refresh, report_of, serve_trace
from tests.processes import eventually


def test_a_row_that_went_without_a_trace_is_found_where_every_row_is_read(
    exported: Client, specifications: Specifications
) -> None:
    specifications.workspace.remove(first_of(specifications))

    assert report_of(refresh(exported)).rows == 3
    reconcile(exported)

    assert eventually(lambda: keys_of(exported, "features") == ["feature-1", "feature-2"])
    report = exported.service.shared.jobs.list(name=RECONCILE)[0].result["sources"]
    assert [(each["mode"], each["missing"]) for each in report if each["source"] == "features"] == [("full", 1)]


def test_every_row_is_read_where_an_option_is_renamed_and_not_where_one_is_new(
    exported: Client, specifications: Specifications
) -> None:
    column = specifications.features.column("Area")
    column.config = {"options": [{"id": "x", "name": "flow"}]}
    added = report_of(refresh(exported))
    column.config = {"options": [{"id": "x", "name": "stream"}]}
    for page in specifications.features.pages.values():
        # Nobody has edited them.
        page.values[column.id] = option("stream")

    renamed = report_of(refresh(exported))

    assert [each.data_sources[0].read for each in (added, renamed)] == [0, 3]
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "stream"


def test_a_row_that_moved_elsewhere_is_found_where_every_row_is_read(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    workspace.move(first_of(specifications), workspace.add_data_source("Elsewhere", {"Name": "title"}))

    reconcile(exported)

    assert eventually(lambda: keys_of(exported, "features") == ["feature-1", "feature-2"])


def test_every_row_is_read_on_a_schedule(exported: Client) -> None:
    assert exported.service.shared.jobs.catalogue.schedules[RECONCILE].text == "0 3 * * *"


def renamed_mapping(specifications: Specifications) -> dict[str, Any]:
    sources = specifications.sources()
    sources["features"]["fields"]["area"] = "Status"
    return {"sources": sources}


def other_type(specifications: Specifications) -> dict[str, Any]:
    specifications.workspace.change_type(specifications.features, "Area", "rich_text")
    return {"sources": specifications.sources()}


@pytest.mark.parametrize(
    "change",
    [
        renamed_mapping,
        other_type,
        lambda given: {"sources": given.sources(), "api_version": "2025-09-03"},
        lambda given: {"sources": given.sources(), "full_after_s": 3000.0},
    ],
    ids=["mapping", "type", "version", "age"],
)
def test_every_row_is_read_where_what_is_held_says_nothing(
    exported: Client,
    serve: Serve,
    notion: FakeNotion,
    specifications: Specifications,
    change: Callable[[Specifications], dict[str, Any]],
) -> None:
    client = serve_trace(serve, notion, **change(specifications))

    assert report_of(refresh(client)).data_sources[0].read == 3


def test_what_was_edited_while_the_clock_of_notion_was_ahead_is_not_missed(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    workspace.wait(days=1)
    refresh(exported)
    workspace.wait(days=-1)
    workspace.edit(first_of(specifications), {"Area": "clout"})

    assert report_of(refresh(exported)).mode == "full"
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


def test_where_more_pages_were_moved_than_can_be_looked_at_every_row_is_read(
    exported: Client, workspace: Workspace, notion: FakeNotion
) -> None:
    services = exported.service.registry.services["trace"]
    for _ in range(DOUBTFUL_MAX + 1):
        save_moved(services.db, workspace.make_id())
    before = len(notion.calls)

    report = report_of(refresh(exported))

    assert (report.mode, report.rows) == ("full", 3)
    assert len(notion.calls) - before < DOUBTFUL_MAX
    assert list_moved(services.db) == {}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trace.source SET columns = jsonb_build_object('what', 7)",
        "WITH old AS (UPDATE trace.source SET mapping = 'old') UPDATE trace.source_rows SET rows = %s",
    ],
    ids=["columns", "rows"],
)
def test_what_another_version_kept_does_not_stand_in_the_way(exported: Client, statement: str) -> None:
    services = exported.service.registry.services["trace"]
    row = {"id": "11111111-1111-4111-8111-111111111111", "data_source_id": "x"}
    with services.db.connection() as connection:
        connection.execute(statement, [json.dumps([row]).encode()][: statement.count("%s")])

    report = report_of(refresh(exported))

    assert (report.mode, report.rows) == ("full", 3)
