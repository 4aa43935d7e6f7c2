"""Columns are mapped to fields by name or id; what does not fit is a problem, and never an empty field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from plugins.trace.datasets import FEATURES
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, read_schema
from plugins.trace.settings import Source
from plugins.trace.sync.mapping import ColumnMapping, map_columns
from tests.notion.server import FakeNotion
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.factories import unlimited_client

ALL = ("features", "tiers", "gateways", "tags")


@pytest.fixture
def table(workspace: Workspace) -> DataSource:
    """A data source with columns of many types."""
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


def map_table(
    notion: FakeNotion,
    table: DataSource,
    fields: Mapping[str, str],
    earlier: Mapping[str, Property] | None = None,
    **more: Any,
) -> ColumnMapping:
    """Map the columns of a data source to features."""
    source = Source(data_sources=(table.id,), fields=dict(fields), properties=more)
    with unlimited_client(notion) as client:
        schema = read_schema(client.retrieve_data_source(table.id))
    return map_columns(FEATURES, source, schema, earlier or {}, ALL)


def kinds_of_problems(mapping: ColumnMapping) -> list[tuple[str, str]]:
    """Return the fields that have a problem, with its kind."""
    return [(each.field, each.kind) for each in mapping.problems]


# --- which column ----------------------------------------------------------------------------------------------------


def test_a_column_is_found_by_name_or_by_id_encoded_or_decoded(notion: FakeNotion, table: DataSource) -> None:
    id_ = table.column("Area").id

    found = [map_table(notion, table, {"area": name}).columns[0].property.name for name in ("Area", id_, unquote(id_))]

    assert "%" in id_
    assert found == ["Area", "Area", "Area"]


def test_a_renamed_column_is_found_if_it_was_exported_before(
    notion: FakeNotion, workspace: Workspace, table: DataSource
) -> None:
    before = map_table(notion, table, {"area": "Area"})
    workspace.rename(table, "Area", "Part")

    after = map_table(notion, table, {"area": "Area"}, before.by_name)

    assert after.columns[0].property.name == "Part"
    assert [str(each) for each in after.problems] == ["area: 'Area' renamed: is now called 'Part'"]
    assert after.errors == ()


def test_a_column_that_took_the_name_of_another_is_used_with_a_warning(
    notion: FakeNotion, workspace: Workspace, table: DataSource
) -> None:
    before = map_table(notion, table, {"area": "Area"})
    workspace.rename(table, "Area", "Area (old)")
    workspace.rename(table, "Areas", "Area")
    workspace.change_type(table, "Area", "select")

    after = map_table(notion, table, {"area": "Area"}, before.by_name)

    assert after.columns[0].property.id == table.column("Area").id
    assert "was another column before, which is now called 'Area (old)'" in after.problems[0].detail


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("area", "Things has no such column; did you mean 'Area' or 'Areas'?"),
        ("Levle", "Things has no such column; did you mean 'Level'?"),
        ("xyz", "Things has 'Area', 'Areas', 'Level', 'Made', 'Name', 'Odd', 'Sum', 'Tiers'"),
    ],
)
def test_a_missing_column_is_named_with_suggestions(
    notion: FakeNotion, table: DataSource, name: str, detail: str
) -> None:
    (problem,) = map_table(notion, table, {"area": name}).errors

    assert (problem.kind, problem.detail) == ("missing", detail)


def test_a_data_source_without_columns_is_refused(notion: FakeNotion, table: DataSource) -> None:
    table.columns.clear()

    with pytest.raises(NotionError, match="Things has no columns: the connection lacks the capability to read content"):
        map_table(notion, table, {})


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
def test_a_column_of_the_wrong_type_is_a_problem_of_the_mapping(
    notion: FakeNotion, table: DataSource, field: str, column: str, expected: str
) -> None:
    (problem,) = map_table(notion, table, {field: column}).errors

    assert (problem.field, problem.column, problem.kind) == (field, column, "wrong type")
    assert problem.detail.startswith(expected)


def test_properties_accept_every_readable_type(notion: FakeNotion, table: DataSource) -> None:
    assert kinds_of_problems(map_table(notion, table, {}, made="Made", areas="Areas", tiers="Tiers")) == []
    assert kinds_of_problems(map_table(notion, table, {}, odd="Odd")) == [("odd", "wrong type")]


def test_the_target_of_a_relation_must_be_a_source(notion: FakeNotion, table: DataSource) -> None:
    source = Source(data_sources=(table.id,), fields={"tier": "Tiers"})
    with unlimited_client(notion) as client:
        mapping = map_columns(FEATURES, source, read_schema(client.retrieve_data_source(table.id)), {}, ["features"])

    assert kinds_of_problems(mapping) == [("tier", "no source")]
