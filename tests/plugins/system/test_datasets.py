"""``/api/v1/datasets/``."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from tests.applications import DATASETS, publish
from tests.conftest import Serve

TIERS = "/api/v1/datasets/tiers"


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with two versions of the tiers, which no test changes."""
    return publish_two_versions(module_serve)


@pytest.fixture
def own_client(serve: Serve) -> Client:
    """As ``client``, for a test that publishes."""
    return publish_two_versions(serve)


def publish_two_versions(serve: Serve) -> Client:
    """Start a service and publish the tiers twice, the second time with an invalid item."""
    client = serve(plugins=["system", "trace", "skyflow"])
    flow = {"slug": "a", "name": "A", "features": ["flow"]}
    publish(client, "tiers", flow, {"slug": "b"})
    publish(client, "tiers", {**flow, "name": "Z"}, {"slug": "c"}, {"slug": "d", "features": ["flow"]}, {"slug": 7})
    return client


def data_of(client: Client, path: str) -> Any:
    """Return the data of an answer that must be a success."""
    answer = client.get(path)
    assert answer.status == 200, answer.content
    return answer.json()["data"]


def test_every_dataset_is_listed_with_its_current_version(client: Client) -> None:
    found = {each["name"]: each for each in data_of(client, "/api/v1/datasets/")["results"]}

    assert list(found) == DATASETS
    assert (found["tiers"]["version"], found["tiers"]["items"], found["tiers"]["reason"]) == (2, 3, None)
    assert (found["tags"]["version"], found["tags"]["file"]) == (None, "tags.json")
    assert "has not been published yet" in found["tags"]["reason"]


def test_the_list_is_paged_filtered_searched_and_ordered(client: Client) -> None:
    expected = {
        "?name=tiers": ["tiers"],
        "?version=2": ["tiers"],
        "?search=TIERS.json": ["tiers"],
        "?ordering=-name&page_size=1": [max(DATASETS)],
        "?ordering=version,name&page_size=1": ["tiers"],
    }

    pages = {query: data_of(client, f"/api/v1/datasets/{query}") for query in expected}

    assert {query: [each["name"] for each in page["results"]] for query, page in pages.items()} == expected
    assert data_of(client, "/api/v1/datasets/")["count"] == len(DATASETS)


def test_one_dataset_is_shown_as_in_the_list(client: Client) -> None:
    found = {each["name"]: each for each in data_of(client, "/api/v1/datasets/")["results"]}

    assert data_of(client, f"{TIERS}/") == found["tiers"]


def test_versions_and_attempts_are_listed_newest_first(own_client: Client) -> None:
    own_client.service.shared.datasets.refuse("tiers", "too short", source="test")

    found = data_of(own_client, f"{TIERS}/versions/")

    assert [(each["version"], each["items"]) for each in found["versions"]] == [(2, 3), (1, 2)]
    outcomes = [(each["outcome"], each["version"], each["rejected"], each["reason"]) for each in found["attempts"]]
    assert outcomes == [("refused", 2, 0, "too short"), ("published", 2, 1, None), ("published", 1, 0, None)]


def test_the_history_can_be_limited(client: Client) -> None:
    found = data_of(client, f"{TIERS}/versions/?limit=1")

    assert ([each["version"] for each in found["versions"]], len(found["attempts"])) == ([2], 1)


@pytest.mark.parametrize("query", ["?from=1&to=2", "?from=1", "?to=2", ""])
def test_a_diff_lists_added_removed_and_changed_items(client: Client, query: str) -> None:
    found = data_of(client, f"{TIERS}/diff/{query}")

    assert (found["from_version"], found["to_version"], found["unchanged"]) == (1, 2, 0)
    assert [item["slug"] for item in found["added"]] == ["c", "d"]
    assert [item["slug"] for item in found["removed"]] == ["b"]
    assert found["changed"] == [{"key": "a", "fields": {"name": {"before": "A", "after": "Z"}}}]


def test_a_diff_applies_the_filters_of_an_application(client: Client) -> None:
    found = data_of(client, f"{TIERS}/diff/?from=1&application=skyflow")

    assert ([item["slug"] for item in found["added"]], found["removed"], len(found["changed"])) == (["d"], [], 1)


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("?from=yesterday", 400, "from"),
        ("?from=1&to=tomorrow", 400, "to"),
        ("?earlier=1", 400, "earlier"),
        ("?from=9", 404, "version 9"),
        ("?application=nobody", 404, "Unknown application"),
    ],
)
def test_an_invalid_parameter_of_a_diff_is_named(client: Client, query: str, status: int, named: str) -> None:
    answer = client.get(f"{TIERS}/diff/{query}")

    assert (answer.status, named in answer.content.decode()) == (status, True)


def test_rejected_items_are_shown_with_their_reasons(client: Client) -> None:
    (found,) = data_of(client, f"{TIERS}/rejected/")

    assert (found["index"], found["item"]) == (3, {"slug": 7})
    assert "slug" in found["reason"]


def test_a_rollback_publishes_the_older_content_as_a_new_version(own_client: Client) -> None:
    answer = own_client.post(f"{TIERS}/rollback/", json={"version": 1})

    assert (answer.status, answer.json()["data"]["outcome"], answer.json()["data"]["version"]) == (200, "published", 3)
    assert own_client.service.shared.datasets.compare("tiers", 1, 3).unchanged == 2


@pytest.mark.parametrize(("body", "status"), [({"version": 9}, 404), ({"version": "one"}, 400), ({}, 400)])
def test_a_rollback_to_an_unknown_version_is_refused(client: Client, body: dict[str, Any], status: int) -> None:
    assert client.post(f"{TIERS}/rollback/", json=body).status == status


@pytest.mark.parametrize("what", ["", "versions/", "diff/", "rejected/"])
def test_an_unknown_dataset_is_a_404_that_lists_the_known_ones(client: Client, what: str) -> None:
    answer = client.get(f"/api/v1/datasets/nothing/{what}")

    assert (answer.status, answer.json()["error"]) == (404, "Unknown dataset: nothing")
    assert "tiers" in answer.json()["detail"]


def test_reading_has_policy_read_and_rollback_staff(client: Client) -> None:
    routes = [mounted.route for mounted in client.service.shared.routes]
    policies = {(route.method, route.policy) for route in routes if route.path.startswith("/api/v1/datasets/")}

    assert policies == {("GET", "read"), ("POST", "staff")}
