"""The pages of request logs in a browser: from the overview down to a trace, with and without scripts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.conftest import WIDE, Open, Visit
from tests.browser.test_pages import ensure_fits_in_both_themes
from tests.processes import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]

ENDPOINT = "/orders/{id}/" + "x" * 90


@pytest.fixture(scope="module")
def requests(service: Service) -> Service:
    """The service with requests of the last day, those of an hour in one trace each."""
    now = datetime.now(UTC)
    events = [
        {
            "time": (now - timedelta(minutes=30 * number)).isoformat(),
            "service": ("shop", "payments")[number % 2],
            "endpoint": ("/orders/", "/pay/", ENDPOINT)[number % 3],
            "method": "POST",
            "status_code": (200, 200, 404, 200, 503)[number % 5],
            "latency_ms": 20 + (number * 37) % 400,
            "trace_id": f"trace-{number // 2}",
        }
        for number in range(90)
    ]
    assert service.post("/api/requests/ingest/", events).status_code == 200
    return service


def look(opened: Visit, name: str, shown: str) -> None:
    """Look at a page in both themes, and come back to the desk."""
    ensure_fits_in_both_themes(opened, name, shown)
    opened.page.emulate_media(color_scheme="light")
    opened.page.set_viewport_size(WIDE)


@pytest.mark.usefixtures("requests")
def test_the_overview_leads_down_to_a_trace(visit: Open) -> None:
    opened = visit("/requests/?last=24h", "Busiest endpoints")
    page = opened.page
    look(opened, "overview", "Busiest endpoints")

    page.get_by_role("link", name=ENDPOINT).first.click()
    page.get_by_title("Its requests").first.click()
    opened.wait_for("Take it with you")
    look(opened, "requests", "Take it with you")
    page.get_by_role("link", name="Trace").first.click()
    opened.wait_for("Duration")
    look(opened, "trace", "Duration")
    page.get_by_role("link", name="POST").first.click()
    opened.wait_for("Tags")
    look(opened, "request", "Tags")

    assert opened.problems() == []


@pytest.mark.usefixtures("requests")
def test_a_chart_shows_values_and_zooms(visit: Open) -> None:
    opened = visit("/requests/?last=24h", "Busiest endpoints")
    plot = opened.page.locator(".plot").first
    box = plot.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    opened.wait_for("2xx: ")

    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20)
    with opened.page.expect_navigation():
        opened.page.mouse.up()

    query = parse_qs(urlsplit(opened.page.url).query)
    start, end = (datetime.fromisoformat(query[name][0]) for name in ("start", "end"))
    assert timedelta(hours=4) < end - start < timedelta(hours=9)
    assert opened.problems() == []


def test_without_scripts_everything_is_there(requests: Service, browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{requests.url}/requests/?last=24h")
        page.get_by_text("Filters").click()
        page.get_by_label("Service").fill("shop")
        page.get_by_role("button", name="Apply").click()

        assert parse_qs(urlsplit(page.url).query)["service"] == ["shop"]
        assert page.locator(".plot").count() == 4
        assert page.get_by_role("link", name="payments").count() == 0


@pytest.mark.usefixtures("requests")
def test_a_chart_zooms_by_keyboard_and_by_touch(visit: Open) -> None:
    opened = visit("/requests/?last=24h&service=shop", "Busiest endpoints")
    page = opened.page
    page.locator(".plot").first.focus()
    page.keyboard.press("ArrowLeft")
    opened.wait_for("2xx: ")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    query = parse_qs(urlsplit(page.url).query)
    start, end = (datetime.fromisoformat(query[name][0]) for name in ("start", "end"))
    assert timedelta(hours=3) < end - start < timedelta(hours=5)

    page.go_back()
    opened.wait_for("Busiest endpoints")
    box = page.locator(".plot").first.bounding_box()
    assert box is not None
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *shares: float) -> None:
        points = [{"x": box["x"] + box["width"] * share, "y": box["y"] + 30} for share in shares]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.3)
    for share in (0.4, 0.5, 0.6):
        touch("touchMove", share)
    with page.expect_navigation():
        touch("touchEnd")
    assert parse_qs(urlsplit(page.url).query)["service"] == ["shop"]
    assert opened.problems() == []


@pytest.mark.usefixtures("requests")
def test_a_cell_of_the_heat_map_and_filters_are_kept_over_reload_and_back(visit: Open) -> None:
    opened = visit("/requests/?last=24h", "Busiest endpoints")
    page = opened.page
    page.get_by_text("Filters").click()
    page.get_by_label("Service", exact=True).fill("payments")
    page.get_by_label("Status class").select_option("5xx")
    with page.expect_navigation():
        page.get_by_role("button", name="Apply").click()
    page.reload()
    opened.wait_for("Newest requests")
    assert page.get_by_label("Status class").input_value() == "5xx"

    with page.expect_navigation():
        page.locator(".plot .heat").first.click()
    query = parse_qs(urlsplit(page.url).query)
    assert urlsplit(page.url).path == "/requests/list/"
    assert (query["service"], query["status_class"]) == (["payments"], ["5xx"])
    assert int(query["latency_min"][0]) <= int(query["latency_max"][0])
    page.go_back()

    assert page.get_by_label("Service", exact=True).input_value() == "payments"
    assert opened.problems() == []
