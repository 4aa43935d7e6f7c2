"""The public routes: figures ranked and compared, after the filters of the application."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from plugins.club.models import HeroMetric, MostPresent
from tests.applications import publish
from tests.conftest import Serve
from tests.plugins.club.factories import PLUGINS
from tests.processes import eventually


def make_metric(metric: str, value: float, feature: str | None = None, unit: str = "members", *tags: str) -> HeroMetric:
    return HeroMetric(metric=metric, name=metric.title(), value=value, unit=unit, feature=feature, tags=tags)


def make_member(feature: str, member: str, count: int, *tags: str) -> MostPresent:
    return MostPresent(
        id=f"{feature}/{member}", feature=feature, member=member, name=member.title(), count=count, tags=tags
    )


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with two versions of each dataset, which no test changes."""
    return publish_two_versions(module_serve)


def publish_two_versions(serve: Serve) -> Client:
    """Start a service and publish each dataset twice."""
    client = serve(plugins=PLUGINS)
    publish(
        client, "hero-metrics", make_metric("all", 10), make_metric("grid", 30, "grid"), make_metric("flow", 20, "flow")
    )
    publish(
        client, "hero-metrics", make_metric("all", 15), make_metric("grid", 99, "grid"), make_metric("flow", 12, "flow")
    )
    publish(
        client,
        "most-present",
        make_member("flow", "ada", 5),
        make_member("flow", "bo", 9),
        make_member("grid", "cy", 1),
    )
    publish(
        client,
        "most-present",
        make_member("flow", "ada", 12),
        make_member("flow", "bo", 9),
        make_member("flow", "di", 9),
        make_member("grid", "cy", 4, "open"),
    )
    return client


def get_json(client: Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_metrics_are_ranked_and_compared(client: Client) -> None:
    answer = get_json(client, "/club/public/hero-metrics/")

    ranked = [(item["rank"], item["metric"], item["change"], item["previous_rank"]) for item in answer["data"]]
    assert ranked == [(1, "grid", 69.0, 1), (2, "all", 5.0, 3), (3, "flow", -8.0, 2)]
    assert answer["meta"]["application"] == "default"
    assert answer["meta"]["total_items"] == 3
    assert answer["meta"]["totals"] == [{"unit": "members", "metrics": 3, "value": 126.0, "change": 66.0}]


def test_ranks_and_changes_cover_what_the_application_sees(client: Client) -> None:
    answer = get_json(client, "/club/public/skyflow/hero-metrics/")

    ranked = [(item["rank"], item["metric"], item["change"], item["previous_rank"]) for item in answer["data"]]
    assert ranked == [(1, "all", 5.0, 2), (2, "flow", -8.0, 1)]
    assert answer["meta"]["application"] == "skyflow"
    assert answer["meta"]["totals"] == [{"unit": "members", "metrics": 2, "value": 27.0, "change": -3.0}]


def test_totals_are_computed_per_unit(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)
    publish(
        client,
        "hero-metrics",
        make_metric("a", 1, None, "days"),
        make_metric("b", 2, None, "days"),
        make_metric("c", 50, None, "%"),
    )

    totals = get_json(client, "/club/public/hero-metrics/")["meta"]["totals"]

    assert totals == [
        {"unit": "%", "metrics": 1, "value": 50.0, "change": None},
        {"unit": "days", "metrics": 2, "value": 3.0, "change": None},
    ]


def test_features_are_summarised(client: Client) -> None:
    answer = get_json(client, "/club/public/features/")

    flow, grid = answer["data"]
    assert (flow["feature"], flow["members"], flow["total"], flow["change"]) == ("flow", 3, 30, 16)
    assert (flow["new_members"], flow["gone_members"], flow["top_member"]["member"]) == (1, 0, "ada")
    assert (grid["feature"], grid["members"], grid["total"]) == ("grid", 1, 4)
    assert answer["meta"]["totals"] == {"members": 4, "count": 34, "change": 19}


@pytest.mark.parametrize(("application", "features"), [("skyflow", ["flow"]), ("nexus", ["grid"])])
def test_an_application_sees_its_features(client: Client, application: str, features: list[str]) -> None:
    answer = get_json(client, f"/club/public/{application}/features/")

    assert [item["feature"] for item in answer["data"]] == features


def test_members_of_a_feature_are_ranked_with_shares(client: Client) -> None:
    answer = get_json(client, "/club/public/features/flow/")

    ranked = [(item["rank"], item["member"], item["share"], item["change"]) for item in answer["data"]]
    assert ranked == [(1, "ada", 0.4, 7), (2, "bo", 0.3, 0), (2, "di", 0.3, None)]
    assert [item["previous_rank"] for item in answer["data"]] == [2, 1, None]
    assert answer["meta"]["totals"] == {"members": 3, "count": 30, "change": 16}


@pytest.mark.parametrize("path", ["features/grind/", "skyflow/features/grid/"])
def test_an_invisible_feature_is_a_404_that_names_it(client: Client, path: str) -> None:
    answer = client.get(f"/club/public/{path}")

    assert answer.status == 404
    assert repr(path.split("/")[-2]) in answer.json()["error"]


@pytest.mark.parametrize("path", ["hero-metrics/", "features/", "features/flow/", "index/"])
def test_an_unknown_application_is_a_404_that_lists_the_known_ones(client: Client, path: str) -> None:
    answer = client.get(f"/club/public/invalid/{path}")

    assert (answer.status, answer.json()["available_apps"]) == (404, ["skyflow", "nexus"])
    assert "Unknown application" in answer.json()["error"]


def test_as_of_compares_with_the_version_before_it(client: Client) -> None:
    (first, *_) = get_json(client, "/club/public/features/flow/?as_of=1")["data"]

    assert (first["member"], first["change"]) == ("bo", None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("hero-metrics/", "club_data_hero-metrics.json"),
        ("skyflow/hero-metrics/", "club_data_skyflow_hero-metrics.json"),
        ("features/", "club_available_features"),
        ("features/flow/", "club_data_flow-most-present.json"),
        ("index/", "club_data_club_index.json"),
    ],
)
def test_responses_are_cached_under_the_documented_names(client: Client, path: str, name: str) -> None:
    get_json(client, f"/club/public/{path}")

    assert name in client.service.shared.cache.names()


def test_the_index_shows_the_history(serve: Serve) -> None:
    client = publish_two_versions(serve)
    client.service.shared.datasets.refuse("hero-metrics", "the API is unavailable", source="test")

    def entries() -> dict[str, Any]:
        return {entry["dataset"]: entry for entry in get_json(client, "/club/public/skyflow/index/")["data"]}

    assert eventually(lambda: len(entries()["hero-metrics"]["history"]) == 3)
    heroes, members = entries()["hero-metrics"], entries()["most-present"]
    assert [attempt["outcome"] for attempt in heroes["history"]] == ["refused", "published", "published"]
    assert (heroes["file"], heroes["items"], heroes["version"]) == ("hero-metrics.json", 2, 2)
    assert heroes["warning"] == "the API is unavailable"
    assert (members["file"], members["items"]) == ("{feature}-most-present.json", 3)
