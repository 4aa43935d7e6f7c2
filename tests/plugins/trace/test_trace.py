"""Feature specifications over HTTP, as documented for their consumers."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from tests.applications import DATASETS, PLUGINS, publish, publish_demo
from tests.conftest import Serve
from tests.processes import eventually


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with the demo data."""
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    return client


def test_an_application_sees_its_tiers(client: Client) -> None:
    answer = client.get("/trace/public/skyflow/tiers/")

    assert answer.status == 200
    assert answer.json()["meta"]["application"] == "skyflow"
    assert answer.json()["meta"]["endpoint"] == "/trace/public/skyflow/tiers/"
    assert answer.json()["meta"]["total_items"] == len(answer.json()["data"]) > 0


def test_an_unknown_application_is_a_404_that_lists_the_known_ones(client: Client) -> None:
    answer = client.get("/trace/public/invalid/tiers/")

    assert answer.status == 404
    assert "Unknown application" in answer.json()["error"]
    assert answer.json()["available_apps"] == ["skyflow", "nexus"]


@pytest.mark.parametrize("name", DATASETS)
def test_everybody_sees_everything(client: Client, name: str) -> None:
    answer = client.get(f"/trace/public/{name}/").json()

    everything = client.service.shared.datasets.read(name).items
    assert answer["meta"]["application"] == "default"
    assert [item["slug"] for item in answer["data"]] == [item.slug for item in everything]


@pytest.mark.parametrize("name", DATASETS)
def test_one_item_is_found_by_its_slug(client: Client, name: str) -> None:
    first = client.get(f"/trace/public/{name}/").json()["data"][0]

    answer = client.get(f"/trace/public/{name}/{first['slug']}/")

    assert (answer.status, answer.json()["data"]) == (200, first)


def test_what_an_application_does_not_see_is_not_found_by_its_slug_either(client: Client) -> None:
    statuses = [client.get(f"/trace/public/{application}tiers/data/").status for application in ("", "skyflow/")]

    assert statuses == [200, 404]


@pytest.mark.parametrize("name", DATASETS)
def test_an_item_needs_no_more_than_a_slug(serve: Serve, name: str) -> None:
    client = serve(plugins=PLUGINS)

    publish(client, name, {"slug": "small", "what_others_have": 1})

    assert client.get(f"/trace/public/{name}/small/").status == 200


@pytest.mark.parametrize(("application", "name"), [("", "trace_matrix_data"), ("nexus/", "trace_matrix_nexus_data")])
def test_answers_are_kept_under_the_documented_name(client: Client, application: str, name: str) -> None:
    client.get(f"/trace/public/{application}tiers/")

    assert name in client.service.shared.cache.names()


@pytest.mark.parametrize("application", ["", "skyflow/"])
def test_the_index_lists_every_dataset_with_its_history(client: Client, application: str) -> None:
    def listed() -> dict[str, Any]:
        return {entry["dataset"]: entry for entry in client.get(f"/trace/public/{application}index/").json()["data"]}

    # What was published serves at once; the attempt may be listed a moment later.
    assert eventually(lambda: bool(listed()["tiers"]["history"]))
    entries = listed()
    seen = client.get(f"/trace/public/{application}tiers/").json()["meta"]["total_items"]
    assert list(entries) == DATASETS
    assert entries["tiers"]["items"] == seen
    assert [attempt["outcome"] for attempt in entries["tiers"]["history"]] == ["published"]
