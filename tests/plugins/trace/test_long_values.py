"""Values that are longer than a page shows are read to their end, and only those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pytest

from plugins.trace.notion.errors import NotionError
from tests.notion import values
from tests.notion.calls import Call
from tests.notion.faults import altered, failing, meanwhile, once, times
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource, Page, Workspace
from tests.plugins.trace.walking import is_item, reading

# More than two pages of a property's items.
MANY = 230


class Table:
    """A table whose rows lead to rows of another."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.targets = workspace.add_data_source(
            "Targets", {"Name": "title", "Estimate": "number", "Due": "date", "Owners": "people", "Text": "rich_text"}
        )
        self.source = workspace.add_data_source(
            "Rows",
            {
                "Name": "title",
                "Text": "rich_text",
                "Links": ("relation", {"data_source_id": self.targets.id}),
                "People": "people",
                "Formula": ("formula", {"expression": 'prop("Links").length()'}),
            },
        )

    def add_targets(self, count: int) -> list[Page]:
        """Add rows to lead to: each with an estimate of 1, and a day of its own."""
        return [
            self.workspace.add_page(
                self.targets,
                {
                    "Name": f"Target {number}",
                    "Estimate": 1,
                    "Due": values.date(f"2026-{12 - number // 28:02d}-{28 - number % 28:02d}"),
                    "Owners": [values.person(f"P{number}"), values.person(f"Q{number}")],
                    "Text": values.rich_text(f"Text {number}"),
                },
            )
            for number in range(count)
        ]

    def add_row(self, links: Sequence[Page], **more: Any) -> Page:
        """Add a row that leads to these."""
        return self.workspace.add_page(self.source, {"Name": "Row", "Links": list(links), **more})

    def add_rollup(self, function: str, target: str) -> None:
        """Add a column that sums up a column of what is led to."""
        config = {
            "function": function,
            "relation_property_id": unquote(self.source.column("Links").id),
            "rollup_property_id": unquote(self.targets.column(target).id),
        }
        added = self.workspace.add_data_source("Other", {"Name": "title", "Rollup": ("rollup", config)})
        self.source.columns.append(added.column("Rollup"))


@pytest.fixture
def table(workspace: Workspace) -> Table:
    """Two tables without rows."""
    return Table(workspace)


def read_one(notion: FakeNotion, source: DataSource, name: str) -> Any:
    """Read the column of that name from the only row."""
    with reading(notion, source, {"value": name}) as reader:
        (row,) = reader.full().fresh.values()
    return row.properties["value"]


def items_asked(notion: FakeNotion) -> int:
    """Tell how many requests were for one property alone."""
    return sum(1 for call in notion.calls if is_item(call))


@pytest.mark.parametrize("count", [0, 1, 25, 26, MANY])
def test_a_relation_is_read_whole(notion: FakeNotion, table: Table, count: int) -> None:
    links = table.add_targets(count)
    table.add_row(links)

    assert read_one(notion, table.source, "Links") == [page.id for page in links]
    assert items_asked(notion) == {26: 1, MANY: 3}.get(count, 0)


@pytest.mark.parametrize(("count", "requests"), [(24, 0), (25, 1), (MANY, 3)])
def test_people_are_read_whole(notion: FakeNotion, table: Table, count: int, requests: int) -> None:
    names = [f"P{number}" for number in range(count)]
    table.add_row([], People=[values.person(name) for name in names])

    assert read_one(notion, table.source, "People") == names
    # Of 25 nobody knows whether they are all.
    assert items_asked(notion) == requests


@pytest.mark.parametrize("name", ["Name", "Text"])
@pytest.mark.parametrize(("count", "requests"), [(24, 0), (26, 1), (MANY, 5)])
def test_texts_with_many_mentions_are_read_whole(
    notion: FakeNotion, table: Table, name: str, count: int, requests: int
) -> None:
    parts = [part for each in range(count) for part in (*values.rich_text("+"), values.page_mention(f"M{each}"))]
    table.add_row([], **{name: parts})

    assert read_one(notion, table.source, name) == "".join(f"+M{each}" for each in range(count))
    assert items_asked(notion) == requests


def test_a_long_text_without_mentions_is_all_there(notion: FakeNotion, table: Table) -> None:
    table.add_row([], Text=[part for _ in range(90) for part in values.rich_text("word ", bold=True)])

    assert read_one(notion, table.source, "Text") == "word " * 90
    assert items_asked(notion) == 0


@pytest.mark.parametrize("count", [25, MANY])
@pytest.mark.parametrize(
    ("function", "target"),
    [("sum", "Estimate"), ("count", "Name"), ("earliest_date", "Due"), ("show_original", "Name")],
)
def test_a_rollup_is_calculated_over_all_relations(
    notion: FakeNotion, table: Table, function: str, target: str, count: int
) -> None:
    table.add_row(table.add_targets(count))
    table.add_rollup(function, target)

    value = read_one(notion, table.source, "Rollup")

    earliest = f"2026-{12 - (count - 1) // 28:02d}-{28 - (count - 1) % 28:02d}"
    assert (
        value
        == {
            "sum": count,
            "count": count,
            "earliest_date": values.date(earliest),
            "show_original": [f"Target {number}" for number in range(count)],
        }[function]
    )
    assert items_asked(notion) == (0 if count == 25 else 3)


