"""A minute that has more rows than a query gives is split by what tells its rows apart."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.splitting import Mark, split
from tests.notion.faults import meanwhile, once, queries
from tests.notion.filters import read_filter
from tests.notion.server import FakeNotion
from tests.notion.values import rich_text
from tests.notion.workspace import Column, DataSource, Page, Workspace, shown_time
from tests.plugins.trace.walking import reading, walk_over

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
COLUMNS = [Column("title", "Name", "title"), Column("unid", "ID", "unique_id")]
MARKS = st.builds(
    Mark,
    number=st.none() | st.integers(1, 40),
    edited=st.integers(0, 3).map(lambda minutes: shown_time(NOW + timedelta(minutes=minutes))),
    title=st.text(alphabet="abAB ß", max_size=4),
)


def page_of(mark: Mark) -> Page:
    """Return a row that has such a mark."""
    values = {"title": rich_text(mark.title), "unid": {"prefix": None, "number": mark.number}}
    return Page(str(uuid.uuid4()), "source", NOW, datetime.fromisoformat(mark.edited), values)


def titled(title: str) -> Mark:
    """Return the mark of a row that has nothing but a title."""
    return Mark(None, shown_time(NOW), title)


@example(seen=[titled("a  a"), titled("a")], others=[])
@example(seen=[titled("aaaa"), titled("aaa"), titled("aaaaa")], others=[])
@given(seen=st.lists(MARKS, min_size=2, max_size=20), others=st.lists(MARKS, max_size=20))
def test_each_row_meets_a_condition_and_none_is_met_by_all_that_were_seen(
    seen: Sequence[Mark], others: Sequence[Mark]
) -> None:
    source = DataSource("source", "database", "Rows", COLUMNS)

    found = split(seen, "unid", ())

    if found is None:
        assert len({(each.edited, each.title.casefold().strip()) for each in seen}) == 1
        return
    passes = [read_filter(source, condition) for condition in found.conditions]
    assert all(any(passing(page_of(each)) for passing in passes) for each in (*seen, *others))
    assert not any(all(passing(page_of(each)) for each in seen) for passing in passes)


def by_unique_id(workspace: Workspace, count: int) -> DataSource:
    """Add rows that have nothing but their unique ids."""
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
    """Add rows that nothing alone tells apart."""
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
def test_a_minute_is_read_whole(
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
    notion.querying.rows_max = 7

    walk, ids = walk_over(notion, source)

    assert sorted(ids) == sorted(source.pages)
    assert [each.split_by for each in walk.windows if each.split_by] == [split_by]


def test_the_certificate_says_how_a_minute_was_split_and_that_all_of_it_came(
    notion: FakeNotion, workspace: Workspace
) -> None:
    source = by_unique_id(workspace, 20)
    workspace.add_page(source, {"Name": "Later"}, workspace.now + timedelta(minutes=1))
    notion.querying.rows_max = 12

    with reading(notion, source, {}) as reader:
        report = reader.full().report

    shown = [(each.start, each.expected, each.fetched, each.parts, each.split_by) for each in report.windows]
    assert shown == [
        (None, 0, 0, 1, ()),
        ("2026-11-21T12:00:00.000Z", 20, 20, 3, ("unique_id",)),
        ("2026-11-21T12:01:00.000Z", 1, 1, 1, ()),
    ]


def test_rows_that_nothing_tells_apart_are_refused_with_what_would_help(
    notion: FakeNotion, workspace: Workspace
) -> None:
    source = workspace.add_data_source("Rows", {"Name": "title"})
    for _ in range(20):
        workspace.add_page(source, {"Name": "Same"})
    notion.querying.rows_max = 7

    with pytest.raises(NotionError, match=r"one minute, 2026-11-21T12:00.*column of unique ids would"):
        walk_over(notion, source)


def test_a_row_that_is_edited_while_its_minute_is_split_is_not_left_out(
    notion: FakeNotion, workspace: Workspace
) -> None:
    source = by_last_edit(workspace, 30)
    last = list(source.pages.values())[3]
    notion.querying.rows_max = 7
    workspace.wait(hours=1)
    notion.faults.append(once(meanwhile(lambda: workspace.edit(last, {})), queries(), after=2))

    _, ids = walk_over(notion, source)

    assert set(ids) == set(source.pages)
