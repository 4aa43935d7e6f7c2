"""Rows become items, or are kept aside with the reason; of one data source or several."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest

from kernel.testing import Client
from plugins.trace.datasets import TIERS
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import formula, rollup
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.exports import keys_of, refresh, refresh_in_vain, serve_trace


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