def test_a_rollup_of_lists_is_flat(notion: FakeNotion, table: Table) -> None:
    table.add_row(table.add_targets(30))
    table.add_rollup("show_original", "Owners")

    assert read_one(notion, table.source, "Rollup") == [f"{who}{each}" for each in range(30) for who in "PQ"]


def test_a_rollup_over_a_relation_that_is_not_to_be_seen_is_read_by_itself(notion: FakeNotion, table: Table) -> None:
    table.add_row(table.add_targets(30))
    table.add_rollup("sum", "Estimate")
    hidden = table.source.column("Links").id
    # As if the connection had no access to where it leads.
    hide = altered(lambda answer: answer.get("properties", {}).pop("Links", None))
    notion.faults.append(lambda call: hide(call) if call.path[0] == "data_sources" else None)

    assert read_one(notion, table.source, "Rollup") == 30
    assert hidden not in str([call.query for call in notion.calls])


@pytest.mark.parametrize("function", ["median", "show_unique"])
def test_what_notion_does_not_calculate_over_many_relations_is_refused(
    notion: FakeNotion, table: Table, function: str
) -> None:
    table.add_row(table.add_targets(26))
    table.add_rollup(function, "Estimate")

    with pytest.raises(NotionError, match=f"'Rollup': Notion could not calculate it: {function} is 'unsupported'"):
        read_one(notion, table.source, "Rollup")


def test_texts_of_several_parts_in_a_long_rollup_are_refused(notion: FakeNotion, table: Table) -> None:
    links = table.add_targets(30)
    table.workspace.edit(links[0], {"Text": [*values.rich_text("a"), *values.rich_text("b", bold=True)]})
    table.add_row(links)
    table.add_rollup("show_original", "Text")

    with pytest.raises(NotionError, match="Rollup shows texts of several parts"):
        read_one(notion, table.source, "Rollup")


@pytest.mark.parametrize(("count", "whole"), [(25, False), (26, True)])
def test_a_formula_is_read_by_itself_where_a_relation_is_long(
    notion: FakeNotion, table: Table, count: int, whole: bool
) -> None:
    given = values.Calculated(values.formula("number", 25), values.formula("number", count))
    table.add_row(table.add_targets(count), Formula=given)

    assert read_one(notion, table.source, "Formula") == count
    assert items_asked(notion) == (1 if whole else 0)


def test_columns_that_are_not_mapped_cost_nothing(notion: FakeNotion, table: Table) -> None:
    table.add_row(table.add_targets(30))

    read_one(notion, table.source, "Text")

    assert items_asked(notion) == 0


def test_a_row_that_is_edited_before_its_long_values_are_read_is_read_again(
    notion: FakeNotion, workspace: Workspace, table: Table
) -> None:
    links = table.add_targets(60)
    page = table.add_row(links[:30], Text="before")
    workspace.wait(minutes=5)
    edit = meanwhile(lambda: workspace.edit(page, {"Links": links, "Text": "after"}))
    notion.faults.append(once(edit, is_item))

    with reading(notion, table.source, {"links": "Links", "text": "Text"}) as reader:
        rows = reader.full()

    assert rows.fresh[page.id].properties == {"links": [each.id for each in links], "text": "after"}
    assert rows.report.corrected == 1


def test_a_row_that_is_deleted_before_its_long_values_are_read_is_left_out(
    notion: FakeNotion, workspace: Workspace, table: Table
) -> None:
    page = table.add_row(table.add_targets(30))
    notion.faults.append(once(meanwhile(lambda: workspace.remove(page)), is_item))

    with reading(notion, table.source, {"links": "Links"}) as reader:
        assert reader.full().fresh == {}


def test_a_row_whose_long_value_is_not_there_is_not_left_out(notion: FakeNotion, table: Table) -> None:
    table.add_row(table.add_targets(30))
    gone = failing(404, "object_not_found")
    notion.faults.append(lambda call: gone(call) if is_item(call) else None)

    with reading(notion, table.source, {"links": "Links"}) as reader, pytest.raises(NotionError, match="404"):
        reader.full()


@pytest.mark.parametrize(("cursor", "reason"), [(None, "no cursor"), ("again", "circle")])
def test_a_list_that_leads_nowhere_is_refused(
    notion: FakeNotion, table: Table, cursor: str | None, reason: str
) -> None:
    table.add_row(table.add_targets(MANY))

    def forget_cursor(call: Call) -> None:
        if is_item(call):
            call.query.pop("start_cursor", None)

    notion.faults += [times(2, altered(lambda answer: answer.update(next_cursor=cursor)), is_item), forget_cursor]

    with reading(notion, table.source, {"links": "Links"}) as reader, pytest.raises(NotionError, match=reason):
        reader.full()
