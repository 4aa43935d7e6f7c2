"""The applications that ship, on the demo data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from contrib import nexus, skyflow
from kernel.cli.serve import DEMO_FOLDER
from kernel.testing import Client
from plugins.club.models import HeroMetric, MostPresent
from tests.applications import PLUGINS, publish_demo
from tests.conftest import Serve


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with the demo data, which no test changes."""
    client = module_serve(plugins=PLUGINS)
    publish_demo(client)
    return client


def slugs(client: Client, path: str) -> set[str]:
    """Return the slugs of what a path shows."""
    return {item["slug"] for item in client.get(f"/trace/public/{path}/").json()["data"]}


def club_items(kind: type[msgspec.Struct], pattern: str) -> list[Any]:
    """Read demo files of club."""
    return [
        item
        for path in sorted(DEMO_FOLDER.glob(pattern))
        for item in msgspec.json.decode(path.read_bytes(), type=list[kind])  # type: ignore[valid-type]
    ]


def test_skyflow_sees_the_tiers_that_include_one_of_its_features(client: Client) -> None:
    assert slugs(client, "tiers") - slugs(client, "skyflow/tiers") == {"guest", "data"}


def test_skyflow_sees_the_features_of_its_areas(client: Client) -> None:
    features = client.get("/trace/public/skyflow/features/").json()["data"]

    assert {feature["area"] for feature in features} == {"flow", "clout", "kudos"}
    assert len(features) == 7


def test_skyflow_sees_datasets_without_a_filter_completely(client: Client) -> None:
    assert slugs(client, "skyflow/tags") == slugs(client, "tags")


@pytest.mark.parametrize("name", ["features", "gateways", "tiers"])
def test_nexus_sees_items_tagged_open(client: Client, name: str) -> None:
    everything = client.get(f"/trace/public/{name}/").json()["data"]

    tagged = {item["slug"] for item in everything if "open" in item["tags"]}

    assert 0 < len(tagged) < len(everything)
    assert slugs(client, f"nexus/{name}") == tagged


def test_the_applications_have_different_features() -> None:
    assert set(skyflow.FEATURES).isdisjoint(nexus.FEATURES)


def test_skyflow_sees_figures_about_its_features_and_about_the_community() -> None:
    shown = skyflow.keep_figures(club_items(HeroMetric, "hero-metrics.json"))

    assert {figure.feature for figure in shown} == {None, "flow", "clout", "kudos"}


@pytest.mark.parametrize(
    ("view", "features"),
    [(skyflow.keep_figures, {"flow", "clout", "kudos"}), (nexus.keep_open, {"kudos", "grid", "beacon"})],
)
def test_an_application_sees_a_part_of_the_members(
    view: Callable[[Sequence[Any]], Sequence[Any]], features: set[str]
) -> None:
    shown = view(club_items(MostPresent, "*-most-present.json"))

    assert {one.feature for one in shown} == features
