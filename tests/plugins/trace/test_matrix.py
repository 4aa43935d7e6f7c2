"""Features by tiers, and related specifications in the place of slugs."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from plugins.trace.matrix import make_matrix
from plugins.trace.model import Feature, Tier
from tests.applications import PLUGINS, publish, publish_demo
from tests.conftest import Serve

PATH = "/trace/public/{}matrix/"
LOW = Tier(slug="low", name="Low", level=0, features=("flow",))
SIDE = Tier(slug="side", level=1, features=("grid",))
MIDDLE = Tier(slug="middle", level=1, features=("flow",))
HIGH = Tier(slug="high", level=2, features=("flow", "grid"))
TIERS = (LOW, SIDE, MIDDLE, HIGH)


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with the demo data."""
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    return client


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
        # What names its lowest tier is in it, whichever areas that includes.
        ("grid", "low", {"low": True, "side": True, "middle": False, "high": True}),
        ("", "low", {"low": True, "side": False, "middle": False, "high": False}),
        # A tier that is not seen may be lower or higher than the others.
        ("flow", "unseen", {"low": None, "side": False, "middle": None, "high": None}),
    ],
)
def test_a_tier_has_a_feature_from_its_lowest_one_up_where_it_includes_the_area(
    area: str, tier: str | None, expected: dict[str, bool | None]
) -> None:
    (row,) = make_matrix([Feature(slug="x", area=area, tier=tier)], TIERS).items

    assert row.tiers == expected


def test_there_is_a_row_for_each_feature_and_a_column_for_each_tier(client: Client) -> None:
    answer = client.get(PATH.format("")).json()
    features = client.get("/trace/public/features/").json()["data"]
    tiers = client.get("/trace/public/tiers/").json()["data"]

    shown = ("slug", "name", "area", "status", "tier")
    assert [[row[name] for name in shown] for row in answer["data"]] == [[f[name] for name in shown] for f in features]
    assert answer["meta"]["tiers"] == [{name: tier[name] for name in ("slug", "name", "level")} for tier in tiers]
    assert all(list(row["tiers"]) == [tier["slug"] for tier in tiers] for row in answer["data"])


@pytest.mark.parametrize(
    ("application", "columns", "count"),
    [("", ["guest", "free", "data", "plus", "pro"], 11), ("skyflow/", ["free", "plus", "pro"], 7)],
)
def test_an_application_sees_its_rows_and_columns(
    client: Client, application: str, columns: list[str], count: int
) -> None:
    answer = client.get(PATH.format(application)).json()

    assert [tier["slug"] for tier in answer["meta"]["tiers"]] == columns
    assert answer["meta"]["total_items"] == count


def test_what_depends_on_a_tier_that_an_application_does_not_see_is_not_told(client: Client) -> None:
    everybody, nexus = (rows(client, PATH.format(whose))["beacon-digest"] for whose in ("", "nexus/"))

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
def test_a_matrix_is_asked_as_datasets_are(client: Client, query: str, expected: list[str]) -> None:
    assert list(rows(client, f"{PATH.format('')}?{query}")) == expected


def test_a_matrix_follows_its_tiers_and_remembers_how_they_were(client: Client) -> None:
    path = PATH.format("")
    before = client.get(path)

    publish(client, "tiers", {"slug": "pro", "level": 3, "features": ["grid"]})

    after = client.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert after.status == 200
    assert rows(client, path)["beacon-digest"]["tiers"] == {"pro": False}
    assert client.get(f"{path}?include=tier").json()["meta"]["include"]["tier"]["missing"] == 2
    publish(client, "features", {"slug": "other"})
    assert client.get(f"{path}?as_of=1").json()["meta"]["tiers"] == [{"slug": "pro", "name": "", "level": 3}]


def test_a_matrix_is_kept_under_the_documented_name(client: Client) -> None:
    client.get(PATH.format("skyflow/"))

    assert "trace_matrix_skyflow_data" in client.service.shared.cache.names()


@pytest.mark.parametrize("name", ["features", "gateways", "tiers"])
def test_tags_come_in_the_place_of_their_slugs(client: Client, name: str) -> None:
    plain, whole = (client.get(f"/trace/public/{name}/{query}").json()["data"] for query in ("", "?include=tags"))

    assert [item["tags"] for item in plain] == [[tag["slug"] for tag in item["tags"]] for item in whole]
    assert "Open" in {tag["name"] for item in whole for tag in item["tags"]}


def test_a_feature_comes_with_its_tier_and_gateways_as_an_application_sees_them(client: Client) -> None:
    path = "/trace/public/{}features/beacon-digest/?include=tier,gateways"

    everybody, nexus = (client.get(path.format(whose)).json() for whose in ("", "nexus/"))

    assert everybody["data"]["tier"]["name"] == "Plus"
    assert [gateway["kind"] for gateway in everybody["data"]["gateways"]] == ["mail"]
    assert (nexus["data"]["tier"], nexus["data"]["gateways"]) == (None, [])
    assert [nexus["meta"]["include"][name]["hidden"] for name in ("tier", "gateways")] == [1, 1]
