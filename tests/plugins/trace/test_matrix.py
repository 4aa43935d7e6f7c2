"""The feature matrix, and related items in place of slugs."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.matrix import make_matrix
from plugins.trace.models import Feature, Tier
from tests.applications import PLUGINS, publish, publish_demo
from tests.conftest import Serve

PATH = "/trace/public/{}matrix/"
LOW = Tier(slug="low", name="Low", level=0, features=("flow",))
SIDE = Tier(slug="side", level=1, features=("grid",))
MIDDLE = Tier(slug="middle", level=1, features=("flow",))
HIGH = Tier(slug="high", level=2, features=("flow", "grid"))
TIERS = (LOW, SIDE, MIDDLE, HIGH)


def rows(client: Client, path: str) -> dict[str, Any]:
    """Return the rows of a matrix by their slug."""
    return {row["slug"]: row for row in client.get(path).json()["data"]}


@pytest.mark.parametrize(
    ("area", "tier", "expected"),
    [
        ("flow", "low", {"low": True, "side": False, "middle": True, "high": True}),
        ("flow", "middle", {"low": False, "side": False, "middle": True, "high": True}),
        ("grid", "side", {"low": False, "side": True, "middle": False, "high": True}),
        ("flow", "high", {"low": False, "side": False, "middle": False, "high": True}),
        ("flow", None, dict.fromkeys(("low", "side", "middle", "high"), False)),
        # A feature is in its lowest tier, whichever areas that includes.
        ("grid", "low", {"low": True, "side": True, "middle": False, "high": True}),
        ("", "low", {"low": True, "side": False, "middle": False, "high": False}),
        # A hidden tier may be lower or higher than the others.
        ("flow", "unseen", {"low": None, "side": False, "middle": None, "high": None}),
    ],
)
def test_a_feature_is_included_from_its_lowest_tier_upwards_where_the_area_is(
    area: str, tier: str | None, expected: dict[str, bool | None]
) -> None:
    (row,) = make_matrix([Feature(slug="x", area=area, tier=tier)], TIERS).items

    assert row.tiers == expected


def test_the_matrix_has_a_row_for_each_feature_and_a_column_for_each_tier(demo: Client) -> None:
    answer = demo.get(PATH.format("")).json()
    features = demo.get("/trace/public/features/").json()["data"]
    tiers = demo.get("/trace/public/tiers/").json()["data"]

    shown = ("slug", "name", "area", "status", "tier")
    assert [[row[name] for name in shown] for row in answer["data"]] == [[f[name] for name in shown] for f in features]
    assert answer["meta"]["tiers"] == [{name: tier[name] for name in ("slug", "name", "level")} for tier in tiers]
    assert all(list(row["tiers"]) == [tier["slug"] for tier in tiers] for row in answer["data"])


@pytest.mark.parametrize(
    ("application", "columns", "count"),
    [("", ["guest", "free", "data", "plus", "pro"], 11), ("skyflow/", ["free", "plus", "pro"], 7)],
)
def test_an_application_sees_its_rows_and_columns(
    demo: Client, application: str, columns: list[str], count: int
) -> None:
    answer = demo.get(PATH.format(application)).json()

    assert [tier["slug"] for tier in answer["meta"]["tiers"]] == columns
    assert answer["meta"]["total_items"] == count


def test_cells_that_depend_on_a_hidden_tier_are_null(demo: Client) -> None:
    everybody, nexus = (rows(demo, PATH.format(whose))["beacon-digest"] for whose in ("", "nexus/"))

    assert everybody["tiers"] == {"guest": False, "free": False, "data": False, "plus": True, "pro": True}
    assert nexus["tiers"] == {"guest": False, "free": None, "data": False, "pro": None}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tier=pro", ["flow-templates", "grid-export"]),
        ("search=GRID&ordering=-slug", ["grid-tables", "grid-export"]),
        ("page_size=1&page=2", ["beacon-digest"]),
    ],
)
def test_the_matrix_takes_the_query_parameters_of_datasets(demo: Client, query: str, expected: list[str]) -> None:
    assert list(rows(demo, f"{PATH.format('')}?{query}")) == expected


def test_the_matrix_changes_with_its_tiers_and_as_of_shows_earlier_ones(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    path = PATH.format("")
    before = client.get(path)

    publish(client, "tiers", {"slug": "pro", "level": 3, "features": ["grid"]})

    after = client.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert after.status == 200
    assert rows(client, path)["beacon-digest"]["tiers"] == {"pro": False}
    assert client.get(f"{path}?include=tier").json()["meta"]["include"]["tier"]["missing"] == 2
    publish(client, "features", {"slug": "other"})
    assert client.get(f"{path}?as_of=1").json()["meta"]["tiers"] == [{"slug": "pro", "name": "", "level": 3}]


def test_the_matrix_is_cached_under_the_documented_name(demo: Client) -> None:
    demo.get(PATH.format("skyflow/"))

    assert "trace_matrix_skyflow_data" in demo.service.shared.cache.names()


@pytest.mark.parametrize("name", ["features", "gateways", "tiers"])
def test_include_replaces_slugs_by_tags(demo: Client, name: str) -> None:
    plain, whole = (demo.get(f"/trace/public/{name}/{query}").json()["data"] for query in ("", "?include=tags"))

    assert [item["tags"] for item in plain] == [[tag["slug"] for tag in item["tags"]] for item in whole]
    assert "Open" in {tag["name"] for item in whole for tag in item["tags"]}


def test_include_shows_tier_and_gateways_as_an_application_sees_them(demo: Client) -> None:
    path = "/trace/public/{}features/beacon-digest/?include=tier,gateways"

    everybody, nexus = (demo.get(path.format(whose)).json() for whose in ("", "nexus/"))

    assert everybody["data"]["tier"]["name"] == "Plus"
    assert [gateway["kind"] for gateway in everybody["data"]["gateways"]] == ["mail"]
    assert (nexus["data"]["tier"], nexus["data"]["gateways"]) == (None, [])
    assert [nexus["meta"]["include"][name]["hidden"] for name in ("tier", "gateways")] == [1, 1]
