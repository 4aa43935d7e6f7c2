"""An export publishes all that Notion has, or nothing."""

from __future__ import annotations

from tests.conftest import Serve
from tests.notion.server import FakeNotion
from tests.plugins.trace.exports import Specifications, keys_of, refresh, serve_trace


def test_rows_become_items_with_the_keys_of_related_items(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())

    certificate = refresh(client)

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
    assert {(each.dataset, each.outcome, each.items) for each in certificate.datasets} == {
        ("features", "published", 3),
        ("gateways", "published", 1),
        ("tiers", "published", 1),
        ("tags", "published", 1),
    }
