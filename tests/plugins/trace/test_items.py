"""Rows become items or are rejected with the reason; from one data source or several."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import psycopg
import pytest

from kernel.testing import Client
from plugins.trace.datasets import TIERS
from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import formula, rollup
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.factories import Specifications, export, export_refused, keys_of, serve_trace


def export_table(serve: Serve, notion: FakeNotion, table: DataSource, dataset: str, **fields: str) -> Client:
    """Start a service and export a data source as a dataset."""
    client = serve_trace(serve, notion, {dataset: {"data_sources": [table.id], "fields": fields}})
    export(client)
    return client


def rejections(client: Client, dataset: str) -> list[str]:
    """Return why rows were rejected."""
    return [each["reason"] for each in client.get(f"/api/v1/datasets/{dataset}/rejected/").json()["data"]]


def test_rows_become_items_with_the_keys_of_related_items(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())

    report = export(client)

    shown = client.get("/trace/public/features/feature-0/").json()["data"]
    assert shown == {
        "slug": "feature-0",
        "name": "Feature 0",
        "description": "",
        "area": "flow",
        "status": "live",
        "tier": "free",
        "gateways": ["web-client"],
        "tags": ["open"],
    }
    assert keys_of(client, "tiers") == ["free"]
    assert {(each.dataset, each.outcome, each.items) for each in report.datasets} == {
        ("features", "published", 3),
        ("gateways", "published", 1),
        ("tiers", "published", 1),
        ("tags", "published", 1),
    }


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
def test_a_value_that_cannot_be_converted_rejects_its_row_with_the_reason(
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

    client = export_table(serve, notion, table, dataset, **{field: "Value"})

    (told,) = rejections(client, dataset)
    assert told.startswith(f"page {page.id} 'Wrong': {field}: 'Value': {reason}")
    assert keys_of(client, dataset) == ["empty"]


def test_an_interval_keeps_its_end(serve: Serve, notion: FakeNotion, workspace: Workspace) -> None:
    table = workspace.add_data_source("Things", {"Name": "title", "When": "date"})
    workspace.add_page(table, {"Name": "A", "When": {"start": "2026-11-21", "end": "2026-11-23", "time_zone": None}})

    client = export_table(serve, notion, table, "features", description="When")

    assert client.get("/trace/public/features/a/").json()["data"]["description"] == "2026-11-21/2026-11-23"


# --- which key -------------------------------------------------------------------------------------------------------


def test_the_title_gives_name_and_slug_unless_columns_are_configured_for_them(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    columns = {"Title": "title", "Slug": "rich_text", "Shown": "rich_text"}
    table = workspace.add_data_source("Things", columns)
    workspace.add_page(table, {"Title": "Über uns", "Slug": "", "Shown": ""})
    workspace.add_page(table, {"Title": "Two", "Slug": " second ", "Shown": "The second"})

    client = export_table(serve, notion, table, "features", slug="Slug", name="Shown")

    shown = client.get("/trace/public/features/").json()["data"]
    assert {(each["slug"], each["name"]) for each in shown} == {("uber-uns", "Über uns"), ("second", "The second")}


def test_a_row_without_a_key_is_rejected_with_its_name(serve: Serve, notion: FakeNotion, workspace: Workspace) -> None:
    table = workspace.add_data_source("Things", {"Name": "title"})
    page = workspace.add_page(table, {"Name": "…!"})
    workspace.add_page(table, {"Name": "Plain"})

    client = export_table(serve, notion, table, "features")

    assert rejections(client, "features") == [
        f"page {page.id} '…!': it has no slug, and its name has no letter or digit to make one from"
    ]


def test_titles_that_differ_in_a_letter_or_a_sign_have_different_slugs(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    titles = ["C", "C++", "C#", "Straße", "Приложение 1", "Отчёт 1", "Отчет 1", "特徴", "がぎ", "かき", "हिन्दी"]
    table = workspace.add_data_source("Things", {"Name": "title"})
    for title in titles:
        workspace.add_page(table, {"Name": title})

    client = export_table(serve, notion, table, "features")

    assert rejections(client, "features") == []
    slugs = {each["name"]: each["slug"] for each in client.get("/trace/public/features/").json()["data"]}
    assert [slugs[title] for title in titles] == [
        "c",
        "c-plus-plus",
        "c-sharp",
        "strasse",
        "приложение-1",
        "отчёт-1",
        "отчет-1",
        "特徴",
        "がぎ",
        "かき",
        "हिन्दी",
    ]
    for title, slug in slugs.items():
        assert client.get(f"/trace/public/features/{quote(slug)}/").json()["data"]["name"] == title


def test_an_item_that_an_earlier_version_published_keeps_its_slug(
    serve: Serve, notion: FakeNotion, workspace: Workspace, database: str
) -> None:
    table = workspace.add_data_source("Things", {"Name": "title"})
    for title in ("Приложение 1", "Отчёт 1", "Straße"):
        page = workspace.add_page(table, {"Name": title})
        workspace.wait(hours=1)
    client = export_table(serve, notion, table, "features")
    with psycopg.connect(database, autocommit=True) as connection:
        # As the earlier version stored them: the second was rejected, because the first had its slug.
        (rows,) = connection.execute("SELECT rows FROM trace.source_rows").fetchone() or (b"",)
        for earlier, slug in (("приложение-1", "1"), ("отчёт-1", "1"), ("strasse", "strae")):
            rows = rows.replace(f'"slug":"{earlier}"'.encode(), f'"slug":"{slug}"'.encode())
        connection.execute("UPDATE trace.source_rows SET rows = %s", [rows])
    workspace.edit(page, {"Name": "Straßen"})

    export(client, full=True)

    assert sorted(keys_of(client, "features")) == ["1", "strassen", "отчёт-1"]


def test_of_two_rows_with_the_same_key_the_newer_is_rejected(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    table = workspace.add_data_source("Things", {"Name": "title"})
    first = workspace.add_page(table, {"Name": "Same"})
    workspace.wait(hours=1)
    second = workspace.add_page(table, {"Name": "same!"})
    workspace.wait(hours=1)
    client = export_table(serve, notion, table, "features")
    told = rejections(client, "features")
    # An incremental export reads it last.
    workspace.edit(first, {"Name": "SAME"})
    workspace.wait(hours=1)

    export(client)

    assert told == [f"page {second.id} 'same!': the slug 'same' is that of page {first.id} 'Same'"]
    assert rejections(client, "features") == [
        f"page {second.id} 'same!': the slug 'same' is that of page {first.id} 'SAME'"
    ]
    assert client.get("/trace/public/features/same/").json()["data"]["name"] == "SAME"


# --- several data sources --------------------------------------------------------------------------------------------


def test_each_data_source_of_a_database_is_mapped_by_its_own_columns(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    first = workspace.add_data_source("Small", {"Name": "title", "Level": "number"})
    second = workspace.add_data_source("Large", {"Plan": "title", "Level": "unique_id"}, first.database_id)
    workspace.add_page(first, {"Name": "Free", "Level": 7})
    workspace.add_page(second, {"Plan": "Pro"})

    given = {"databases": [first.database_id.replace("-", "")], "data_sources": [first.id.replace("-", "")]}
    client = serve_trace(serve, notion, {"tiers": {**given, "fields": {"level": "Level"}}})
    report = export(client)

    shown = client.get("/trace/public/tiers/").json()["data"]
    assert [(each["slug"], each["level"]) for each in shown] == [("pro", 1), ("free", 7)]
    assert [each.title for each in report.sources[0].data_sources] == ["Small", "Large"]


def test_a_column_missing_in_one_data_source_refuses_the_export(
    serve: Serve, notion: FakeNotion, workspace: Workspace
) -> None:
    first = workspace.add_data_source("Small", {"Name": "title", "Level": "number"})
    workspace.add_page(first, {"Name": "Free", "Level": 7})
    client = serve_trace(serve, notion, {"tiers": {"databases": [first.database_id], "fields": {"level": "Level"}}})
    export(client)
    workspace.add_data_source("Large", {"Name": "title", "Rank": "number"}, first.database_id)

    reason = export_refused(client, "tiers")

    assert reason == "tiers: level: 'Level' missing: Large has 'Name', 'Rank'"
    assert keys_of(client, TIERS.name) == ["free"]
