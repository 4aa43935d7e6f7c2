"""The live tail in a browser: under load, paused and resumed, and with filters that stay."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import NARROW, TIMEOUT_S, Open, Visit
from tests.processes import Service

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]

ROWS_MAX = 500


def send(service: Service, name: str, first: int, count: int) -> None:
    """Send some requests that are numbered."""
    events = [
        {
            "time": datetime.now(UTC).isoformat(),
            "service": name,
            "endpoint": f"/{number}",
            "method": "GET",
            "status_code": (200, 503)[number % 10 == 9],
            "latency_ms": number,
        }
        for number in range(first, first + count)
    ]
    assert service.post("/api/requests/ingest/", events).status_code == 200


def shown(opened: Visit) -> list[str]:
    """Return the endpoints that are shown, the latest first."""
    found: list[str] = opened.page.eval_on_selector_all(
        "#tail tbody tr[data-id]", "rows => rows.map((row) => row.cells[3].textContent)"
    )
    return found


def test_the_tail_pauses_and_resumes_without_a_gap(service: Service, visit: Open) -> None:
    opened = visit("/requests/live/?service=tail", "live")
    send(service, "tail", 0, 20)
    send(service, "other", 0, 20)
    expect(opened.page.locator("#tail tbody tr")).to_have_count(20, timeout=TIMEOUT_S * 1000)

    opened.page.get_by_role("button", name="Pause").click()
    send(service, "tail", 20, 30)
    opened.page.wait_for_timeout(1500)
    assert len(shown(opened)) == 20
    opened.page.get_by_role("button", name="Resume").click()
    expect(opened.page.locator("#tail tbody tr")).to_have_count(50, timeout=TIMEOUT_S * 1000)

    assert sorted(shown(opened), key=lambda each: int(each[1:])) == [f"/{number}" for number in range(50)]
    assert opened.page.locator("#tail tr.bad").count() == 5
    opened.shoot("live-wide-light")
    opened.page.set_viewport_size(NARROW)
    assert opened.overflow_px() == 0
    assert opened.problems() == []


def test_under_load_the_page_keeps_a_bounded_number_of_rows_and_says_what_it_leaves_out(
    service: Service, visit: Open
) -> None:
    opened = visit("/requests/live/?service=load", "live")

    def send_some() -> None:
        for number in range(4):
            send(service, "load", 1000 * number, 1000)

    senders = [threading.Thread(target=send_some) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    opened.page.wait_for_timeout(1500)

    assert 0 < opened.page.locator("#tail tbody tr").count() <= ROWS_MAX
    assert opened.page.locator("#rate").text_content() not in {"", "0 a second"}
    opened.page.get_by_role("button", name="Clear").click()
    send(service, "load", 90_000, 1)
    opened.wait_for("/90000")
    assert opened.problems() == []


def test_filters_stay_over_reload_and_back(service: Service, visit: Open) -> None:
    send(service, "kept", 0, 10)
    opened = visit("/requests/list/", "Filters and columns")
    page = opened.page
    page.get_by_text("Filters and columns").click()
    page.get_by_role("combobox", name="Service").fill("kept")
    page.get_by_label("Tags").check()
    page.get_by_role("button", name="Apply").click()
    opened.wait_for("10 requests")
    page.reload()
    opened.wait_for("10 requests")
    page.get_by_role("link", name="503").first.click()
    opened.wait_for("1 request")
    query = parse_qs(urlsplit(page.url).query)
    assert (query["service"], query["status_code"]) == (["kept"], ["503"])
    assert "tags" in query["columns"][0]

    page.go_back()
    opened.wait_for("10 requests")
    page.get_by_title("Remove this filter").click()
    assert "service" not in parse_qs(urlsplit(page.url).query)
    assert opened.problems() == []
