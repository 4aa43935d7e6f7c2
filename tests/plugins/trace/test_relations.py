"""Every relation points to an item, or the export is refused."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.notion.values import rollup
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import Specifications, export, export_refused, keys_of, serve_trace


def test_a_relation_to_a_rejected_row_is_refused_with_the_reason(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    (tier,) = specifications.tiers.pages.values()
    workspace.edit(tier, {"Level": 1.5})

    reason = export_refused(client, "features", full=True)

    assert f"feature-0.tier points to page {tier.id}, which is rejected: level: 'Level': expected a whole" in reason
    assert keys_of(client, "tiers") == ["free"]


def test_a_relation_to_a_row_of_another_dataset_is_refused(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    (tag,) = specifications.tags.pages.values()
    workspace.edit(next(iter(specifications.features.pages.values())), {"Tier": [tag]})

    reason = export_refused(client, "features", full=True)

    assert f"feature-0.tier points to page {tag.id}, which is one of the tags" in reason


def test_a_rollup_that_shows_a_relation_is_resolved_to_its_pages(
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
    export(client)

    assert client.get("/trace/public/features/feature-0/").json()["data"]["tags"] == ["open"]


@pytest.mark.parametrize("named", ["Gold plan", "gold", "GOLD"])
def test_a_select_names_an_item_by_its_name_or_its_key(
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
    export(client)

    assert client.get("/trace/public/features/a/").json()["data"]["tier"] == "Gold"


def test_a_select_that_names_no_item_is_refused(
    serve: Serve, notion: FakeNotion, workspace: Workspace, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    workspace.change_type(specifications.features, "Tier", "select")
    workspace.edit(next(iter(specifications.features.pages.values())), {"Tier": "Glod"})

    reason = export_refused(client, "features", full=True)

    assert "feature-0.tier names 'Glod', which is none of the tiers" in reason
