"""Pages in a browser: they load nothing from elsewhere, keep to their policy, fit the window, and have two themes."""

from __future__ import annotations

import pytest

from tests.browser.conftest import NARROW, Open
from tests.processes import Service

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]


@pytest.mark.parametrize(
    ("path", "shown", "status"),
    [
        ("/", "Resources", 200),
        ("/nowhere/", "no route for /nowhere/", 404),
        ("/api/docs", "List request logs", 200),
        ("/api/redoc", "List request logs", 200),
    ],
)
def test_a_page_needs_nobody_else_and_fits_any_window(
    path: str, shown: str, status: int, visit: Open, service: Service
) -> None:
    opened = visit(path, shown)
    name = path.strip("/").replace("/", "-") or "root"
    background = opened.background()
    opened.shoot(f"{name}-wide-light")
    assert opened.overflow_px() == 0

    opened.page.emulate_media(color_scheme="dark")
    opened.page.set_viewport_size(NARROW)
    opened.wait_for(shown)

    opened.shoot(f"{name}-narrow-dark")
    assert opened.overflow_px() == 0
    assert opened.background() != background
    own = (f"{service.url}/", "data:", "blob:")
    assert [url for url in opened.urls if not url.startswith(own)] == []
    assert opened.violations() == []
    assert [each for each in opened.errors if status == 200 or "status of 404" not in each] == []


def test_the_chosen_theme_stays(visit: Open) -> None:
    opened = visit("/", "Resources")
    light = opened.background()

    opened.page.get_by_role("button", name="theme").click()
    dark = opened.background()
    opened.page.reload()

    assert dark != light
    assert opened.background() == dark


def test_a_browser_asks_for_static_files_once(visit: Open) -> None:
    opened = visit("/", "Resources")
    opened.page.goto(opened.page.url + "nowhere/")
    received = opened.page.evaluate(
        "performance.getEntriesByType('resource')"
        ".filter(each => each.name.includes('/static/')).map(each => each.transferSize)"
    )

    # Out of the browser's cache.
    assert received
    assert set(received) == {0}


def test_the_redoc_page_finds_text_in_a_worker_and_swagger_ui_sends_requests(visit: Open) -> None:
    redoc = visit("/api/redoc", "List request logs").page
    redoc.get_by_placeholder("Search").fill("ingest")
    redoc.get_by_role("menuitem", name="Ingest request logs").first.wait_for()

    swagger = visit("/api/docs", "List request logs").page
    swagger.get_by_text("List request logs").click()
    swagger.get_by_role("button", name="Try it out").click()
    with swagger.expect_response("**/api/requests/") as answered:
        swagger.get_by_role("button", name="Execute").click()
    assert answered.value.status == 200
