"""Pages of jobs in a browser: a job from its form to its end, with and without its events, and a database that goes."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import TIMEOUT_S, WIDE, Visit
from tests.faults.database import end_server
from tests.plugins.club.fakes import Exchange, FakeApi, metric, running_api
from tests.processes import TIERCEL, Service, copy_home, serving
from tests.workers import SAMPLE

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]

# Of panels that are loaded again every 30 seconds.
FOLLOWED_S = 15
expect.set_options(timeout=TIMEOUT_S * 1000)
VARIABLES = {
    "TIERCEL_PLUGINS": f"system,club,{SAMPLE}",
    # None of them, while tests run.
    "TIERCEL_CLUB__SCHEDULE": "0 0 29 2 *",
    "TIERCEL_JOB_PROCESSES": "1",
    "TIERCEL_DB__POOL_TIMEOUT_S": "1",
    "TIERCEL_DB__CONNECT_TIMEOUT_S": "2",
}


@pytest.fixture(scope="module")
def api() -> Iterator[FakeApi]:
    """The source of the community's figures."""
    with running_api() as started:
        yield started


@pytest.fixture(scope="module")
def working(initialised: Path, tmp_path_factory: pytest.TempPathFactory, api: FakeApi) -> Iterator[Service]:
    """A service with a worker, the sample jobs and a source."""
    home = copy_home(initialised, tmp_path_factory.mktemp("jobs"))
    sources = {"heroes": {"url": f"{api.url}/metrics", "dataset": "hero-metrics"}}
    variables = {**VARIABLES, "TIERCEL_CLUB__SOURCES": json.dumps(sources)}
    with serving(home, (TIERCEL, "up"), **variables) as started:
        yield started


@pytest.fixture
def opened(working: Service, browser: Browser) -> Iterator[Visit]:
    """A page of that service, which is not loaded yet."""
    with browser.new_context(viewport=WIDE, color_scheme="light", base_url=working.url) as context:
        context.set_default_timeout(TIMEOUT_S * 1000)
        yield Visit(context.new_page(), working.url)


def start_walk(page: Page, folder: Path) -> None:
    """Start the job that waits at gates, by its form."""
    page.goto("/system/jobs/start/sample.walk/")
    page.get_by_label("Folder").fill(str(folder))
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/system/jobs/*/")
    # Gone if the page is loaded anew.
    page.evaluate("window.isSame = true")


def ensure_same(page: Page) -> None:
    """Ensure that a page was not loaded anew."""
    assert page.evaluate("window.isSame") is True


def test_a_job_is_started_and_watched_to_its_end(opened: Visit, tmp_path: Path) -> None:
    page = opened.page
    with page.expect_request("**/events/?log=*"):
        start_walk(page, tmp_path)
    opened.wait_for("The job is queued.")
    page.get_by_role("img", name="50 % done").wait_for()
    expect(page.locator("[data-line]")).to_have_count(1)
    opened.shoot("job-running")

    (tmp_path / "1").touch()
    page.get_by_role("img", name="100 % done").wait_for()
    expect(page.locator("[data-line]")).to_have_count(2)
    (tmp_path / "2").touch()

    expect(page.get_by_role("status").filter(has_text="succeeded")).to_be_visible()
    opened.wait_for("through")
    page.get_by_role("button", name="Start again with the same parameters").wait_for()
    assert page.get_by_role("button", name="Cancel").count() == 0
    ensure_same(page)
    assert opened.problems() == []


def test_without_events_the_panels_refresh(opened: Visit, tmp_path: Path) -> None:
    page = opened.page
    page.route("**/events/**", lambda route: route.fulfill(status=503))
    start_walk(page, tmp_path)
    page.get_by_role("img", name="50 % done").wait_for()

    page.get_by_role("button", name="Cancel").click()

    expect(page.get_by_role("status").filter(has_text="cancelled")).to_be_visible()


def test_without_scripts_a_job_is_started_and_its_page_reloads(
    working: Service, browser: Browser, tmp_path: Path
) -> None:
    with browser.new_context(java_script_enabled=False, base_url=working.url) as context:
        page = context.new_page()
        page.goto("/system/jobs/start/sample.walk/")
        page.get_by_label("Folder").fill(str(tmp_path))
        page.get_by_role("button", name="Start").click()
        page.wait_for_url("**/system/jobs/*/")
        for gate in ("1", "2"):
            (tmp_path / gate).touch()

        expect(page.get_by_role("status").filter(has_text="succeeded")).to_be_visible()


def test_a_page_follows_the_job_that_it_started(opened: Visit, api: FakeApi) -> None:
    page, may_answer = opened.page, threading.Event()

    def answer(exchange: Exchange) -> None:
        may_answer.wait(TIMEOUT_S)
        exchange.json([metric("joined", 7)])

    api.routes["/metrics"] = answer
    page.goto("/club/sources/")
    page.get_by_role("button", name="Fetch heroes").click()
    opened.wait_for("The sources are about to be fetched.")
    page.evaluate("window.isSame = true")
    expect(page.locator("[data-job-state]")).to_have_text("running")
    expect(page.locator("[data-job] progress")).to_be_visible()

    may_answer.set()

    # Long before the panels would be loaded again by themselves.
    expect(page.get_by_text("The last fetch of every source succeeded.")).to_be_visible(timeout=FOLLOWED_S * 1000)
    expect(page.get_by_role("row", name="heroes")).to_contain_text("ok")
    ensure_same(page)
    assert opened.problems() == []


def test_panels_say_that_the_database_is_away_and_come_back(opened: Visit, working: Service) -> None:
    page = opened.page
    page.goto("/system/jobs/")
    page.evaluate("window.isSame = true")
    opened.wait_for("Nothing runs.")
    # Without this file it is not started again.
    control = working.home / "postgres" / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    try:
        end_server(working.home, signal.SIGQUIT)
        expect(page.locator("#running [role=alert]")).to_be_visible()
        opened.shoot("jobs-database-away")
    finally:
        control.with_suffix(".away").rename(control)

    retry = page.locator("#waiting [data-panel-retry]")
    while retry.count():
        retry.click()
        page.wait_for_timeout(500)
    opened.wait_for("Nothing waits.")
    opened.wait_for("Nothing runs.")
    ensure_same(page)
