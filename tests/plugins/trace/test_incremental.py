"""An incremental export reads what has changed; what leaves no trace is found by a full read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.notion import faults
from tests.notion.server import Call, FakeNotion, Fault, ResponseError
from tests.notion.workspace import Page, Workspace
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

ALL = ["feature-0", "feature-1", "feature-2"]


def edited(specifications: Specifications, page: Page) -> None:
    specifications.workspace.edit(page, {"Name": "Other"})


def added(specifications: Specifications, page: Page) -> None:
    specifications.workspace.add_page(specifications.features, {"Name": "New"})


def trashed(specifications: Specifications, page: Page) -> None:
    specifications.workspace.trash(page)


def trashed_silently(specifications: Specifications, page: Page) -> None:
    # It is not documented whether that counts as an edit.
    before = page.last_edited_time
    specifications.workspace.trash(page)
    page.last_edited_time = before


@pytest.mark.parametrize(
    ("change", "keys", "read"),
    [
        (edited, ["feature-1", "feature-2", "other"], 1),
        (added, [*ALL, "new"], 1),
        (trashed, ["feature-1", "feature-2"], 0),
        (trashed_silently, ["feature-1", "feature-2"], 0),
    ],
)
def test_an_incremental_export_reads_only_changed_rows(
    exported: Client,
    specifications: Specifications,
    change: Callable[[Specifications, Page], None],
    keys: list[str],
    read: int,
) -> None:
    change(specifications, first_feature(specifications))

    report = report_of(export(exported))

    assert sorted(keys_of(exported, "features")) == keys
    assert (report.mode, report.data_sources[0].read, report.rows) == ("incremental", read, len(keys))


def ignoring_in_trash(call: Call) -> None:
    if call.is_query:
        call.body.pop("in_trash", None)


def rejecting_in_trash(call: Call) -> None:
    if call.is_query and call.body.get("in_trash"):
        raise ResponseError(400, "validation_error", "body failed validation: body.in_trash should be not present")


@pytest.mark.parametrize("fault", [ignoring_in_trash, rejecting_in_trash])
def test_without_access_to_the_trash_deleted_rows_are_found_by_a_full_read(
    exported: Client, notion: FakeNotion, specifications: Specifications, fault: Fault
) -> None:
    notion.faults.append(fault)
    specifications.workspace.trash(first_feature(specifications))

    report = report_of(export(exported))
    delayed = sorted(keys_of(exported, "features"))
    reconcile(exported)

    assert delayed == ALL
    assert report.data_sources[0].trashed is None
    assert "Notion does not list rows in the trash" in report.warnings[0]
    assert eventually(lambda: sorted(keys_of(exported, "features")) == ALL[1:])


def test_an_archived_row_that_is_listed_is_left_out_and_counted(
    exported: Client, specifications: Specifications, notion: FakeNotion
) -> None:
    page = first_feature(specifications)
    specifications.workspace.edit(page, {"Area": "clout"})

    def archive(answer: faults.Answer) -> None:
        for row in answer["results"]:
            row["is_archived"] = row["id"] == page.id

    notion.faults.append(faults.times(100, faults.altered(archive), faults.is_query()))

    report = report_of(export(exported))

    assert keys_of(exported, "features") == ["feature-1", "feature-2"]
    assert (report.rows, report.data_sources[0].trashed) == (2, 1)


@pytest.mark.parametrize("silently", [False, True])
def test_a_row_restored_from_the_trash_is_published_with_its_current_values(
    exported: Client, specifications: Specifications, *, silently: bool
) -> None:
    page = first_feature(specifications)
    specifications.workspace.trash(page)
    export(exported)
    specifications.workspace.wait(hours=1)
    before = page.last_edited_time
    specifications.workspace.edit(page, {"Area": "clout"})
    specifications.workspace.restore(page)
    if silently:
        page.last_edited_time = before

    export(exported)

    assert sorted(keys_of(exported, "features")) == ALL
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


@pytest.mark.parametrize("earlier_s", [0, 50])
def test_an_edit_right_after_an_export_is_not_missed(
    exported: Client, specifications: Specifications, earlier_s: int
) -> None:
    workspace = specifications.workspace
    workspace.wait(seconds=40)
    export(exported)
    # Notion rounds the time of the edit down to the minute, and may show it late: by its time it was before the export.
    workspace.wait(seconds=-earlier_s)
    workspace.edit(first_feature(specifications), {"Area": "clout"})
    workspace.wait(seconds=earlier_s)

    export(exported)

    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


def test_times_are_compared_by_the_clock_of_notion(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    specifications.workspace.now = datetime(2020, 1, 1, 12, tzinfo=UTC)
    sources = {"features": {"data_sources": [specifications.features.id]}}
    client = serve_trace(serve, notion, sources)
    export(client)
    specifications.workspace.wait(minutes=5)
    specifications.workspace.edit(first_feature(specifications), {"Name": "Other"})

    assert report_of(export(client)).mode == "incremental"
    assert sorted(keys_of(client, "features")) == ["feature-1", "feature-2", "other"]


def test_an_export_without_changes_needs_few_requests_and_publishes_nothing(exported: Client) -> None:
    report = export(exported)

    assert {each.outcome for each in report.datasets} == {"unchanged"}
    # For each source: its database twice, the schema, the edited rows twice, the trash.
    assert report.requests == 6 * 4
    assert report.sources[0].reconciled_at == report_of(export(exported)).reconciled_at


def test_a_silently_truncated_page_is_noticed_in_an_incremental_export(
    exported: Client, specifications: Specifications, notion: FakeNotion
) -> None:
    for page in specifications.features.pages.values():
        specifications.workspace.edit(page, {"Area": "clout"})
    # Features are read first.
    notion.faults.append(faults.once(faults.silently_truncated(), faults.is_query()))

    report = report_of(export(exported))

    assert report.data_sources[0].corrected > 0
    shown = exported.get("/trace/public/features/").json()["data"]
    assert {each["area"] for each in shown} == {"clout"}


def test_a_row_moved_between_data_sources_of_a_source_is_published_once(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    columns: dict[str, Any] = {
        each.name: (each.type, each.config) if each.config else each.type for each in specifications.features.columns
    }
    other = workspace.add_data_source("More features", columns, specifications.features.database_id)
    page = workspace.add_page(other, {"Name": "More"})

    first = report_of(export(exported))
    workspace.wait(hours=1)
    workspace.move(page, specifications.features)
    workspace.move(first_feature(specifications), other)
    second = report_of(export(exported))

    # Only the new data source is read completely.
    assert [(each.rows, each.read) for each in first.data_sources] == [(3, 0), (1, 1)]
    assert [(each.rows, each.read) for each in second.data_sources] == [(3, 1), (1, 1)]
    assert sorted(keys_of(exported, "features")) == [*ALL, "more"]


def test_a_renamed_column_is_found_in_every_later_export(exported: Client, specifications: Specifications) -> None:
    specifications.workspace.rename(specifications.features, "Area", "Part")

    reports = [report_of(export(exported, full=full)) for full in (False, False, True, True)]

    assert all("'Area' renamed" in each.warnings[0] for each in reports)
    # A rename alone changes no row.
    assert [each.data_sources[0].read for each in reports] == [0, 0, 3, 3]
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "flow"


def test_relations_are_resolved_again_if_only_their_targets_changed(
    exported: Client, specifications: Specifications
) -> None:
    [tag], [tier] = specifications.tags.pages.values(), specifications.tiers.pages.values()
    specifications.workspace.edit(tag, {"Name": "Public"})
    specifications.workspace.trash(tier)

    report = report_of(export(exported))

    shown = exported.get("/trace/public/features/feature-0/").json()["data"]
    assert (shown["tags"], shown["tier"]) == (["public"], None)
    assert (report.data_sources[0].read, report.links, report.unlinked) == (0, 6, 3)
