"""The health of the plugin: sources, storage, caches, database."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.club.factories import health_of, readiness_of, refresh, refresh_and_fail, serve_club
from tests.plugins.club.fakes import FakeApi, fixed, member, metric, missing, versioned
from tests.plugins.club.fetching import members, source


class Clock:
    """A fake clock that tests set."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def test_a_successful_source_is_ok(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("joined"), metric("posts", "many")])
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)

    health = health_of(client)

    (heroes,) = health["sources"]
    assert (heroes["state"], heroes["items"], heroes["rejected"]) == ("ok", 1, 1)
    assert (heroes["host"], heroes["failure"], heroes["age_s"]) == (api.host, None, 0)
    assert heroes["next_try_at"] > heroes["succeeded_at"]
    assert (health["status"], health["problems"], health["note"]) == ("ok", [], None)
    assert readiness_of(client)["status"] == "ok"


def test_a_failing_source_reports_the_reason_and_the_age_of_its_data(serve: Serve, api: FakeApi) -> None:
    api.routes |= {"/metrics": fixed([metric("joined")]), "/members": fixed([member("ada")])}
    clock = Clock()
    client = serve_club(serve, {"heroes": source(api), "flow": members(api)}, clock=clock)
    refresh(client)
    api.routes["/metrics"] = missing
    clock.ahead = timedelta(seconds=90)
    refresh(client)

    heroes, flow = health_of(client)["sources"]

    assert (heroes["state"], heroes["failures"], heroes["items"]) == ("failing", 1, 1)
    assert "404" in heroes["failure"]
    assert 90 <= heroes["age_s"] < 120
    assert heroes["failed_at"] == heroes["attempted_at"] > heroes["succeeded_at"]
    assert (flow["state"], flow["failures"]) == ("ok", 0)
    readiness = readiness_of(client)
    assert readiness["status"] == "degraded"
    assert readiness["detail"].startswith("heroes: ")
    assert client.get("/readyz").status == 200


@pytest.mark.parametrize("etag", [None, '"one"'])
def test_failures_are_counted_until_the_source_recovers(serve: Serve, api: FakeApi, etag: str | None) -> None:
    well = versioned([metric("joined")], etag=etag) if etag else fixed([metric("joined")])
    api.routes["/metrics"] = well
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)
    api.routes["/metrics"] = missing
    for failures in (1, 2):
        refresh_and_fail(client)
        assert health_of(client)["sources"][0]["failures"] == failures
    api.routes["/metrics"] = well
    (state,) = [each.state for each in refresh(client).sources]

    (heroes,) = health_of(client)["sources"]

    assert state == ("unchanged" if etag else "fetched")
    assert (heroes["state"], heroes["failures"]) == ("ok", 0)
    assert "404" in heroes["failure"]  # the last one stays to be read


def test_a_source_without_recent_success_is_stale(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("joined")])
    clock = Clock()
    client = serve_club(serve, {"heroes": source(api)}, {"stale_after_s": 600.0}, clock=clock)
    refresh(client)

    clock.ahead = timedelta(seconds=700)

    assert health_of(client)["sources"][0]["state"] == "stale"
    assert "heroes: last succeeded 70" in readiness_of(client)["detail"]


def test_a_source_that_was_never_fetched_is_waiting(serve: Serve, api: FakeApi) -> None:
    client = serve_club(serve, {"heroes": source(api)})

    (heroes,) = health_of(client)["sources"]

    assert (heroes["state"], heroes["succeeded_at"], heroes["items"]) == ("waiting", None, 0)
    assert readiness_of(client)["detail"] == "heroes: has not been fetched yet"


def test_a_queued_run_is_the_next_try(serve: Serve, api: FakeApi) -> None:
    client = serve_club(serve, {"heroes": source(api)}, {"schedule": "0 0 1 1 *"})
    started = client.service.shared.jobs.start("club.refresh")

    (heroes,) = health_of(client)["sources"]

    assert datetime.fromisoformat(heroes["next_try_at"]) == started.due_at


def test_without_sources_health_has_a_note(serve: Serve) -> None:
    client = serve_club(serve, {})

    health = health_of(client)

    assert (health["status"], health["sources"]) == ("ok", [])
    assert health["note"] == "no sources are configured: imported data are served"
    readiness = readiness_of(client)
    assert (readiness["status"], readiness["detail"]) == ("ok", health["note"])


def test_storage_caches_and_database_are_reported(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("joined"), metric("posts")])
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)
    client.get("/club/public/hero-metrics/")

    health = health_of(client)

    storage, cache, database = health["storage"], health["cache"], health["database"]
    assert storage["writable"]
    assert 0 < storage["free_bytes"] < storage["total_bytes"]
    assert cache["pid"] == os.getpid()
    assert cache["caches"]["datasets"]["items"] > 0
    assert cache["names"]["club_data_hero-metrics.json"] > 0
    assert database["engine"].startswith("postgresql ")
    assert database["figures"]["size_bytes"] > 0
    assert 0 < database["figures"]["connections"] <= database["figures"]["connections_max"]
    assert database["figures"]["sources"] == 1
    assert [(each["name"], each["version"], each["items"]) for each in database["datasets"]] == [
        ("hero-metrics", 1, 2),
        ("most-present", None, None),
    ]


def test_the_response_has_an_envelope_and_is_not_cached(serve: Serve) -> None:
    answer = serve_club(serve, {}).get("/club/admin/service-health/")

    meta = answer.json()["meta"]
    assert (meta["application"], meta["endpoint"]) == ("default", "/club/admin/service-health/")
    assert answer.headers["cache-control"] == "no-store"


def test_a_home_directory_that_is_not_writable_is_a_problem(serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = serve_club(serve, {}, home=str(home))
    shutil.rmtree(home)

    health = health_of(client)

    assert not health["storage"]["writable"]
    assert health["status"] == "degraded"
    assert str(home) in health["problems"][0]


def test_an_unavailable_database_is_a_problem_and_the_rest_is_reported(
    serve: Serve, api: FakeApi, database: str
) -> None:
    client = serve_club(serve, {"heroes": source(api)}, db={"pool_timeout_s": 0.5})
    with outage(database):
        answer = client.get("/club/admin/service-health/")

    health = answer.json()["data"]
    assert answer.status == 200
    assert (health["status"], health["database"], health["sources"]) == ("degraded", None, None)
    assert len(health["problems"]) == 1
    assert health["storage"]["writable"]
