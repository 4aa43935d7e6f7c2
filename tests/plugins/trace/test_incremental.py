"""An export reads what has changed; what leaves no trace is found where every row is read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.notion import faults
from tests.notion.calls import AnswerError, Call, Fault
from tests.notion.server import FakeNotion
from tests.notion.workspace import Page, Workspace
from tests.plugins.trace.exports import Specifications, first_of, keys_of, reconcile, refresh, report_of, serve_trace
from tests.processes import eventually

ALL = ["feature-0", "feature-1", "feature-2"]


def edited(specifications: Specifications, page: Page) -> None:
    specifications.workspace.edit(page, {"Name": "Other"})


def added(specifications: Specifications, page: Page) -> None:
    specifications.workspace.add_page(specifications.features, {"Name": "New"})


def trashed(specifications: Specifications, page: Page) -> None:
    specifications.workspace.trash(page)


def trashed_silently(specifications: Specifications, page: Page) -> None:
    # Whether that counts as an edit is not documented.
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
def test_only_what_has_changed_is_read(
    exported: Client,
    specifications: Specifications,
    change: Callable[[Specifications, Page], None],
    keys: list[str],
    read: int,
) -> None:
    change(specifications, first_of(specifications))

    report = report_of(refresh(exported))

    assert sorted(keys_of(exported, "features")) == keys
    assert (report.mode, report.data_sources[0].read, report.rows) == ("incremental", read, len(keys))


def not_listening(call: Call) -> None:
    if call.is_query:
        call.body.pop("in_trash", None)


def refusing(call: Call) -> None:
    if call.is_query and call.body.get("in_trash"):
        raise AnswerError(400, "validation_error", "body failed validation: body.in_trash should be not present")


@pytest.mark.parametrize("fault", [not_listening, refusing])
def test_where_the_trash_cannot_be_asked_for_reading_every_row_finds_what_is_deleted(
    exported: Client, notion: FakeNotion, specifications: Specifications, fault: Fault
) -> None:
    notion.faults.append(fault)
    specifications.workspace.trash(first_of(specifications))

    report = report_of(refresh(exported))
    held = sorted(keys_of(exported, "features"))
    reconcile(exported)

    assert held == ALL
    assert report.data_sources[0].trashed is None
    assert "rows in the trash cannot be asked for" in report.warnings[0]
    assert eventually(lambda: sorted(keys_of(exported, "features")) == ALL[1:])


def test_an_archived_row_that_is_still_listed_is_left_out_and_counted(
    exported: Client, specifications: Specifications, notion: FakeNotion
) -> None:
    page = first_of(specifications)
    specifications.workspace.edit(page, {"Area": "clout"})

    def archive(answer: faults.Answer) -> None:
        for row in answer["results"]:
            row["is_archived"] = row["id"] == page.id

    notion.faults.append(faults.times(100, faults.altered(archive), faults.queries()))

    report = report_of(refresh(exported))

    assert keys_of(exported, "features") == ["feature-1", "feature-2"]
    assert (report.rows, report.data_sources[0].trashed) == (2, 1)


@pytest.mark.parametrize("silently", [False, True])
def test_a_row_that_comes_out_of_the_trash_is_there_again_as_it_is_now(
    exported: Client, specifications: Specifications, *, silently: bool
) -> None:
    page = first_of(specifications)
    specifications.workspace.trash(page)
    refresh(exported)
    specifications.workspace.wait(hours=1)
    before = page.last_edited_time
    specifications.workspace.edit(page, {"Area": "clout"})
    specifications.workspace.restore(page)
    if silently:
        page.last_edited_time = before

    refresh(exported)

    assert sorted(keys_of(exported, "features")) == ALL
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


@pytest.mark.parametrize("earlier_s", [0, 50])
def test_an_edit_that_shows_right_after_an_export_is_not_missed(
    exported: Client, specifications: Specifications, earlier_s: int
) -> None:
    workspace = specifications.workspace
    workspace.wait(seconds=40)
    refresh(exported)
    # Notion says it was at the beginning of its minute, and may have shown it late: that was before the export.
    workspace.wait(seconds=-earlier_s)
    workspace.edit(first_of(specifications), {"Area": "clout"})
    workspace.wait(seconds=earlier_s)

    refresh(exported)

    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "clout"


def test_time_is_told_by_the_clock_of_notion(serve: Serve, notion: FakeNotion, specifications: Specifications) -> None:
    specifications.workspace.now = datetime(2020, 1, 1, 12, tzinfo=UTC)
    sources = {"features": {"data_sources": [specifications.features.id]}}
    client = serve_trace(serve, notion, sources)
    refresh(client)
    specifications.workspace.wait(minutes=5)
    specifications.workspace.edit(first_of(specifications), {"Name": "Other"})

    assert report_of(refresh(client)).mode == "incremental"
    assert sorted(keys_of(client, "features")) == ["feature-1", "feature-2", "other"]


def test_an_export_that_finds_nothing_new_asks_little_and_changes_nothing(exported: Client) -> None:
    certificate = refresh(exported)

    assert {each.outcome for each in certificate.datasets} == {"unchanged"}
    # Of each source: its database twice, the schema, what was edited twice, the trash.
    assert certificate.requests == 6 * 4
    assert certificate.sources[0].reconciled_at == report_of(refresh(exported)).reconciled_at


def test_a_page_that_is_silently_short_is_noticed_among_the_changes_too(
    exported: Client, specifications: Specifications, notion: FakeNotion
) -> None:
    for page in specifications.features.pages.values():
        specifications.workspace.edit(page, {"Area": "clout"})
    # The features come first.
    notion.faults.append(faults.once(faults.silently_short(), faults.queries()))

    report = report_of(refresh(exported))

    assert report.data_sources[0].corrected > 0
    shown = exported.get("/trace/public/features/").json()["data"]
    assert {each["area"] for each in shown} == {"clout"}


def test_a_row_that_moves_to_another_data_source_of_ours_is_there_once(
    exported: Client, specifications: Specifications, workspace: Workspace
) -> None:
    columns: dict[str, Any] = {
        each.name: (each.type, each.config) if each.config else each.type for each in specifications.features.columns
    }
    other = workspace.add_data_source("More features", columns, specifications.features.database_id)
    page = workspace.add_page(other, {"Name": "More"})

    first = report_of(refresh(exported))
    workspace.wait(hours=1)
    workspace.move(page, specifications.features)
    workspace.move(first_of(specifications), other)
    second = report_of(refresh(exported))

    # A data source that is new is read whole, the other is not.
    assert [(each.rows, each.read) for each in first.data_sources] == [(3, 0), (1, 1)]
    assert [(each.rows, each.read) for each in second.data_sources] == [(3, 1), (1, 1)]
    assert sorted(keys_of(exported, "features")) == [*ALL, "more"]


def test_a_renamed_column_is_found_in_every_later_export(exported: Client, specifications: Specifications) -> None:
    specifications.workspace.rename(specifications.features, "Area", "Part")

    reports = [report_of(refresh(exported, full=full)) for full in (False, False, True, True)]

    assert all("'Area' renamed" in each.warnings[0] for each in reports)
    # A rename alone does not change a row.
    assert [each.data_sources[0].read for each in reports] == [0, 0, 3, 3]
    assert exported.get("/trace/public/features/feature-0/").json()["data"]["area"] == "flow"


def test_relations_are_followed_anew_where_only_what_they_lead_to_has_changed(
    exported: Client, specifications: Specifications
) -> None:
    [tag], [tier] = specifications.tags.pages.values(), specifications.tiers.pages.values()
    specifications.workspace.edit(tag, {"Name": "Public"})
    specifications.workspace.trash(tier)

    report = report_of(refresh(exported))

    shown = exported.get("/trace/public/features/feature-0/").json()["data"]
    assert (shown["tags"], shown["tier"]) == (["public"], None)
    assert (report.data_sources[0].read, report.links, report.unlinked) == (0, 6, 3)
