"""The documented health endpoints and the root of the API."""

from __future__ import annotations

import re

import pytest

from kernel.testing import Client
from tests.applications import publish_demo
from tests.conftest import Serve
from tests.outage import outage
from tests.processes import eventually

# No worker runs in these tests, and nothing is to wait for one.
UNSCHEDULED = {
    "schedules": dict.fromkeys(("observability.rollups", "observability.retention", "accounts.purge"), "off"),
}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SHORT_TIMEOUTS = {"pool_timeout_s": 0.2, "connect_timeout_s": 1}


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with all plugins and the demo data, which no test changes."""
    client = module_serve(jobs=UNSCHEDULED)
    publish_demo(client)
    return client


def test_health_reports_database_cache_jobs_and_engine(client: Client) -> None:
    answer = client.get("/health/")

    engine = answer.json().pop("engine")
    assert answer.status == 200
    assert {**answer.json(), "engine": ...} == {
        "status": "ok",
        "database": "ok",
        "cache": "ok",
        "jobs": "ok",
        "engine": ...,
    }
    assert engine.startswith("postgresql ")


@pytest.mark.parametrize("query", ["", "?db=0", "?db=false"])
def test_api_health_returns_only_ok(client: Client, query: str) -> None:
    answer = client.get(f"/api/health/{query}")

    assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("query", ["?db=1", "?db=true"])
def test_api_health_checks_the_database_on_request(client: Client, query: str) -> None:
    answer = client.get(f"/api/health/{query}")

    assert (answer.status, answer.json()) == (200, {"status": "ok", "db": "ok"})


@pytest.mark.parametrize("query", ["?db=perhaps", "?database=1"])
def test_an_invalid_parameter_is_named(client: Client, query: str) -> None:
    answer = client.get(f"/api/health/{query}")

    assert answer.status == 400
    assert list(answer.json()["errors"]) == [query.strip("?").partition("=")[0]]


@pytest.mark.parametrize("path", ["/health/", "/api/health/", "/api/health/?db=1"])
def test_health_is_never_cached(client: Client, path: str) -> None:
    assert client.get(path).headers["cache-control"] == "no-store"


def test_an_unavailable_database_fails_health_but_not_plain_api_health(serve: Serve, database: str) -> None:
    client = serve(db=SHORT_TIMEOUTS)

    with outage(database):
        answers = {path: client.get(path) for path in ("/health/", "/api/health/?db=1", "/api/health/")}

    assert [answer.status for answer in answers.values()] == [503, 503, 200]
    basic, api, process = (answer.json() for answer in answers.values())
    assert (basic["status"], basic["cache"], basic["engine"]) == ("failed", "ok", None)
    assert basic["database"] != "ok"
    assert (api["status"], process) == ("error", {"status": "ok"})
    assert api["db"] != "ok"


def test_health_recovers_with_the_database(serve: Serve, database: str) -> None:
    client = serve(db=SHORT_TIMEOUTS, jobs=UNSCHEDULED)
    with outage(database):
        client.get("/health/")

    assert eventually(lambda: client.get("/health/").status == 200)
    assert client.get("/health/").json()["status"] == "ok"


@pytest.mark.parametrize("root", ["/", "/api/", "/api", "/api/v1/", "/api/v1"])
def test_the_root_of_the_api_lists_existing_resources(client: Client, root: str) -> None:
    body = client.get(root).json()
    resources = (body["data"] if "v1" in root else body)["resources"]

    assert resources["requests"] == {
        "title": "request logs, newest first",
        "url": "http://127.0.0.1/api/requests/",
    }
    assert {"requests-kpis", "trace-tiers", "jobs", "health", "stats"} <= resources.keys()
    paths = [each["url"].removeprefix("http://127.0.0.1") for each in resources.values()]
    assert {client.get(path).status for path in paths} == {200}


def test_the_root_is_a_page_for_people(client: Client) -> None:
    answer = client.get("/", headers=BROWSER)

    page = answer.content.decode()
    links = set(re.findall(r'<a [^>]*href="(/[^"]*)"', page))
    assert (answer.status, answer.headers["vary"].partition(",")[0]) == (200, "Accept")
    assert {"/api/", "/api/docs", "/api/redoc", "/health/", "/stats/", "/api/requests/"} <= links
    assert {path: client.get(path).status for path in links} == dict.fromkeys(links, 200)
    assert f"postgresql {client.service.db.engine.version}" in page
    assert all(f"<li>{plugin}</li>" in page for plugin in client.service.shared.plugins)


def test_the_root_says_nothing_of_the_service_to_strangers(module_serve: Serve) -> None:
    client = module_serve(auth="required", jobs=UNSCHEDULED)

    for headers in (BROWSER, {**BROWSER, "Authorization": "Bearer nonsense"}):
        answer = client.get("/", headers=headers)

        assert answer.status == 200
        assert "/api/docs" in answer.content.decode()
        assert client.service.db.engine.version not in answer.content.decode()
