"""Values that a page object truncates are retrieved by themselves, and only those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pytest

from plugins.trace.notion.errors import NotionError
from tests.notion import values
from tests.notion.faults import altered, concurrently, error_response, once, times
from tests.notion.server import Call, FakeNotion
from tests.notion.workspace import DataSource, Page, Workspace
from tests.plugins.trace.factories import data_source_reader, read_every_row, requests_property

# More than two pages of property items.
MANY = 230


class Tables:
    """Two data sources: rows of one point to rows of the other."""

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
        """Add rows to point to: each with an estimate of 1, and a different date."""
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
        """Add a row that points to these."""
        return self.workspace.add_page(self.source, {"Name": "Row", "Links": list(links), **more})

    def add_rollup(self, function: str, target: str) -> None:
        """Add a column that aggregates a column of the targets."""
        config = {
            "function": function,
            "relation_property_id": unquote(self.source.column("Links").id),
            "rollup_property_id": unquote(self.targets.column(target).id),
        }
        added = self.workspace.add_data_source("Other", {"Name": "title", "Rollup": ("rollup", config)})
        self.source.columns.append(added.column("Rollup"))


@pytest.fixture
def table(workspace: Workspace) -> Tables:
    """Two data sources without rows."""
    return Tables(workspace)


def read_one(notion: FakeNotion, source: DataSource, name: str) -> Any:
    """Read the column of that name from the only row."""
    with data_source_reader(notion, source, {"value": name}) as reader:
        (row,) = read_every_row(reader).read.values()
    return row.properties["value"]


def property_requests(notion: FakeNotion) -> int:
    """Return how many requests were for one property alone."""
    return sum(1 for call in notion.calls if requests_property(call))


@pytest.mark.parametrize("count", [0, 1, 25, 26, MANY])
def test_relations_are_read_completely(notion: FakeNotion, table: Tables, count: int) -> None:
    links = table.add_targets(count)
    table.add_row(links)

    assert read_one(notion, table.source, "Links") == [page.id for page in links]
    assert property_requests(notion) == {26: 1, MANY: 3}.get(count, 0)


@pytest.mark.parametrize(("count", "requests"), [(24, 0), (25, 1), (MANY, 3)])
def test_people_are_read_completely(notion: FakeNotion, table: Tables, count: int, requests: int) -> None:
    names = [f"P{number}" for number in range(count)]
    table.add_row([], People=[values.person(name) for name in names])

    assert read_one(notion, table.source, "People") == names
    # 25 may be all of them, or not.
    assert property_requests(notion) == requests


@pytest.mark.parametrize("name", ["Name", "Text"])
@pytest.mark.parametrize(("count", "requests"), [(24, 0), (26, 1), (MANY, 5)])
def test_texts_with_many_mentions_are_read_completely(
    notion: FakeNotion, table: Tables, name: str, count: int, requests: int
) -> None:
    parts = [part for each in range(count) for part in (*values.rich_text("+"), values.page_mention(f"M{each}"))]
    table.add_row([], **{name: parts})

    assert read_one(notion, table.source, name) == "".join(f"+M{each}" for each in range(count))
    assert property_requests(notion) == requests


def test_a_long_text_without_mentions_needs_no_further_request(notion: FakeNotion, table: Tables) -> None:
    table.add_row([], Text=[part for _ in range(90) for part in values.rich_text("word ", bold=True)])

    assert read_one(notion, table.source, "Text") == "word " * 90
    assert property_requests(notion) == 0


@pytest.mark.parametrize("count", [25, MANY])
@pytest.mark.parametrize(
    ("function", "target"),
    [("sum", "Estimate"), ("count", "Name"), ("earliest_date", "Due"), ("show_original", "Name")],
)
def test_a_rollup_is_calculated_over_all_references(
    notion: FakeNotion, table: Tables, function: str, target: str, count: int
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
    assert property_requests(notion) == (0 if count == 25 else 3)


def test_a_rollup_of_lists_is_flattened(notion: FakeNotion, table: Tables) -> None:
    table.add_row(table.add_targets(30))
    table.add_rollup("show_original", "Owners")

    assert read_one(notion, table.source, "Rollup") == [f"{who}{each}" for each in range(30) for who in "PQ"]


def test_a_rollup_over_a_hidden_relation_is_retrieved_by_itself(notion: FakeNotion, table: Tables) -> None:
    table.add_row(table.add_targets(30))
    table.add_rollup("sum", "Estimate")
    hidden = table.source.column("Links").id
    # As if the connection had no access to the target.
    hide = altered(lambda answer: answer.get("properties", {}).pop("Links", None))
    notion.faults.append(lambda call: hide(call) if call.path[0] == "data_sources" else None)

    assert read_one(notion, table.source, "Rollup") == 30
    assert hidden not in str([call.query for call in notion.calls])


@pytest.mark.parametrize("function", ["median", "show_unique"])
def test_a_function_that_notion_does_not_calculate_over_many_references_is_refused(
    notion: FakeNotion, table: Tables, function: str
) -> None:
    table.add_row(table.add_targets(26))
    table.add_rollup(function, "Estimate")

    with pytest.raises(NotionError, match=f"'Rollup': Notion could not calculate it: {function} is 'unsupported'"):
        read_one(notion, table.source, "Rollup")


def test_rich_texts_of_several_parts_in_a_long_rollup_are_refused(notion: FakeNotion, table: Tables) -> None:
    links = table.add_targets(30)
    table.workspace.edit(links[0], {"Text": [*values.rich_text("a"), *values.rich_text("b", bold=True)]})
    table.add_row(links)
    table.add_rollup("show_original", "Text")

    with pytest.raises(NotionError, match="Rollup shows rich texts of more than 25 pages"):
        read_one(notion, table.source, "Rollup")


@pytest.mark.parametrize(("count", "whole"), [(25, False), (26, True)])
def test_a_formula_is_retrieved_by_itself_if_a_relation_is_long(
    notion: FakeNotion, table: Tables, count: int, whole: bool
) -> None:
    given = values.Calculated(values.formula("number", 25), values.formula("number", count))
    table.add_row(table.add_targets(count), Formula=given)

    assert read_one(notion, table.source, "Formula") == count
    assert property_requests(notion) == (1 if whole else 0)


def test_unmapped_columns_cost_no_request(notion: FakeNotion, table: Tables) -> None:
    table.add_row(table.add_targets(30))

    read_one(notion, table.source, "Text")

    assert property_requests(notion) == 0


def test_a_row_edited_before_its_long_values_are_retrieved_is_read_again(
    notion: FakeNotion, workspace: Workspace, table: Tables
) -> None:
    links = table.add_targets(60)
    page = table.add_row(links[:30], Text="before")
    workspace.wait(minutes=5)
    edit = concurrently(lambda: workspace.edit(page, {"Links": links, "Text": "after"}))
    notion.faults.append(once(edit, requests_property))

    with data_source_reader(notion, table.source, {"links": "Links", "text": "Text"}) as reader:
        rows = read_every_row(reader)

    assert rows.read[page.id].properties == {"links": [each.id for each in links], "text": "after"}
    assert rows.report.corrected == 1


def test_a_row_deleted_before_its_long_values_are_retrieved_is_left_out(
    notion: FakeNotion, workspace: Workspace, table: Tables
) -> None:
    page = table.add_row(table.add_targets(30))
    notion.faults.append(once(concurrently(lambda: workspace.remove(page)), requests_property))

    with data_source_reader(notion, table.source, {"links": "Links"}) as reader:
        assert read_every_row(reader).read == {}


def test_a_row_that_exists_without_its_long_value_refuses_the_export(notion: FakeNotion, table: Tables) -> None:
    table.add_row(table.add_targets(30))
    gone = error_response(404, "object_not_found")
    notion.faults.append(lambda call: gone(call) if requests_property(call) else None)

    with (
        data_source_reader(notion, table.source, {"links": "Links"}) as reader,
        pytest.raises(NotionError, match="404"),
    ):
        read_every_row(reader)


@pytest.mark.parametrize(("cursor", "reason"), [(None, "no cursor"), ("again", "repeat endlessly")])
def test_a_list_of_property_items_that_never_ends_is_refused(
    notion: FakeNotion, table: Tables, cursor: str | None, reason: str
) -> None:
    table.add_row(table.add_targets(MANY))

    def forget_cursor(call: Call) -> None:
        if requests_property(call):
            call.query.pop("start_cursor", None)

    notion.faults += [
        times(2, altered(lambda answer: answer.update(next_cursor=cursor)), requests_property),
        forget_cursor,
    ]

    with (
        data_source_reader(notion, table.source, {"links": "Links"}) as reader,
        pytest.raises(NotionError, match=reason),
    ):
        read_every_row(reader)
