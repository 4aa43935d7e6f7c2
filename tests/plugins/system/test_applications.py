"""``/api/v1/applications/``."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.contracts import Application
from tests.applications import publish, publish_demo
from tests.conftest import Serve
from tests.kernel.fakes import install_plugin


def listed(client: Any) -> dict[str, dict[str, Any]]:
    """Return the applications by slug."""
    answer = client.get("/api/v1/applications/")
    assert (answer.status, answer.json()["success"]) == (200, True)
    return {each["slug"]: each for each in answer.json()["data"]["results"]}


def counts(application: dict[str, Any]) -> dict[str, Any]:
    """Return how much an application sees of each dataset."""
    return {each["dataset"]: each["items"] for each in application["datasets"]}


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> str:
    """A plugin with an application whose filter for tiers fails, and with one that concerns nothing."""
    filters = {"tiers_filter": lambda items: [1 / 0], "no-such-data": lambda items: items}
    made = Application(slug="acme", name="Acme", features=("anvil",), filters=filters, services=("shop",))
    return install_plugin(monkeypatch, "acme", {"register_applications": lambda: [made]})


def test_applications_are_listed_in_configured_order(serve: Serve, acme: str) -> None:
    found = listed(serve(plugins=["system", "trace", "nexus", acme]))

    assert list(found) == ["nexus", "acme"]
    assert {name: found["acme"][name] for name in ("name", "features", "services")} == {
        "name": "Acme",
        "features": ["anvil"],
        "services": ["shop"],
    }


def test_the_list_is_paged_filtered_searched_and_ordered(serve: Serve, acme: str) -> None:
    client = serve(plugins=["system", "trace", "skyflow", "nexus", acme])
    expected = {
        "": ["skyflow", "nexus", "acme"],
        "?ordering=slug": ["acme", "nexus", "skyflow"],
        "?ordering=-name": ["skyflow", "nexus", "acme"],
        "?slug=nexus": ["nexus"],
        "?features=anvil": ["acme"],
        "?services=shop": ["acme"],
        "?search=ANV": ["acme"],
        "?page_size=2": ["skyflow", "nexus"],
        "?page_size=2&page=2": ["acme"],
    }

    pages = {query: client.get(f"/api/v1/applications/{query}").json()["data"] for query in expected}

    assert {query: [each["slug"] for each in page["results"]] for query, page in pages.items()} == expected
    assert [pages[query]["count"] for query in ("", "?page_size=2", "?slug=nexus")] == [3, 3, 1]
    assert pages["?page_size=2"]["next"] == "http://127.0.0.1/api/v1/applications/?page_size=2&page=2"
    assert client.get("/api/v1/applications/?page=2").status == 404
    assert list(client.get("/api/v1/applications/?ordering=filters").json()["errors"]) == ["ordering"]


def test_each_filter_lists_its_datasets(serve: Serve, acme: str) -> None:
    filters = listed(serve(plugins=["system", "trace", acme]))["acme"]["filters"]

    assert filters == [{"key": "tiers_filter", "datasets": ["tiers"]}, {"key": "no-such-data", "datasets": []}]


def test_items_are_counted_after_the_filters(serve: Serve) -> None:
    client = serve(plugins=["system", "trace", "skyflow"])
    publish_demo(client)

    seen = counts(listed(client)["skyflow"])

    shown = {name: client.get(f"/trace/public/skyflow/{name}/").json()["meta"]["total_items"] for name in seen}
    assert seen == shown
    assert seen["tiers"] == 3


def test_a_failing_filter_gives_a_reason_instead_of_a_count(serve: Serve, acme: str) -> None:
    client = serve(plugins=["system", "trace", acme])
    for name in ("tiers", "tags"):
        publish(client, name, {"slug": "one"})

    found = {each["dataset"]: each for each in listed(client)["acme"]["datasets"]}

    assert found["tiers"]["items"] is None
    assert "ZeroDivisionError" in found["tiers"]["reason"]
    assert (found["tags"]["items"], found["tags"]["reason"]) == (1, None)


def test_an_unpublished_dataset_gives_a_reason_instead_of_a_count(serve: Serve) -> None:
    found = listed(serve(plugins=["system", "trace", "skyflow"]))["skyflow"]["datasets"][0]

    assert found["items"] is None
    assert "has not been published yet" in found["reason"]
