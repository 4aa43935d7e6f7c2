"""An incomplete export is refused: the last good version is still served, and every surface reports why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.services import SystemClock
from kernel.testing import Client
from plugins.trace.jobs import REFRESH
from plugins.trace.sync.reader import OVERLAP
from tests.applications import publish_demo, warning_of
from tests.conftest import Serve
from tests.kernel.jobs.conftest import make_worker
from tests.notion import faults
from tests.notion.server import FakeNotion, Fault
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import (
    PLUGINS,
    Specifications,
    export,
    export_refused,
    keys_of,
    serve_trace,
    trace_table,
)
from tests.processes import eventually

pytestmark = pytest.mark.slow

FEATURES = "/trace/public/features/"
REASON = "features: area: 'Area' missing"


class AdjustableClock(SystemClock):
    """A clock that can be set forward."""

    offset = timedelta(0)

    def now(self) -> Any:
        return super().now() + self.offset


@pytest.fixture
def broken(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Client:
    """A service that has exported once, a moment ago, before a mapped column was deleted."""
    # Readiness compares times with the clock of the service.
    specifications.workspace.now = datetime.now(UTC).replace(second=0, microsecond=0)
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    specifications.workspace.remove_column(specifications.features, "Area")
    return client


def health(client: Client) -> Mapping[str, Any]:
    """Return the health check of the exports; the service stays ready whatever its status."""
    answer = client.get("/readyz?verbose")
    assert answer.status == 200
    [check] = [each for each in answer.json()["checks"] if each["name"] == "trace"]
    found: Mapping[str, Any] = check
    return found


def test_a_refused_export_leaves_the_data_serving_with_a_warning(broken: Client) -> None:
    before = broken.get(FEATURES).json()

    reason = export_refused(broken, "features", "tags")

    after = broken.get(FEATURES).json()
    assert after["data"] == before["data"]
    assert REASON in reason
    assert after["meta"]["warning"] == reason


def test_readiness_says_what_is_refused_since_when_and_what_serves(
    broken: Client, specifications: Specifications
) -> None:
    assert health(broken)["status"] == "ok"

    export_refused(broken, *specifications.sources())

    check = health(broken)
    assert check["status"] == "degraded"
    # Once, although it refused every dataset.
    assert check["detail"].count(REASON) == 1
    for name in specifications.sources():
        assert f"{name}: refused since 0 s ago, version 1 is served, confirmed" in check["detail"]


def test_the_index_shows_the_refusal_in_its_history(broken: Client) -> None:
    reason = export_refused(broken, "features")

    entry = next(each for each in broken.get("/trace/public/index/").json()["data"] if each["dataset"] == "features")

    assert (entry["version"], entry["items"], entry["warning"]) == (1, 3, reason)
    shown = [(each["outcome"], each["reason"]) for each in entry["history"]]
    assert shown == [("refused", reason), ("published", None)]


def test_the_report_is_stored_with_each_publication(broken: Client, workspace: Workspace) -> None:
    export_refused(broken, "features")

    refused, published = broken.get("/api/v1/datasets/features/versions/").json()["data"]["attempts"]

    assert (refused["outcome"], refused["details"], refused["job_id"] > published["job_id"]) == ("refused", None, True)
    source = next(each for each in published["details"]["sources"] if each["source"] == "features")
    assert (source["mode"], source["rows"], source["links"]) == ("full", 3, 9)
    assert datetime.fromisoformat(source["reconciled_at"]) == workspace.now - OVERLAP


def test_the_next_good_export_ends_the_warning(
    broken: Client, serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    export_refused(broken, "features")
    sources = specifications.sources()
    del sources["features"]["fields"]["area"]
    client = serve_trace(serve, notion, sources)

    export(client)

    assert eventually(lambda: warning_of(client, "features") is None)
    assert health(client)["status"] == "ok"


@pytest.mark.parametrize(
    ("fault", "state"),
    [(None, "failed"), (faults.error_response(404, "object_not_found"), "failed"), (faults.overloaded(), "waiting")],
    ids=["mapping", "access", "overload"],
)
def test_the_job_is_retried_only_after_transient_errors(
    serve: Serve, notion: FakeNotion, specifications: Specifications, fault: Fault | None, state: str
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), retries=0)
    if fault is None:
        specifications.workspace.remove_column(specifications.features, "Area")
    else:
        notion.faults.append(fault)
    jobs = client.service.shared.jobs
    started = jobs.start(REFRESH)
    worker = make_worker(client.service)
    worker.start()
    try:
        assert eventually(lambda: jobs.get(started.id).error is not None)
    finally:
        worker.stop()
        assert worker.join(10)

    job = jobs.get(started.id)
    assert (job.state, job.attempt) == (state, 1)
    attempts = client.service.shared.datasets.publications("features")
    # The reason alone, without the name of an exception.
    assert [each.reason for each in attempts] == [job.error]


def test_many_broken_relations_are_refused_without_looking_up_all_of_them(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    workspace = specifications.workspace
    other = workspace.add_data_source("Other tags", {"Name": "title"})
    for number in range(150):
        page = workspace.add_page(other, {"Name": f"Other {number}"})
        workspace.add_page(specifications.features, {"Name": f"Lost {number}", "Tags": [page]})
    client = serve_trace(serve, notion, specifications.sources())

    reason = export_refused(client)

    assert "broken relations of features: lost-" in reason
    assert "which is none of the tags; and at least 46 more" in reason
    assert sum(call.path[0] == "pages" for call in notion.calls) == 51


def test_an_export_that_exceeds_its_time_limit_is_refused(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources(), total_timeout_s=0.5, retry_wait_s=30.0)
    notion.faults.append(faults.error_response(503, "service_unavailable"))

    assert "soft timeout" in export_refused(client)
    [attempt] = client.service.shared.datasets.publications("features")
    assert attempt.reason == "the export took longer than 0.5 s"


def test_readiness_is_degraded_when_the_export_is_stale(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    clock = AdjustableClock()
    specifications.workspace.now = clock.now()
    table = trace_table(notion, specifications.sources(), stale_after_s=600.0)
    client = serve(plugins=PLUGINS, trace=table, clock=clock)
    export(client)
    assert "changes were read" in health(client)["detail"]

    clock.offset = timedelta(hours=1)

    detail = health(client)["detail"]
    assert health(client)["status"] == "degraded"
    assert "not read for more than 600 s (" in detail
    assert "features: for 37" in detail


def without_sources(given: dict[str, Any]) -> None:
    given["sources"] = {}


def without_token(given: dict[str, Any]) -> None:
    given["token"] = None


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        (without_sources, "ok", "no sources are configured"),
        (without_token, "ok", "NOTION_TOKEN is not set"),
        (lambda given: None, "degraded", "features: imported data are served"),
    ],
    ids=["no sources", "no token", "not yet"],
)
def test_imported_data_serve_before_the_first_export_and_health_says_so(
    serve: Serve,
    notion: FakeNotion,
    specifications: Specifications,
    change: Callable[[dict[str, Any]], None],
    status: str,
    detail: str,
) -> None:
    table = {"token": notion.token, "api_url": notion.url, "sources": specifications.sources()}
    change(table)
    client = serve(plugins=PLUGINS, trace=table)
    publish_demo(client)

    check = health(client)

    assert (check["status"], detail in check["detail"]) == (status, True), check
    assert keys_of(client, "features")
    assert notion.calls == []


def test_without_a_token_a_warning_is_logged_at_startup(
    serve: Serve, notion: FakeNotion, specifications: Specifications, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(
        plugins=PLUGINS,
        trace={"sources": specifications.sources()},
        log={"level": "warning", "format": "json"},
    )

    assert "NOTION_TOKEN is not set" in capsys.readouterr().err
