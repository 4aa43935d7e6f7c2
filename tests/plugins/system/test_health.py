"""The documented health endpoints and the root of the API."""

from __future__ import annotations

import pytest

from tests.applications import publish_demo
from tests.conftest import Serve
from tests.outage import outage
from tests.processes import eventually

IMPATIENT = {"pool_timeout_s": 0.2, "connect_timeout_s": 1}


def test_health_tells_of_database_cache_and_engine(serve: Serve) -> None:
    answer = serve().get("/health/")

    engine = answer.json().pop("engine")
    assert answer.status == 200
    assert {**answer.json(), "engine": ...} == {"status": "ok", "database": "ok", "cache": "ok", "engine": ...}
    assert engine.startswith("postgresql ")


@pytest.mark.parametrize("query", ["", "?db=0", "?db=false"])
def test_api_health_says_ok_and_no_more(serve: Serve, query: str) -> None:
    answer = serve().get(f"/api/health/{query}")

    assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("query", ["?db=1", "?db=true"])
def test_api_health_asks_the_database_on_request(serve: Serve, query: str) -> None:
    answer = serve().get(f"/api/health/{query}")

    assert (answer.status, answer.json()) == (200, {"status": "ok", "db": "ok"})


@pytest.mark.parametrize("query", ["?db=perhaps", "?database=1"])
def test_a_wrong_parameter_is_named(serve: Serve, query: str) -> None:
    answer = serve().get(f"/api/health/{query}")

    assert answer.status == 400
    assert list(answer.json()["errors"]) == [query.strip("?").partition("=")[0]]


@pytest.mark.parametrize("path", ["/health/", "/api/health/", "/api/health/?db=1"])
def test_health_is_never_kept_by_caches(serve: Serve, path: str) -> None:
    assert serve().get(path).headers["cache-control"] == "no-store"


def test_without_the_database_only_the_process_is_well(serve: Serve, database: str) -> None:
    client = serve(db=IMPATIENT)

    with outage(database):
        answers = {path: client.get(path) for path in ("/health/", "/api/health/?db=1", "/api/health/")}

    assert [answer.status for answer in answers.values()] == [503, 503, 200]
    basic, api, process = (answer.json() for answer in answers.values())
    assert (basic["status"], basic["cache"], basic["engine"]) == ("failed", "ok", None)
    assert basic["database"] != "ok"
    assert (api["status"], process) == ("error", {"status": "ok"})
    assert api["db"] != "ok"


def test_health_comes_back_with_the_database(serve: Serve, database: str) -> None:
    client = serve(db=IMPATIENT)
    with outage(database):
        client.get("/health/")

    assert eventually(lambda: client.get("/health/").status == 200)
    assert client.get("/health/").json()["status"] == "ok"


@pytest.mark.parametrize("root", ["/api/", "/api", "/api/v1/", "/api/v1"])
def test_the_root_of_the_api_lists_resources_that_are_there(serve: Serve, root: str) -> None:
    client = serve()
    publish_demo(client)

    resources = client.get(root).json()["resources"]

    assert "http://127.0.0.1/api/requests/" in resources.values()
    paths = [url.removeprefix("http://127.0.0.1") for url in resources.values()]
    assert {client.get(path).status for path in paths} == {200}
