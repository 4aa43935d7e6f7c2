"""How the plugin is: sources, storage, caches, database."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.club.fake_api import FakeApi, fixed, member, metric, missing, versioned
from tests.plugins.club.fetches import members, source
from tests.plugins.club.services import health_of, readiness_of, refresh, refresh_in_vain, serve_club


class Clock:
    """Tells the time that a test wants."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def test_sources_that_are_well_are_fresh(serve: Serve, api: FakeApi) -> None:
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


def test_a_failing_source_says_why_and_how_old_its_data_are(serve: Serve, api: FakeApi) -> None:
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
def test_failures_are_counted_until_the_source_is_well_again(serve: Serve, api: FakeApi, etag: str | None) -> None:
    well = versioned([metric("joined")], etag=etag) if etag else fixed([metric("joined")])
    api.routes["/metrics"] = well
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)
    api.routes["/metrics"] = missing
    for failures in (1, 2):
        refresh_in_vain(client)
        assert health_of(client)["sources"][0]["failures"] == failures
    api.routes["/metrics"] = well
    (state,) = [each.state for each in refresh(client).sources]

    (heroes,) = health_of(client)["sources"]

    assert state == ("unchanged" if etag else "fetched")
    assert (heroes["state"], heroes["failures"]) == ("ok", 0)
    assert "404" in heroes["failure"]  # the last one stays to be read


def test_a_source_without_a_good_answer_for_long_is_stale(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = fixed([metric("joined")])
    clock = Clock()
    client = serve_club(serve, {"heroes": source(api)}, {"stale_after_s": 600.0}, clock=clock)
    refresh(client)

    clock.ahead = timedelta(seconds=700)

    assert health_of(client)["sources"][0]["state"] == "stale"
    assert "heroes: its last good answer came 70" in readiness_of(client)["detail"]


def test_a_source_that_was_never_fetched_is_waited_for(serve: Serve, api: FakeApi) -> None:
    client = serve_club(serve, {"heroes": source(api)})

    (heroes,) = health_of(client)["sources"]

    assert (heroes["state"], heroes["succeeded_at"], heroes["items"]) == ("waiting", None, 0)
    assert readiness_of(client)["detail"] == "heroes: has not been fetched yet"


def test_a_retry_that_waits_is_the_next_try(serve: Serve, api: FakeApi) -> None:
    client = serve_club(serve, {"heroes": source(api)}, {"schedule": "0 0 1 1 *"})
    started = client.service.shared.jobs.start("club.refresh")

    (heroes,) = health_of(client)["sources"]

    assert datetime.fromisoformat(heroes["next_try_at"]) == started.due_at


def test_without_sources_health_says_what_is_served(serve: Serve) -> None:
    client = serve_club(serve, {})

    health = health_of(client)

    assert (health["status"], health["sources"]) == ("ok", [])
    assert health["note"] == "no sources are configured: what was imported is served"
    readiness = readiness_of(client)
    assert (readiness["status"], readiness["detail"]) == ("ok", health["note"])


def test_storage_caches_and_database_come_with_figures(serve: Serve, api: FakeApi) -> None:
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


def test_the_answer_is_in_an_envelope_and_not_kept(serve: Serve) -> None:
    answer = serve_club(serve, {}).get("/club/admin/service-health/")

    meta = answer.json()["meta"]
    assert (meta["application"], meta["endpoint"]) == ("default", "/club/admin/service-health/")
    assert answer.headers["cache-control"] == "no-store"


def test_a_home_that_cannot_be_written_is_a_problem(serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = serve_club(serve, {}, home=str(home))
    home.rmdir()

    health = health_of(client)

    assert not health["storage"]["writable"]
    assert health["status"] == "degraded"
    assert str(home) in health["problems"][0]


def test_a_database_that_is_away_is_a_problem_and_the_rest_is_seen(serve: Serve, api: FakeApi, database: str) -> None:
    client = serve_club(serve, {"heroes": source(api)}, db={"pool_timeout_s": 0.5})
    with outage(database):
        answer = client.get("/club/admin/service-health/")

    health = answer.json()["data"]
    assert answer.status == 200
    assert (health["status"], health["database"], health["sources"]) == ("degraded", None, None)
    assert len(health["problems"]) == 1
    assert health["storage"]["writable"]
