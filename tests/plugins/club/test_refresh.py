"""The job ``club.refresh``: items of all sources are published together; a failing source keeps its last items."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from kernel.errors import ConflictError
from kernel.testing import Client
from plugins.club import run_full_export, run_full_export_async
from plugins.club.jobs import RefreshError, run_refresh
from plugins.club.settings import Source
from tests.applications import warning_of
from tests.conftest import Serve
from tests.plugins.club.factories import (
    by_dataset,
    by_source,
    keys_of,
    refresh,
    refresh_and_fail,
    serve_club,
    version_of,
)
from tests.plugins.club.fakes import Exchange, FakeApi, fixed, hanging, member, metric, missing, versioned
from tests.plugins.club.fetching import members, source
from tests.processes import eventually


@pytest.fixture
def sources(api: FakeApi, other_api: FakeApi) -> dict[str, Source]:
    """Two sources of key figures and one of members, all working."""
    api.routes |= {"/metrics": fixed([metric("joined", 7)]), "/members": fixed([member("ada", 3), member("bo", 2)])}
    other_api.routes["/metrics"] = fixed([metric("posts", 40)])
    return {"heroes": source(api), "others": source(other_api), "flow": members(api)}


def attempts_of(client: Client, name: str) -> list[dict[str, Any]]:
    """Return the attempts to publish a dataset, newest first."""
    answer = client.get(f"/api/v1/datasets/{name}/versions/").json()
    attempts: list[dict[str, Any]] = answer["data"]["attempts"]
    return attempts


def test_items_of_all_sources_are_published_together(serve: Serve, sources: dict[str, Source]) -> None:
    client = serve_club(serve, sources)

    report = refresh(client)

    assert keys_of(client, "hero-metrics") == ["joined", "posts"]
    assert keys_of(client, "most-present") == ["flow/ada", "flow/bo"]
    assert [(each.source, each.state, each.items) for each in report.sources] == [
        ("heroes", "fetched", 1),
        ("others", "fetched", 1),
        ("flow", "fetched", 2),
    ]
    assert {name: (each.outcome, each.version) for name, each in by_dataset(report).items()} == {
        "hero-metrics": ("published", 1),
        "most-present": ("published", 1),
    }


def test_the_result_of_the_job_is_the_report(serve: Serve, sources: dict[str, Source]) -> None:
    client = serve_club(serve, sources)

    report = refresh(client)

    (job,) = client.service.shared.jobs.list(name="club.refresh")
    assert [each["items"] for each in job.result["sources"]] == [each.items for each in report.sources]
    assert [each["version"] for each in job.result["datasets"]] == [1, 1]
    assert job.progress is not None
    assert (job.progress.done, job.progress.total) == (3, 3)
    lines = client.service.shared.jobs.log_lines(job.id)
    assert sorted(line.fields["source"] for line in lines if line.event == "source_fetched") == [
        "flow",
        "heroes",
        "others",
    ]


def test_the_export_can_be_awaited(serve: Serve, sources: dict[str, Source]) -> None:
    services = serve_club(serve, sources).service.registry.services["club"]

    report = asyncio.run(run_full_export_async(services))

    assert not report.failed
    assert len(report.datasets) == 2


def test_a_304_publishes_no_new_version(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = versioned([metric("joined", 7)], etag='"one"')
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)
    before = client.get("/club/public/hero-metrics/")

    report = refresh(client)

    after = client.get("/club/public/hero-metrics/")
    assert by_source(report)["heroes"].state == "unchanged"
    assert by_dataset(report)["hero-metrics"].outcome == "unchanged"
    assert (version_of(client, "hero-metrics"), by_source(report)["heroes"].items) == (1, 1)
    assert after.headers["etag"] == before.headers["etag"]
    assert api.received[-1].headers["if-none-match"] == '"one"'


def test_unchanged_items_of_one_source_are_published_with_new_ones_of_another(
    serve: Serve, api: FakeApi, other_api: FakeApi
) -> None:
    api.routes["/metrics"] = versioned([metric("joined", 7)], etag='"one"')
    other_api.routes["/metrics"] = fixed([metric("posts", 1)])
    client = serve_club(serve, {"heroes": source(api), "others": source(other_api)})
    refresh(client)
    other_api.routes["/metrics"] = fixed([metric("likes", 1)])

    refresh(client)

    assert keys_of(client, "hero-metrics") == ["joined", "likes"]


def test_a_failing_source_keeps_its_items_while_others_are_updated(
    serve: Serve, sources: dict[str, Source], api: FakeApi, other_api: FakeApi
) -> None:
    client = serve_club(serve, sources)
    refresh(client)
    api.routes["/metrics"] = missing
    other_api.routes["/metrics"] = fixed([metric("likes", 41)])

    report = refresh(client)

    assert keys_of(client, "hero-metrics") == ["joined", "likes"]
    heroes = by_source(report)["heroes"]
    assert (heroes.state, heroes.items) == ("failed", 1)
    assert "404" in str(heroes.reason)
    assert report.failed
    assert warning_of(client, "hero-metrics") is None


def test_a_source_that_recovers_is_published_again(serve: Serve, api: FakeApi, other_api: FakeApi) -> None:
    api.routes["/metrics"] = missing
    other_api.routes["/metrics"] = fixed([metric("posts", 1)])
    client = serve_club(serve, {"heroes": source(api), "others": source(other_api)})
    refresh(client)
    assert keys_of(client, "hero-metrics") == ["posts"]
    api.routes["/metrics"] = fixed([metric("joined", 7)])

    refresh(client)

    assert keys_of(client, "hero-metrics") == ["joined", "posts"]


def test_a_dataset_whose_sources_all_fail_has_a_warning_while_another_is_published(
    serve: Serve, sources: dict[str, Source], api: FakeApi
) -> None:
    client = serve_club(serve, sources)
    refresh(client)
    api.routes["/members"] = missing

    report = refresh(client)

    most_present = by_dataset(report)["most-present"]
    assert (most_present.outcome, most_present.version) == ("refused", 1)
    assert "404" in client.get("/club/public/features/").json()["meta"]["warning"]
    assert "warning" not in client.get("/club/public/hero-metrics/").json()["meta"]


def test_nothing_is_published_when_every_source_fails(
    serve: Serve, sources: dict[str, Source], api: FakeApi, other_api: FakeApi
) -> None:
    client = serve_club(serve, sources)
    refresh(client)
    api.routes.clear()
    other_api.routes.clear()

    reason = refresh_and_fail(client, "hero-metrics", "most-present")

    assert reason.startswith("every source failed: heroes: ")
    assert keys_of(client, "hero-metrics") == ["joined", "posts"]
    assert [attempt["outcome"] for attempt in attempts_of(client, "hero-metrics")] == ["refused", "published"]
    warning = client.get("/club/public/hero-metrics/").json()["meta"]["warning"]
    assert "heroes: " in warning
    assert "others: " in warning
    assert "http" not in warning
    assert client.service.shared.jobs.list(name="club.refresh")[0].state == "failed"


def test_a_failed_first_refresh_leaves_the_dataset_unpublished_with_the_reason(serve: Serve, api: FakeApi) -> None:
    client = serve_club(serve, {"heroes": source(api)})

    with pytest.raises(RefreshError, match="every source failed"):
        run_full_export(client.service.registry.services["club"])

    assert eventually(lambda: "404" in client.get("/club/public/hero-metrics/").json()["detail"])
    assert client.get("/club/public/hero-metrics/").status == 503


def test_the_first_source_wins_and_duplicates_of_others_are_rejected(
    serve: Serve, api: FakeApi, other_api: FakeApi
) -> None:
    api.routes["/metrics"] = fixed([metric("joined", 7)])
    other_api.routes["/metrics"] = fixed([metric("joined", 8), metric("posts", 1)])
    client = serve_club(serve, {"heroes": source(api), "others": source(other_api)})

    report = refresh(client)

    items = client.service.shared.datasets.read("hero-metrics").items
    assert {item.key: item.value for item in items} == {"joined": 7.0, "posts": 1.0}
    assert by_dataset(report)["hero-metrics"].rejected == 1
    (aside,) = client.get("/api/v1/datasets/hero-metrics/rejected/").json()["data"]
    assert aside["reason"] == "others: duplicate of 'joined' from heroes, which takes precedence"
    assert aside["item"]["value"] == 8.0


def test_invalid_items_are_rejected_with_source_and_reason(serve: Serve, api: FakeApi) -> None:
    api.routes["/metrics"] = versioned([metric("joined", 7), metric("posts", "many")], etag='"one"')
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)

    report = refresh(client)

    (aside,) = client.get("/api/v1/datasets/hero-metrics/rejected/").json()["data"]
    assert by_source(report)["heroes"].state == "unchanged"
    assert (aside["reason"], aside["item"]) == ("heroes: value: Expected float, got str", metric("posts", "many"))
    assert (by_source(report)["heroes"].rejected, by_dataset(report)["hero-metrics"].rejected) == (1, 1)


def test_stored_items_of_an_incompatible_version_are_fetched_again(serve: Serve, api: FakeApi, database: str) -> None:
    api.routes["/metrics"] = versioned([metric("joined", 7)], etag='"one"')
    client = serve_club(serve, {"heroes": source(api)})
    refresh(client)
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE club.source SET content = %s", [b'{"items": [{"slug": 1}]}'])

    report = refresh(client)

    assert (by_source(report)["heroes"].state, keys_of(client, "hero-metrics")) == ("fetched", ["joined"])


@pytest.mark.slow
def test_items_of_a_removed_source_are_removed(serve: Serve, sources: dict[str, Source], database: str) -> None:
    refresh(serve_club(serve, sources))
    del sources["others"]
    client = serve_club(serve, sources)

    refresh(client)

    assert keys_of(client, "hero-metrics") == ["joined"]
    with psycopg.connect(database) as connection:
        names = connection.execute("SELECT name FROM club.source ORDER BY name").fetchall()
    assert names == [("flow",), ("heroes",)]


@pytest.mark.slow
def test_stored_items_of_another_dataset_are_ignored(serve: Serve, api: FakeApi) -> None:
    api.routes |= {"/metrics": fixed([metric("joined", 7)]), "/members": fixed([member("ada")])}
    refresh(serve_club(serve, {"one": source(api)}))
    # The name is that of what was a source of key figures, and now fails as one of members.
    client = serve_club(serve, {"one": members(api, "/nowhere"), "two": members(api)})

    report = refresh(client)

    assert by_source(report)["one"].items == 0
    assert (keys_of(client, "most-present"), by_dataset(report)["most-present"].rejected) == (["flow/ada"], 0)


def test_without_sources_a_refresh_publishes_nothing(serve: Serve) -> None:
    client = serve_club(serve, {})

    report = refresh(client)

    assert (report.sources, report.datasets) == ((), ())
    assert attempts_of(client, "hero-metrics") == []
    assert client.service.shared.jobs.registry.schedules == {}


def test_with_sources_the_job_has_the_configured_schedule(serve: Serve, sources: dict[str, Source]) -> None:
    client = serve_club(serve, sources, {"schedule": "every 7m"})

    assert client.service.shared.jobs.registry.schedules["club.refresh"].text == "every 7m"


def test_a_cancelled_refresh_publishes_nothing(serve: Serve, sources: dict[str, Source], api: FakeApi) -> None:
    client = serve_club(serve, sources, {"timeout_s": 60.0, "total_timeout_s": 60.0})
    jobs = client.service.shared.jobs
    started = time.monotonic()

    def cancel(exchange: Exchange) -> None:
        jobs.cancel(jobs.list(name="club.refresh")[0].id)
        hanging(exchange)

    api.routes["/members"] = cancel

    with pytest.raises(RefreshError, match="cancelled"):
        run_full_export(client.service.registry.services["club"])

    assert time.monotonic() - started < 15  # not only when the source gives up
    assert jobs.list(name="club.refresh")[0].state == "cancelled"
    assert attempts_of(client, "hero-metrics") == attempts_of(client, "most-present") == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_was_taken_over_stores_nothing(serve: Serve, api: FakeApi, database: str, fails: bool) -> None:
    class Clock:
        """Its time is read after everything was fetched and before it is stored."""

        def now(self) -> datetime:
            if api.received:
                with psycopg.connect(database) as connection:
                    connection.execute("UPDATE tiercel.job_run SET attempt = attempt + 1")
            return datetime.now(UTC)

    api.routes["/metrics"] = fixed("no list" if fails else [metric("joined", 7)])
    client = serve_club(serve, {"heroes": source(api)}, clock=Clock())

    with pytest.raises(RefreshError, match="running"):
        run_full_export(client.service.registry.services["club"])

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT name FROM club.source").fetchall() == []
        assert connection.execute("SELECT outcome FROM tiercel.dataset_publication").fetchall() == []


def test_two_refreshes_do_not_run_at_the_same_time(serve: Serve, sources: dict[str, Source], api: FakeApi) -> None:
    client = serve_club(serve, sources)
    refused: list[str] = []

    def again(exchange: Exchange) -> None:
        try:
            run_full_export(client.service.registry.services["club"])
        except ConflictError as ex:
            refused.append(ex.message)
        exchange.json([member("ada", 3)])

    api.routes["/members"] = again

    refresh(client)

    assert len(refused) == 1
    assert "club.refresh" in refused[0]


def test_one_source_is_fetched_and_the_others_keep_their_items(
    serve: Serve, api: FakeApi, other_api: FakeApi, sources: dict[str, Source]
) -> None:
    client = serve_club(serve, sources)
    refresh(client)
    other_api.routes["/metrics"] = fixed([metric("posts", 41)])
    api.received.clear()

    report = run_refresh(client.service.registry.services["club"], sources=["others"])

    assert [each.source for each in report.sources] == ["others"]
    assert {name: each.version for name, each in by_dataset(report).items()} == {"hero-metrics": 2}
    assert api.received == []
    assert eventually(lambda: version_of(client, "hero-metrics") == 2)
    assert keys_of(client, "hero-metrics") == ["joined", "posts"]
    # What is stored of the others stays.
    assert by_dataset(refresh(client))["most-present"].outcome == "unchanged"
    with pytest.raises(RefreshError, match="no source is named nobody; sources: heroes, others, flow"):
        run_refresh(client.service.registry.services["club"], sources=["nobody"])
