"""A walk gives every row, however many there are, or says why it cannot."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from plugins.trace.export.rows import find_page
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import is_trashed
from tests.notion.calls import Fault
from tests.notion.faults import altered, meanwhile, once, queries, refusing_cursor, times
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.walking import asking_freely, reading, walk_over

Answer = dict[str, Any]


@pytest.fixture
def source(workspace: Workspace) -> DataSource:
    """A data source of 50 rows, made in the course of 25 minutes."""
    made = workspace.add_data_source("Rows", {"Name": "title"})
    fill(workspace, made, 50, per_minute=2)
    return made


def fill(workspace: Workspace, source: DataSource, count: int, per_minute: int) -> None:
    """Add rows, so many a minute."""
    for number in range(count):
        created = workspace.now + timedelta(minutes=number // per_minute)
        workspace.add_page(source, {"Name": f"Row {number}"}, created)


def forgetting(name: str) -> Fault:
    """Let Notion not know what is asked for."""
    return lambda call: call.body.pop(name, None) if call.is_query else None


def answering(**changed: Any) -> Fault:
    """Let answers say something else."""
    return altered(lambda answer: answer.update(changed))


@pytest.mark.parametrize("page_max", [1, 3, 100])
@pytest.mark.parametrize("rows_max", [7, 8, 50, 51])
def test_a_walk_gives_each_row_once(notion: FakeNotion, source: DataSource, rows_max: int, page_max: int) -> None:
    notion.querying.rows_max, notion.querying.page_max = rows_max, page_max

    _, ids = walk_over(notion, source)

    assert sorted(ids) == sorted(source.pages)


def test_windows_begin_where_a_query_was_cut_off(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.rows_max = 20

    walk, _ = walk_over(notion, source)

    starts = [each.start for each in walk.windows]
    assert starts == [None, "2026-11-21T12:09:00.000Z", "2026-11-21T12:18:00.000Z"]
    assert [each.cut_off for each in walk.windows] == [True, True, False]


def test_a_walk_gets_past_ten_thousand_rows_and_a_minute_of_more(notion: FakeNotion, workspace: Workspace) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "ID": "unique_id"})
    fill(workspace, source, 4_000, per_minute=1_000)
    workspace.wait(minutes=10)
    fill(workspace, source, 10_100, per_minute=10_100)

    walk, ids = walk_over(notion, source)

    assert len(ids) == len(set(ids)) == 14_100
    assert [(each.parts, each.split_by) for each in walk.windows if each.split_by] == [(3, ("unique_id",))]


@pytest.mark.parametrize("rows", [10_000, 10_001])
def test_a_query_that_ends_at_the_limit_counts_as_cut_off_though_it_says_nothing(
    notion: FakeNotion, workspace: Workspace, rows: int
) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title"})
    fill(workspace, source, rows, per_minute=100)
    notion.faults.append(answering(request_status=None))

    _, ids = walk_over(notion, source)

    assert len(set(ids)) == rows


def test_a_query_counts_as_cut_off_though_only_its_first_page_says_so(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.rows_max, notion.querying.page_max = 20, 5
    complete: Fault = answering(request_status={"type": "complete"})
    notion.faults.append(lambda call: complete(call) if call.is_query and call.body.get("start_cursor") else None)

    _, ids = walk_over(notion, source)

    assert len(ids) == 50


def test_a_cursor_is_followed_though_nothing_more_is_promised(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.page_max = 5
    notion.faults.append(answering(has_more=False))

    _, ids = walk_over(notion, source)

    assert len(ids) == 50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer.update(next_cursor=None), "no cursor"),
        (lambda answer: answer.update(next_cursor="again", has_more=True, results=[]), "circle"),
        (lambda answer: answer.update(next_cursor=str(uuid.uuid4()), has_more=True, results=[]), "circle"),
        (lambda answer: answer["results"].reverse(), "another order"),
        (lambda answer: answer["results"][0].pop("created_time"), "may not read content"),
    ],
)
def test_a_walk_that_cannot_be_right_is_refused(
    notion: FakeNotion, source: DataSource, change: Callable[[Answer], None], reason: str
) -> None:
    notion.querying.page_max = 5
    notion.faults += [times(30, altered(change), queries()), forgetting("start_cursor")]

    with pytest.raises(NotionError, match=reason):
        walk_over(notion, source)


def test_a_query_that_gives_the_same_rows_for_ever_is_refused(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.page_max = 2
    notion.faults.append(times(30, forgetting("start_cursor"), queries()))

    with pytest.raises(NotionError, match="circle"):
        walk_over(notion, source)


@pytest.mark.parametrize("per_minute", [2, 50])
def test_a_walk_that_gets_no_further_is_refused(notion: FakeNotion, workspace: Workspace, per_minute: int) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "ID": "unique_id"})
    fill(workspace, source, 50, per_minute)
    notion.querying.rows_max = 20
    notion.faults.append(times(10, forgetting("filter"), queries()))

    with pytest.raises(NotionError, match="lead no further"):
        walk_over(notion, source)


def test_a_query_whose_cursor_is_not_valid_any_more_begins_again(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.page_max = 5
    notion.faults.append(times(2, refusing_cursor, queries(), after=4))

    _, ids = walk_over(notion, source)

    assert sorted(ids) == sorted(source.pages)


def test_cursors_that_are_never_valid_are_given_up(notion: FakeNotion, source: DataSource) -> None:
    notion.querying.page_max = 5
    notion.faults.append(refusing_cursor)

    with pytest.raises(NotionError, match="start_cursor"):
        walk_over(notion, source)


def test_a_row_that_is_edited_meanwhile_is_not_left_out(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    notion.querying.rows_max, notion.querying.page_max = 20, 5
    first = next(iter(source.pages.values()))
    workspace.wait(hours=1)
    notion.faults.append(once(meanwhile(lambda: workspace.edit(first, {"Name": "Edited"})), queries(), after=3))

    _, ids = walk_over(notion, source)

    assert set(ids) == set(source.pages)


def test_only_rows_that_were_edited_since_then_come(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    notion.querying.rows_max, notion.querying.page_max = 7, 3
    workspace.wait(hours=1)
    since = workspace.now
    edited = list(source.pages.values())[::3]
    for page in edited:
        workspace.edit(page, {"Name": "Edited"})

    _, ids = walk_over(notion, source, edited_since=since.isoformat())

    assert sorted(ids) == sorted(page.id for page in edited)


def test_data_sources_among_the_pages_of_a_wiki_are_counted_and_left_out(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    notion.querying.rows_max = 7
    children = {workspace.add_child(source).id for _ in range(3)}

    walk, ids = walk_over(notion, source)

    assert walk.others == 3
    assert sorted(ids) == sorted(source.pages.keys() - children)


def test_the_trash_can_be_asked_for(notion: FakeNotion, workspace: Workspace, source: DataSource) -> None:
    trashed = list(source.pages.values())[:4]
    for page in trashed:
        workspace.trash(page)

    _, ids = walk_over(notion, source, in_trash=True)

    assert sorted(ids) == sorted(page.id for page in trashed)


def test_rows_that_are_not_in_the_trash_are_not_taken_for_such_where_notion_does_not_listen(
    notion: FakeNotion, source: DataSource
) -> None:
    notion.faults.append(forgetting("in_trash"))

    with pytest.raises(NotionError, match="cannot be asked for") as caught:
        walk_over(notion, source, in_trash=True)

    assert caught.value.kind == "invalid"


def test_an_archived_page_is_no_row_and_can_be_told_from_one_that_is_missing(
    notion: FakeNotion, workspace: Workspace, source: DataSource
) -> None:
    page = next(iter(source.pages.values()))
    workspace.archive(page)

    with reading(notion, source, {}) as reader:
        rows = reader.full().fresh
    with asking_freely(notion) as api:
        found = find_page(api, page.id)
        in_trash = is_trashed(api.page(page.id))

    assert page.id not in rows
    assert found is None
    assert in_trash


@pytest.mark.parametrize("api_version", ["2025-09-03", "2026-03-11"])
def test_ids_of_columns_are_sent_as_they_came(notion: FakeNotion, workspace: Workspace, api_version: str) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title", "Level": "number"})
    page = workspace.add_page(source, {"Name": "Row", "Level": 3})
    column = source.column("Level").id

    with asking_freely(notion, api_version=api_version) as api:
        queried = api.query(source.id, filter_properties=[column])["results"][0]["properties"]
        alone = list(api.property_items(page.id, column))

    assert "%" in column
    assert [each["number"] for each in (queried["Level"], *alone)] == [3, 3]
    assert len(queried) == 1
