"""A minute with more rows than a query returns is split by unique id, last edit or title."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import SplitKey, choose_split
from tests.notion.faults import concurrently, is_query, once
from tests.notion.queries import compile_filter
from tests.notion.server import FakeNotion
from tests.notion.values import rich_text
from tests.notion.workspace import Column, DataSource, Page, Workspace, shown_time
from tests.plugins.trace.factories import data_source_reader, read_every_row, scan_rows

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
COLUMNS = [Column("title", "Name", "title"), Column("unid", "ID", "unique_id")]
SPLIT_KEYS = st.builds(
    SplitKey,
    number=st.none() | st.integers(1, 40),
    edited=st.integers(0, 3).map(lambda minutes: shown_time(NOW + timedelta(minutes=minutes))),
    title=st.text(alphabet="abAB ß", max_size=4),
)


def page_of(key: SplitKey) -> Page:
    """Return a row with this split key."""
    values = {"title": rich_text(key.title), "unid": {"prefix": None, "number": key.number}}
    return Page(str(uuid.uuid4()), "source", NOW, datetime.fromisoformat(key.edited), values)


def titled(title: str) -> SplitKey:
    """Return the split key of a row that has only a title."""
    return SplitKey(None, shown_time(NOW), title)


@example(keys=[titled("a  a"), titled("a")], other_keys=[])
@example(keys=[titled("aaaa"), titled("aaa"), titled("aaaaa")], other_keys=[])
@given(keys=st.lists(SPLIT_KEYS, min_size=2, max_size=20), other_keys=st.lists(SPLIT_KEYS, max_size=20))
def test_every_row_meets_a_condition_of_a_split_and_no_condition_is_met_by_all_rows(
    keys: Sequence[SplitKey], other_keys: Sequence[SplitKey]
) -> None:
    source = DataSource("source", "database", "Rows", COLUMNS)

    found = choose_split(keys, "unid", ())

    if found is None:
        assert len({(each.edited, each.title.casefold().strip()) for each in keys}) == 1
        return
    passes = [compile_filter(source, condition) for condition in found.conditions]
    assert all(any(passing(page_of(each)) for passing in passes) for each in (*keys, *other_keys))
    assert not any(all(passing(page_of(each)) for each in keys) for passing in passes)


def by_unique_id(workspace: Workspace, count: int) -> DataSource:
    """Add rows that differ only in their unique ids."""
    source = workspace.add_data_source("Rows", {"Name": "title", "ID": ("unique_id", {"prefix": "ROW"})})
    for _ in range(count):
        workspace.add_page(source, {"Name": "Same"})
    return source


def by_unique_id_of_most(workspace: Workspace, count: int) -> DataSource:
    """Add rows of which some have no unique id yet."""
    source = by_unique_id(workspace, count)
    for page in list(source.pages.values())[::15]:
        page.values[source.column("ID").id] = {"prefix": "ROW", "number": None}
    return source


def by_last_edit(workspace: Workspace, count: int) -> DataSource:
    """Add rows that were edited at different times."""
    source = workspace.add_data_source("Rows", {"Name": "title"})
    for number in range(count):
        page = workspace.add_page(source, {"Name": "Same"})
        page.last_edited_time += timedelta(minutes=number // 5)
    return source


def by_title(workspace: Workspace, count: int) -> DataSource:
    """Add rows with names, and some without."""
    source = workspace.add_data_source("Rows", {"Name": "title"})
    for number in range(count):
        workspace.add_page(source, {"Name": f"Row {number}" if number % 20 else ""})
    return source


def by_several(workspace: Workspace, count: int) -> DataSource:
    """Add rows that no single property tells apart."""
    source = workspace.add_data_source("Rows", {"Name": "title"})
    for number in range(count):
        page = workspace.add_page(source, {"Name": f"Row {'abcdefgh'[number % 8]}"})
        page.last_edited_time += timedelta(minutes=number % 3)
    return source


@pytest.mark.parametrize(
    ("add", "split_by"),
    [
        (by_unique_id, ("unique_id",)),
        (by_unique_id_of_most, ("unique_id",)),
        (by_last_edit, ("last_edited_time",)),
        (by_title, ("title",)),
        (by_several, ("last_edited_time", "title")),
    ],
)
@pytest.mark.parametrize("around", [0, 5])
def test_a_minute_with_more_rows_than_a_query_returns_is_read_completely(
    notion: FakeNotion,
    workspace: Workspace,
    add: Callable[[Workspace, int], DataSource],
    split_by: tuple[str, ...],
    around: int,
) -> None:
    source = add(workspace, 60)
    for number in range(around):
        for minutes in (-1, 1):
            workspace.add_page(source, {"Name": f"Around {number}"}, workspace.now + timedelta(minutes=minutes))
    notion.query_engine.rows_max = 7

    scan, ids = scan_rows(notion, source)

    assert sorted(ids) == sorted(source.pages)
    assert [each.split_by for each in scan.windows if each.split_by] == [split_by]


def test_the_report_says_how_a_minute_was_split_and_that_it_is_complete(
    notion: FakeNotion, workspace: Workspace
) -> None:
    source = by_unique_id(workspace, 20)
    workspace.add_page(source, {"Name": "Later"}, workspace.now + timedelta(minutes=1))
    notion.query_engine.rows_max = 12

    with data_source_reader(notion, source, {}) as reader:
        report = read_every_row(reader).report

    shown = [(each.start, each.expected, each.fetched, each.parts, each.split_by) for each in report.windows]
    assert shown == [
        (None, 0, 0, 1, ()),
        ("2026-11-21T12:00:00.000Z", 20, 20, 3, ("unique_id",)),
        ("2026-11-21T12:01:00.000Z", 1, 1, 1, ()),
    ]


def test_rows_that_nothing_tells_apart_are_refused_with_advice(notion: FakeNotion, workspace: Workspace) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title"})
    for _ in range(20):
        workspace.add_page(source, {"Name": "Same"})
    notion.query_engine.rows_max = 7

    with pytest.raises(NotionError, match=r"one minute, 2026-11-21T12:00.*add a column of unique ids"):
        scan_rows(notion, source)


def test_a_row_edited_while_its_minute_is_split_is_not_lost(notion: FakeNotion, workspace: Workspace) -> None:
    source = by_last_edit(workspace, 30)
    last = list(source.pages.values())[3]
    notion.query_engine.rows_max = 7
    workspace.wait(hours=1)
    notion.faults.append(once(concurrently(lambda: workspace.edit(last, {})), is_query(), after=2))

    _, ids = scan_rows(notion, source)

    assert set(ids) == set(source.pages)
