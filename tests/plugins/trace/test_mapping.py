"""Columns fill fields, by name or id; what does not fit is said, and never an empty field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from kernel.testing import Client
from plugins.trace.datasets import FEATURES, TIERS
from plugins.trace.export.mapping import Binding, bind
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, read_schema
from plugins.trace.settings import Source
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import formula, rollup
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.exports import Specifications, keys_of, refresh, refresh_in_vain, serve_trace
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


# --- which value -----------------------------------------------------------------------------------------------------


def served(serve: Serve, notion: FakeNotion, table: DataSource, dataset: str, **fields: str) -> Client:
    """Export a table as a dataset of its own."""
    client = serve_trace(serve, notion, {dataset: {"data_sources": [table.id], "fields": fields}})
    refresh(client)
    return client


def kept_aside(client: Client, dataset: str) -> list[str]:
    """Return why rows were kept aside."""
    return [each["reason"] for each in client.get(f"/api/v1/datasets/{dataset}/rejected/").json()["data"]]


@pytest.mark.parametrize(
    ("dataset", "field", "kind", "value", "reason"),
    [
        ("tiers", "level", "formula", formula("string", "two"), "expected a whole number, got 'two'"),
        ("tiers", "level", "formula", formula("boolean", value=True), "expected a whole number, got 'true'"),
        ("tiers", "level", "formula", formula("date", {"start": "2026-11-21"}), "expected a whole number, got '2026"),
        ("tiers", "level", "number", 1.5, "expected a whole number, got '1.5'"),
        (
            "tiers",
            "level",
            "rollup",
            rollup("array", [{"type": "number", "number": 1}], "show_unique"),
            "expected a wh",
        ),
        (
            "features",
            "area",
            "rollup",
            rollup("array", [{"type": "url", "url": "a"}, {"type": "url", "url": "b"}], "show_unique"),
            "expected one text, there are 2",
        ),
        ("features", "tags", "formula", formula("number", 3), "expected names, got '3'"),
    ],
)
def test_a_value_that_does_not_fit_keeps_its_row_aside_with_the_reason(
    serve: Serve,
    notion: FakeNotion,
    workspace: Workspace,
    dataset: str,
    field: str,
    kind: str,
    value: Any,
    reason: str,
) -> None:
    table = workspace.add_data_source("Things", {"Name": "title", "Over": "relation", "Value": kind})
    over = {"relation_property_id": unquote(table.column("Over").id), "rollup_property_id": "title"}
    table.column("Value").config = over
    page = workspace.add_page(table, {"Name": "Wrong", "Value": value})
    empty = {"formula": formula("string", None), "rollup": rollup("number", None, "sum")}
    workspace.add_page(table, {"Name": "Empty", "Value": empty.get(kind)})

    client = served(serve, notion, table, dataset, **{field: "Value"})

    (told,) = kept_aside(client, dataset)
    assert told.startswith(f"page {page.id} 'Wrong': {field}: 'Value': {reason}")
    assert keys_of(client, dataset) == ["empty"]


def test_a_span_of_time_keeps_its_end(serve: Serve, notion: FakeNotion, workspace: Workspace) -> None:
    table = workspace.add_data_source("Things", {"Name": "title", "When": "date"})
    workspace.add_page(table, {"Name": "A", "When": {"start": "2026-11-21", "end": "2026-11-23", "time_zone": None}})

    client = served(serve, notion, table, "features", description="When")

    assert client.get("/trace/public/features/a/").json()["data"]["description"] == "2026-11-21/2026-11-23"


# --- which key -------------------------------------------------------------------------------------------------------


def test_the_title_is_the_name_and_its_slug_the_slug_unless_columns_say_otherwise(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    columns = {"Title": "title", "Slug": "rich_text", "Shown": "rich_text"}
    table = workspace.add_data_source("Things", columns)
    workspace.add_page(table, {"Title": "Über uns", "Slug": "", "Shown": ""})
    workspace.add_page(table, {"Title": "Two", "Slug": " second ", "Shown": "The second"})

    client = served(serve, notion, table, "features", slug="Slug", name="Shown")

    shown = client.get("/trace/public/features/").json()["data"]
    assert {(each["slug"], each["name"]) for each in shown} == {("uber-uns", "Über uns"), ("second", "The second")}


def test_a_row_without_a_key_is_kept_aside_by_its_name(serve: Serve, notion: FakeNotion, workspace: Workspace) -> None:
    table = workspace.add_data_source("Things", {"Name": "title"})
    page = workspace.add_page(table, {"Name": "特徴"})
    workspace.add_page(table, {"Name": "Plain"})

    client = served(serve, notion, table, "features")

    assert kept_aside(client, "features") == [
        f"page {page.id} '特徴': it has no slug, and its name nothing to make one of"
    ]


def test_of_two_rows_with_one_key_the_older_serves_however_they_were_read(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    table = workspace.add_data_source("Things", {"Name": "title"})
    first = workspace.add_page(table, {"Name": "Same"})
    workspace.wait(hours=1)
    second = workspace.add_page(table, {"Name": "same!"})
    workspace.wait(hours=1)
    client = served(serve, notion, table, "features")
    told = kept_aside(client, "features")
    # Comes last in an incremental reading.
    workspace.edit(first, {"Name": "SAME"})
    workspace.wait(hours=1)

    refresh(client)

    assert told == [f"page {second.id} 'same!': the slug 'same' is that of page {first.id} 'Same'"]
    assert kept_aside(client, "features") == [
        f"page {second.id} 'same!': the slug 'same' is that of page {first.id} 'SAME'"
    ]
    assert client.get("/trace/public/features/same/").json()["data"]["name"] == "SAME"


# --- relations -------------------------------------------------------------------------------------------------------


def test_a_relation_to_a_row_that_was_kept_aside_is_refused_and_says_why(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    (tier,) = specifications.tiers.pages.values()
    workspace.edit(tier, {"Level": 1.5})

    reason = refresh_in_vain(client, "features", full=True)

    assert f"feature-0.tier leads to page {tier.id}, which is kept aside: level: 'Level': expected a whole" in reason
    assert keys_of(client, "tiers") == ["free"]


def test_a_relation_to_a_row_of_another_dataset_is_refused(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    (tag,) = specifications.tags.pages.values()
    workspace.edit(next(iter(specifications.features.pages.values())), {"Tier": [tag]})

    reason = refresh_in_vain(client, "features", full=True)

    assert f"feature-0.tier leads to page {tag.id}, which is one of the tags" in reason


def test_a_rollup_that_shows_a_relation_leads_to_its_pages(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    (tag,) = specifications.tags.pages.values()
    value = rollup("array", [{"type": "relation", "relation": [{"id": tag.id}]}] * 2, "show_unique")
    config = {"relation_property_id": unquote(specifications.features.column("Tags").id)}
    specifications.features.columns.append(type(specifications.features.columns[0])("over", "Over", "rollup", config))
    for page in specifications.features.pages.values():
        page.values["over"] = value
    sources = specifications.sources()
    sources["features"]["fields"]["tags"] = "Over"

    client = serve_trace(serve, notion, sources)
    refresh(client)

    assert client.get("/trace/public/features/feature-0/").json()["data"]["tags"] == ["open"]


@pytest.mark.parametrize("named", ["Gold plan", "gold", "GOLD"])
def test_a_select_names_a_row_by_its_name_or_its_key(
    serve: Serve, notion: FakeNotion, workspace: Workspace, named: str
) -> None:
    tiers = workspace.add_data_source("Tiers", {"Name": "title", "Slug": "rich_text"})
    workspace.add_page(tiers, {"Name": "Gold plan", "Slug": "Gold"})
    features = workspace.add_data_source("Features", {"Name": "title", "Tier": "select"})
    workspace.add_page(features, {"Name": "A", "Tier": named})

    client = serve_trace(
        serve,
        notion,
        {
            "tiers": {"data_sources": [tiers.id], "fields": {"slug": "Slug"}},
            "features": {"data_sources": [features.id], "fields": {"tier": "Tier"}},
        },
    )
    refresh(client)

    assert client.get("/trace/public/features/a/").json()["data"]["tier"] == "Gold"


def test_a_select_that_names_nothing_is_refused(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    workspace.change_type(specifications.features, "Tier", "select")
    workspace.edit(next(iter(specifications.features.pages.values())), {"Tier": "Glod"})

    reason = refresh_in_vain(client, "features", full=True)

    assert "feature-0.tier names 'Glod', which is none of the tiers" in reason


# --- several data sources --------------------------------------------------------------------------------------------


def test_data_sources_of_one_database_are_bound_each_by_its_own_columns(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    first = workspace.add_data_source("Small", {"Name": "title", "Level": "number"})
    second = workspace.add_data_source("Large", {"Plan": "title", "Level": "unique_id"}, first.database_id)
    workspace.add_page(first, {"Name": "Free", "Level": 7})
    workspace.add_page(second, {"Plan": "Pro"})

    given = {"databases": [first.database_id.replace("-", "")], "data_sources": [first.id.replace("-", "")]}
    client = serve_trace(serve, notion, {"tiers": {**given, "fields": {"level": "Level"}}})
    certificate = refresh(client)

    shown = client.get("/trace/public/tiers/").json()["data"]
    assert [(each["slug"], each["level"]) for each in shown] == [("pro", 1), ("free", 7)]
    assert [each.title for each in certificate.sources[0].data_sources] == ["Small", "Large"]


def test_a_column_that_one_data_source_lacks_refuses_all_and_names_it(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    first = workspace.add_data_source("Small", {"Name": "title", "Level": "number"})
    workspace.add_page(first, {"Name": "Free", "Level": 7})
    client = serve_trace(serve, notion, {"tiers": {"databases": [first.database_id], "fields": {"level": "Level"}}})
    refresh(client)
    workspace.add_data_source("Large", {"Name": "title", "Rank": "number"}, first.database_id)

    reason = refresh_in_vain(client, "tiers")

    assert reason == "tiers: level: 'Level' missing: Large has 'Name', 'Rank'"
    assert keys_of(client, TIERS.name) == ["free"]
