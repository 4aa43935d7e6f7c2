"""A scan returns every row of a data source, however many there are, or says why it cannot."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import find_live_page, is_trashed
from tests.notion.faults import altered, concurrently, expired_cursor, is_query, once, times
from tests.notion.server import FakeNotion, Fault
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.factories import data_source_reader, read_every_row, scan_rows, unlimited_client

Answer = dict[str, Any]


@pytest.fixture
def source(workspace: Workspace) -> DataSource:
    """A data source of 50 rows, created in 25 minutes."""
    made = workspace.add_data_source("Rows", {"Name": "title"})
    fill(workspace, made, 50, per_minute=2)
    return made


def fill(workspace: Workspace, source: DataSource, count: int, per_minute: int) -> None:
    """Add rows, so many per minute."""
    for number in range(count):
        created = workspace.now + timedelta(minutes=number // per_minute)
        workspace.add_page(source, {"Name": f"Row {number}"}, created)


def ignoring(name: str) -> Fault:
    """Ignore a parameter of queries."""
    return lambda call: call.body.pop(name, None) if call.is_query else None


def responding_with(**members: Any) -> Fault:
    """Replace members of responses."""
    return altered(lambda answer: answer.update(members))


@pytest.mark.parametrize("page_max", [1, 3, 100])
@pytest.mark.parametrize("rows_max", [7, 8, 50, 51])
def test_a_scan_returns_each_row_once(notion: FakeNotion, source: DataSource, rows_max: int, page_max: int) -> None:
    notion.query_engine.rows_max, notion.query_engine.page_max = rows_max, page_max

    _, ids = scan_rows(notion, source)

    assert sorted(ids) == sorted(source.pages)


def test_windows_start_where_a_query_was_cut_off(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.rows_max = 20

    scan, _ = scan_rows(notion, source)

    starts = [each.start for each in scan.windows]
    assert starts == [None, "2026-11-21T12:09:00.000Z", "2026-11-21T12:18:00.000Z"]
    assert [each.cut_off for each in scan.windows] == [True, True, False]


@pytest.mark.slow
def test_a_scan_reads_more_than_ten_thousand_rows_also_within_a_minute(
    notion: FakeNotion, workspace: Workspace
) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "ID": "unique_id"})
    fill(workspace, source, 4_000, per_minute=1_000)
    workspace.wait(minutes=10)
    fill(workspace, source, 10_100, per_minute=10_100)

    scan, ids = scan_rows(notion, source)

    assert len(ids) == len(set(ids)) == 14_100
    assert [(each.parts, each.split_by) for each in scan.windows if each.split_by] == [(3, ("unique_id",))]


@pytest.mark.parametrize("rows", [10_000, 10_001])
def test_a_query_that_ends_at_the_limit_counts_as_cut_off_without_a_request_status(
    notion: FakeNotion, workspace: Workspace, rows: int
) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title"})
    fill(workspace, source, rows, per_minute=100)
    notion.faults.append(responding_with(request_status=None))

    _, ids = scan_rows(notion, source)

    assert len(set(ids)) == rows


def test_a_query_counts_as_cut_off_if_only_its_first_page_says_so(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.rows_max, notion.query_engine.page_max = 20, 5
    complete: Fault = responding_with(request_status={"type": "complete"})
    notion.faults.append(lambda call: complete(call) if call.is_query and call.body.get("start_cursor") else None)

    _, ids = scan_rows(notion, source)

    assert len(ids) == 50


def test_a_cursor_is_followed_although_has_more_is_false(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.page_max = 5
    notion.faults.append(responding_with(has_more=False))

    _, ids = scan_rows(notion, source)

    assert len(ids) == 50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer.update(next_cursor=None), "no cursor"),
        (lambda answer: answer.update(next_cursor="again", has_more=True, results=[]), "repeat endlessly"),
        (lambda answer: answer.update(next_cursor=str(uuid.uuid4()), has_more=True, results=[]), "repeat endlessly"),
        (lambda answer: answer["results"].reverse(), "requested order"),
        (lambda answer: answer["results"][0].pop("created_time"), "capability to read content"),
    ],
)
def test_inconsistent_pages_are_refused(
    notion: FakeNotion, source: DataSource, change: Callable[[Answer], None], reason: str
) -> None:
    notion.query_engine.page_max = 5
    notion.faults += [times(30, altered(change), is_query()), ignoring("start_cursor")]

    with pytest.raises(NotionError, match=reason):
        scan_rows(notion, source)


def test_a_query_that_repeats_its_rows_endlessly_is_refused(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.page_max = 2
    notion.faults.append(times(30, ignoring("start_cursor"), is_query()))

    with pytest.raises(NotionError, match="repeat endlessly"):
        scan_rows(notion, source)


@pytest.mark.parametrize("per_minute", [2, 50])
def test_a_scan_that_makes_no_progress_is_refused(notion: FakeNotion, workspace: Workspace, per_minute: int) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "ID": "unique_id"})
    fill(workspace, source, 50, per_minute)
    notion.query_engine.rows_max = 20
    notion.faults.append(times(10, ignoring("filter"), is_query()))

    with pytest.raises(NotionError, match="return the same rows again"):
        scan_rows(notion, source)


def test_a_query_with_an_expired_cursor_starts_again(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.page_max = 5
    notion.faults.append(times(2, expired_cursor, is_query(), after=4))

    _, ids = scan_rows(notion, source)

    assert sorted(ids) == sorted(source.pages)


def test_a_query_whose_cursors_always_expire_is_refused(notion: FakeNotion, source: DataSource) -> None:
    notion.query_engine.page_max = 5
    notion.faults.append(expired_cursor)

    with pytest.raises(NotionError, match="start_cursor"):
        scan_rows(notion, source)


def test_a_row_edited_during_a_scan_is_not_lost(notion: FakeNotion, workspace: Workspace, source: DataSource) -> None:
    notion.query_engine.rows_max, notion.query_engine.page_max = 20, 5
    first = next(iter(source.pages.values()))
    workspace.wait(hours=1)
    notion.faults.append(once(concurrently(lambda: workspace.edit(first, {"Name": "Edited"})), is_query(), after=3))

    _, ids = scan_rows(notion, source)

    assert set(ids) == set(source.pages)


def test_a_scan_of_changes_returns_only_rows_edited_since(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    notion.query_engine.rows_max, notion.query_engine.page_max = 7, 3
    workspace.wait(hours=1)
    since = workspace.now
    edited = list(source.pages.values())[::3]
    for page in edited:
        workspace.edit(page, {"Name": "Edited"})

    _, ids = scan_rows(notion, source, edited_since=since.isoformat())

    assert sorted(ids) == sorted(page.id for page in edited)


def test_data_sources_among_the_pages_of_a_wiki_are_counted_and_left_out(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    notion.query_engine.rows_max = 7
    children = {workspace.add_child(source).id for _ in range(3)}

    scan, ids = scan_rows(notion, source)

    assert scan.nested_data_sources == 3
    assert sorted(ids) == sorted(source.pages.keys() - children)


def test_a_scan_of_the_trash_returns_trashed_rows(notion: FakeNotion, workspace: Workspace, source: DataSource) -> None:
    trashed = list(source.pages.values())[:4]
    for page in trashed:
        workspace.trash(page)

    _, ids = scan_rows(notion, source, in_trash=True)

    assert sorted(ids) == sorted(page.id for page in trashed)


def test_a_scan_of_the_trash_is_refused_if_notion_ignores_in_trash(notion: FakeNotion, source: DataSource) -> None:
    notion.faults.append(ignoring("in_trash"))

    with pytest.raises(NotionError, match="does not list rows in the trash") as caught:
        scan_rows(notion, source, in_trash=True)

    assert caught.value.kind == "invalid"


def test_an_archived_page_is_left_out_and_differs_from_a_missing_one(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    page = next(iter(source.pages.values()))
    workspace.archive(page)

    with data_source_reader(notion, source, {}) as reader:
        rows = read_every_row(reader).read
    with unlimited_client(notion) as client:
        found = find_live_page(client, page.id)
        in_trash = is_trashed(client.retrieve_page(page.id))

    assert page.id not in rows
    assert found is None
    assert in_trash


@pytest.mark.parametrize("api_version", ["2025-09-03", "2026-03-11"])
def test_ids_of_columns_are_sent_as_received(notion: FakeNotion, workspace: Workspace, api_version: str) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "Level": "number"})
    page = workspace.add_page(source, {"Name": "Row", "Level": 3})
    column = source.column("Level").id

    with unlimited_client(notion, api_version=api_version) as client:
        queried = client.query_data_source(source.id, filter_properties=[column])["results"][0]["properties"]
        alone = list(client.retrieve_property(page.id, column))

    assert "%" in column
    assert [each["number"] for each in (queried["Level"], *alone)] == [3, 3]
    assert len(queried) == 1
