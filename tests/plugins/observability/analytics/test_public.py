"""``/observability/public/``: the analytics of each application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel.testing import Client, make_configuration, running
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import make_event

pytestmark = every_engine

ROOT = "/observability/public/"
HERE = "tests.plugins.observability.analytics.applications"
WINDOW = "start=2025-12-14&end=2025-12-14"
SERVICES = {"billing": 3, "STORE": 2, "other": 4}
LISTS = ("hourly", "daily", "top-endpoints")
ONES = ("kpis", "timeseries")
ABOUT = ("source", "fresh_until")


@pytest.fixture(scope="module")
def client(engine: TestedEngine, module_database: str) -> Iterator[Client]:
    """A service with two applications; half of what they own is in rollups."""
    configuration = make_configuration(
        db=engine.settings(module_database),
        plugins=["system", "observability", HERE],
        log={"level": "error", "requests": False},
        observability={"log_own_requests": False},
    )
    events = [make_event(service=service, latency_ms=hits) for service, hits in SERVICES.items() for _ in range(hits)]
    with running(configuration) as started:
        ingest(started, events[::2])
        container_of(started).rollups.refresh()
        ingest(started, events[1::2])
        yield started


def ask(client: Client, path: str, query: str = WINDOW) -> Any:
    answer = client.get(f"{ROOT}{path}/?{query}")
    assert answer.status == 200, answer.content
    return answer.json()


def hits(answer: dict[str, Any]) -> int:
    """Sum up the hits of any of the answers."""
    data = answer["data"]
    rows = data if isinstance(data, list) else data.get("steps", [data])
    return sum(row["hits"] for row in rows)


@pytest.mark.parametrize(("application", "expected"), [("", 9), ("shop/", 5), ("idle/", 0)])
def test_an_application_sees_its_services_only(client: Client, application: str, expected: int) -> None:
    for name in (*LISTS, *ONES):
        for approx in ("true", "false"):
            answer = ask(client, application + name, f"{WINDOW}&approx={approx}")
            assert hits(answer) == expected, (name, approx)


@pytest.mark.parametrize("application", ["default", "shop", "idle"])
@pytest.mark.parametrize("name", [*LISTS, *ONES])
def test_meta_names_the_application(client: Client, name: str, application: str) -> None:
    path = name if application == "default" else f"{application}/{name}"

    answer = ask(client, path)

    count = len(answer["data"]) if name in LISTS else 1
    theirs = client.get(f"/api/requests/{name}/?{WINDOW}")
    about = {part: theirs.headers[f"x-{part.replace('_', '-')}"] for part in ABOUT} if name in LISTS else {}
    assert answer["meta"] == {
        "application": application,
        "endpoint": f"{ROOT}{path}/",
        "total_items": count,
        **about,
    }


@pytest.mark.parametrize("name", [*LISTS, *ONES])
def test_the_data_are_those_of_the_route_with_the_parameter_application(client: Client, name: str) -> None:
    ours = ask(client, f"shop/{name}")["data"]
    theirs = client.get(f"/api/requests/{name}/?{WINDOW}&application=shop").json()

    assert without_now(ours) == without_now(theirs)


def without_now(data: Any) -> Any:
    return data if isinstance(data, list) else {name: data[name] for name in data if name != "fresh_until"}


def test_a_filter_narrows_further_and_never_widens(client: Client) -> None:
    assert hits(ask(client, "shop/kpis", f"{WINDOW}&service=store")) == 2
    assert hits(ask(client, "shop/kpis", f"{WINDOW}&service=other")) == 0
    assert hits(ask(client, "idle/kpis", f"{WINDOW}&service=store")) == 0


def test_percentiles_of_an_application_without_services_are_none(client: Client) -> None:
    for approx in ("true", "false"):
        data = ask(client, "idle/kpis", f"{WINDOW}&percentiles=50&approx={approx}")["data"]
        assert (data["p95_latency_ms"], data["percentiles"][0]["value_ms"]) == (None, None)


def test_the_path_and_the_parameter_must_not_name_two_applications(client: Client) -> None:
    same = client.get(f"{ROOT}shop/kpis/?application=shop")
    other = client.get(f"{ROOT}shop/kpis/?application=idle")

    assert same.status == 200
    assert (other.status, other.json()["errors"]) == (400, {"application": ["The path says shop, got 'idle'."]})


@pytest.mark.parametrize("path", [f"{ROOT}nobody/kpis/", f"{ROOT}kpis/?application=nobody"])
def test_an_unknown_application_is_404_and_the_known_ones_are_listed(client: Client, path: str) -> None:
    answer = client.get(path)

    assert (answer.status, answer.json()["available_apps"]) == (404, ["shop", "idle"])


def test_the_policy_of_every_route_is_read(client: Client) -> None:
    policies = {mounted.template: mounted.route.policy for mounted in client.service.shared.routes}

    roots = ("/api/requests/", "/api/v1/requests/", ROOT, f"{ROOT}{{application}}/")
    paths = [f"{root}{name}" for root in roots for name in (*LISTS, *ONES)]
    assert {path: policies[path] for path in paths} == dict.fromkeys(paths, "read")
