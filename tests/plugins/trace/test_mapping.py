"""Columns fill fields, by name or id; what does not fit is said, and never an empty field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from plugins.trace.datasets import FEATURES
from plugins.trace.export.mapping import Binding, bind
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, read_schema
from plugins.trace.settings import Source
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.walking import asking_freely

ALL = ("features", "tiers", "gateways", "tags")


@pytest.fixture
def table(workspace: Workspace) -> DataSource:
    """A table with columns of many types."""
    return workspace.add_data_source(
        "Things",
        {
            "Name": "title",
            "Area": "select",
            "Areas": "multi_select",
            "Level": "number",
            "Made": "checkbox",
            "Sum": "formula",
            "Odd": "telepathy",
            "Tiers": "relation",
        },
    )


def bound(
    notion: FakeNotion,
    table: DataSource,
    fields: Mapping[str, str],
    earlier: Mapping[str, Property] | None = None,
    **more: Any,
) -> Binding:
    """Bind features to a table."""
    source = Source(data_sources=(table.id,), fields=dict(fields), properties=more)
    with asking_freely(notion) as api:
        schema = read_schema(api.data_source(table.id))
    return bind(FEATURES, source, schema, earlier or {}, ALL)


def troubles(binding: Binding) -> list[tuple[str, str]]:
    """Return fields with what is wrong with each."""
    return [(each.field, each.trouble) for each in binding.problems]


# --- which column ----------------------------------------------------------------------------------------------------


def test_a_column_is_found_by_name_or_by_id_encoded_or_not(notion: FakeNotion, table: DataSource) -> None:
    id_ = table.column("Area").id

    found = [bound(notion, table, {"area": name}).columns[0].property.name for name in ("Area", id_, unquote(id_))]

    assert "%" in id_
    assert found == ["Area", "Area", "Area"]


def test_a_renamed_column_is_found_if_it_was_exported_before(
    notion: FakeNotion, workspace: Workspace, table: DataSource
) -> None:
    before = bound(notion, table, {"area": "Area"})
    workspace.rename(table, "Area", "Part")

    after = bound(notion, table, {"area": "Area"}, before.named)

    assert after.columns[0].property.name == "Part"
    assert [str(each) for each in after.problems] == ["area: 'Area' renamed: is called 'Part' now"]
    assert after.failures == ()


def test_a_column_that_took_the_name_of_another_counts_and_is_told(
    notion: FakeNotion, workspace: Workspace, table: DataSource
) -> None:
    before = bound(notion, table, {"area": "Area"})
    workspace.rename(table, "Area", "Area (old)")
    workspace.rename(table, "Areas", "Area")
    workspace.change_type(table, "Area", "select")

    after = bound(notion, table, {"area": "Area"}, before.named)

    assert after.columns[0].property.id == table.column("Area").id
    assert "was another column before, which is called 'Area (old)' now" in after.problems[0].detail


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("area", "Things has no such column; did you mean 'Area' or 'Areas'?"),
        ("Levle", "Things has no such column; did you mean 'Level'?"),
        ("xyz", "Things has 'Area', 'Areas', 'Level', 'Made', 'Name', 'Odd', 'Sum', 'Tiers'"),
    ],
)
def test_a_missing_column_is_named_with_what_there_is(
    notion: FakeNotion, table: DataSource, name: str, detail: str
) -> None:
    (problem,) = bound(notion, table, {"area": name}).failures

    assert (problem.trouble, problem.detail) == ("missing", detail)


def test_a_table_whose_columns_are_kept_back_is_refused(notion: FakeNotion, table: DataSource) -> None:
    table.columns.clear()

    with pytest.raises(NotionError, match="Things comes without its columns: the connection may not read content"):
        bound(notion, table, {})


# --- which type ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "column", "expected"),
    [
        ("area", "Areas", "is a multi_select, expected created_time, date, email, formula"),
        ("area", "Made", "is a checkbox, expected"),
        ("tier", "Level", "is a number, expected formula, multi_select, relation, rollup, select, status"),
        ("area", "Odd", "is a telepathy, expected"),
    ],
)
def test_a_column_of_the_wrong_type_is_told_before_any_row(
    notion: FakeNotion, table: DataSource, field: str, column: str, expected: str
) -> None:
    (problem,) = bound(notion, table, {field: column}).failures

    assert (problem.field, problem.property, problem.trouble) == (field, column, "wrong type")
    assert problem.detail.startswith(expected)


def test_properties_take_every_type_that_can_be_read(notion: FakeNotion, table: DataSource) -> None:
    assert troubles(bound(notion, table, {}, made="Made", areas="Areas", tiers="Tiers")) == []
    assert troubles(bound(notion, table, {}, odd="Odd")) == [("odd", "wrong type")]


def test_a_relation_needs_a_source_to_lead_to(notion: FakeNotion, table: DataSource) -> None:
    source = Source(data_sources=(table.id,), fields={"tier": "Tiers"})
    with asking_freely(notion) as api:
        binding = bind(FEATURES, source, read_schema(api.data_source(table.id)), {}, ["features"])

    assert troubles(binding) == [("tier", "no source")]
