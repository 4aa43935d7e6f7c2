"""Pages in a browser: they load nothing from elsewhere, keep to their policy, fit the window, and have two themes."""

from __future__ import annotations

import pytest

from tests.browser.conftest import NARROW, Open, Visit

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]

FIRST_OPERATION = "Report that the process answers"


def ensure_fits_in_both_themes(opened: Visit, name: str, shown: str) -> None:
    """Look at a page on a desk by day, and on a telephone by night."""
    light = opened.background()
    opened.shoot(f"{name}-wide-light")
    assert opened.overflow_px() == 0

    opened.page.emulate_media(color_scheme="dark")
    opened.page.set_viewport_size(NARROW)
    opened.wait_for(shown)

    opened.shoot(f"{name}-narrow-dark")
    assert opened.overflow_px() == 0
    assert opened.background() != light


@pytest.mark.parametrize(("path", "shown"), [("/", "Resources"), ("/nowhere/", "no route for /nowhere/")])
def test_a_page_needs_nobody_else_and_fits_any_window(path: str, shown: str, visit: Open) -> None:
    opened = visit(path, shown)

    ensure_fits_in_both_themes(opened, path.strip("/") or "root", shown)

    # The browser itself reports the status.
    assert [each for each in opened.problems() if "status of 404" not in each] == []


def test_swagger_ui_shows_the_api_and_sends_requests(visit: Open) -> None:
    opened = visit("/api/docs", FIRST_OPERATION)
    opened.page.get_by_text(FIRST_OPERATION).click()
    opened.page.get_by_role("button", name="Try it out").click()
    with opened.page.expect_response("**/livez*") as answered:
        opened.page.get_by_role("button", name="Execute").click()

    ensure_fits_in_both_themes(opened, "swagger-ui", FIRST_OPERATION)

    assert answered.value.status == 200
    assert opened.problems() == []


def test_redoc_shows_the_api_and_searches_in_a_worker(visit: Open) -> None:
    opened = visit("/api/redoc", FIRST_OPERATION)
    opened.page.get_by_placeholder("Search").fill("request logs")
    opened.page.get_by_role("menuitem", name="Store one request log").first.wait_for()

    ensure_fits_in_both_themes(opened, "redoc", FIRST_OPERATION)

    assert opened.problems() == []


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


def test_a_panel_that_is_loaded_again_has_local_times_as_well(visit: Open) -> None:
    opened = visit("/system/health/", "Last update")
    without_title = opened.page.locator("time:not([title])")
    assert without_title.count() == 0

    opened.page.evaluate("document.dispatchEvent(new Event('panelschange'))")
    opened.wait_for("updated ")

    assert opened.page.locator("time").count() > 0
    assert without_title.count() == 0
    assert opened.problems() == []
