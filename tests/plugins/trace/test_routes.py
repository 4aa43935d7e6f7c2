"""The routes of the datasets, as documented for their consumers."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from tests.applications import DATASETS, PLUGINS, publish
from tests.conftest import Serve
from tests.processes import eventually


def test_an_application_sees_its_tiers(demo: Client) -> None:
    answer = demo.get("/trace/public/skyflow/tiers/")

    assert answer.status == 200
    assert answer.json()["meta"]["application"] == "skyflow"
    assert answer.json()["meta"]["endpoint"] == "/trace/public/skyflow/tiers/"
    assert answer.json()["meta"]["total_items"] == len(answer.json()["data"]) > 0


def test_an_unknown_application_is_a_404_that_lists_the_known_ones(demo: Client) -> None:
    answer = demo.get("/trace/public/invalid/tiers/")

    assert answer.status == 404
    assert "Unknown application" in answer.json()["error"]
    assert answer.json()["available_apps"] == ["skyflow", "nexus"]


@pytest.mark.parametrize("name", DATASETS)
def test_the_unfiltered_view_shows_every_item(demo: Client, name: str) -> None:
    answer = demo.get(f"/trace/public/{name}/").json()

    everything = demo.service.shared.datasets.read(name).items
    assert answer["meta"]["application"] == "default"
    assert [item["slug"] for item in answer["data"]] == [item.slug for item in everything]


@pytest.mark.parametrize("name", DATASETS)
def test_one_item_is_found_by_its_slug(demo: Client, name: str) -> None:
    first = demo.get(f"/trace/public/{name}/").json()["data"][0]

    answer = demo.get(f"/trace/public/{name}/{first['slug']}/")

    assert (answer.status, answer.json()["data"]) == (200, first)


def test_a_hidden_item_is_not_found_by_its_slug(demo: Client) -> None:
    statuses = [demo.get(f"/trace/public/{application}tiers/data/").status for application in ("", "skyflow/")]

    assert statuses == [200, 404]


def test_an_item_requires_only_a_slug(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)

    for name in DATASETS:
        publish(client, name, {"slug": "small", "what_others_have": 1})

    assert [client.get(f"/trace/public/{name}/small/").status for name in DATASETS] == [200] * len(DATASETS)


@pytest.mark.parametrize(("application", "name"), [("", "trace_matrix_data"), ("nexus/", "trace_matrix_nexus_data")])
def test_responses_are_cached_under_the_documented_name(demo: Client, application: str, name: str) -> None:
    demo.get(f"/trace/public/{application}tiers/")

    assert name in demo.service.shared.cache.names()


@pytest.mark.parametrize("application", ["", "skyflow/"])
def test_the_index_lists_every_dataset_with_its_history(demo: Client, application: str) -> None:
    def listed() -> dict[str, Any]:
        return {entry["dataset"]: entry for entry in demo.get(f"/trace/public/{application}index/").json()["data"]}

    # A new version serves at once; its publication may be listed a moment later.
    assert eventually(lambda: bool(listed()["tiers"]["history"]))
    entries = listed()
    seen = demo.get(f"/trace/public/{application}tiers/").json()["meta"]["total_items"]
    assert list(entries) == DATASETS
    assert entries["tiers"]["items"] == seen
    assert [attempt["outcome"] for attempt in entries["tiers"]["history"]] == ["published"]
