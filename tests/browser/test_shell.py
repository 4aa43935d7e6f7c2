"""The shell of pages in a browser: signing in and out, acting for an account, the palette, the menu of a telephone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import NARROW, TIMEOUT_S, WIDE, Open, Visit
from tests.processes import Service, copy_home, run_tiercel, serving

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]

EMAIL, PASSWORD = "ann@example.com", "correct horse battery staple"


@pytest.fixture(scope="module")
def guarded(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on which one has to sign in."""
    home = copy_home(initialised, tmp_path_factory.mktemp("guarded"))
    with serving(home, TIERCEL_AUTH="required") as started:
        created = run_tiercel(home, "accounts", "create-admin", EMAIL, TIERCEL_PASSWORD=PASSWORD)
        assert created.returncode == 0, created.stderr
        yield started


def path_of(page: Page) -> str:
    parts = urlsplit(page.url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def test_from_signing_in_over_another_account_to_signing_out(guarded: Service, browser: Browser) -> None:
    with browser.new_context(viewport=WIDE) as context:
        context.set_default_timeout(TIMEOUT_S * 1000)
        page = context.new_page()
        opened = Visit(page, guarded.url)
        page.goto(f"{guarded.url}/requests/?last=7d")
        opened.shoot("sign-in-wide")
        page.get_by_label("E-mail address").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/requests/?last=7d")
        expect(page.get_by_role("link", name=EMAIL)).to_be_visible()
        created = page.evaluate(
            """async () => {
              const send = (path, body) => fetch(path, {
                method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
              }).then((response) => response.json());
              const account = await send("/api/v1/accounts/", { slug: "acme", name: "ACME" });
              return send("/api/v1/subscriptions/", { account: account.data.id, plan: 1, status: "active" });
            }"""
        )
        assert created["success"], created

        page.get_by_role("link", name=EMAIL).click()
        page.get_by_label("Number or slug").fill("acme")
        page.get_by_role("button", name="Act for it").click()
        expect(page.get_by_text("Acting for ACME")).to_be_visible()
        page.goto(f"{guarded.url}/requests/")
        expect(page.get_by_text("Acting for ACME")).to_be_visible()
        expect(page.get_by_text("No requests yet").first).to_be_visible()
        opened.shoot("acting-wide")
        page.get_by_role("button", name="Back to own account").click()
        expect(page.get_by_text("Acting for")).to_have_count(0)
        assert path_of(page) == "/requests/"

        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out.")).to_be_visible()
        page.goto(f"{guarded.url}/account/")
        assert path_of(page) == "/sign-in/?next=%2Faccount%2F"
        assert opened.problems() == []


def test_the_palette_is_used_by_keyboard(service: Service, visit: Open) -> None:
    event = {
        "time": datetime.now(UTC).isoformat(),
        "service": "palette",
        "endpoint": "/found/",
        "method": "GET",
        "status_code": 200,
        "latency_ms": 5,
        "trace_id": "f00dfeed",
    }
    assert service.post("/api/requests/ingest/", [event]).status_code == 200
    opened = visit("/requests/?last=24h", "Busiest endpoints")
    page = opened.page
    before = page.get_by_role("link", name="Requests", exact=True).first
    before.focus()

    page.keyboard.press("Control+k")
    field = page.get_by_role("combobox", name="Search")
    expect(field).to_be_focused()
    # Before anything is entered: the menu, with what is folded in it.
    expect(page.get_by_role("option", name="Plans")).to_be_visible()
    page.keyboard.press("Escape")
    expect(field).to_be_hidden()
    expect(before).to_be_focused()

    page.keyboard.press("Control+k")
    page.keyboard.type("f00dfeed")
    expect(page.get_by_role("option", name="f00dfeed")).to_have_attribute("aria-selected", "true")
    expect(field).to_have_attribute("aria-activedescendant", re.compile("palette-option-0"))
    opened.shoot("palette-wide")
    field.fill("api")
    first = page.get_by_role("option", name="API documentation")
    expect(first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option", name="API reference")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowUp")
    expect(first).to_have_attribute("aria-selected", "true")
    field.fill("f00dfeed")
    expect(page.get_by_role("dialog").get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests/traces/f00dfeed/")
    assert opened.problems() == []


def test_the_menu_of_a_telephone_needs_no_scripts(service: Service, browser: Browser) -> None:
    with browser.new_context(viewport=NARROW, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{service.url}/requests/?application=skyflow")
        link = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Requests", exact=True)
        expect(link).to_be_hidden()
        page.get_by_text("Menu", exact=True).click()
        link.click()
        assert path_of(page) == "/requests/list/?application=skyflow"

        page.set_viewport_size(WIDE)
        expect(link).to_be_visible()
        page.get_by_role("link", name="Search").click()
        page.get_by_role("searchbox").fill("over")
        page.get_by_role("main").get_by_role("button", name="Search").click()
        page.get_by_role("main").get_by_role("link", name="Overview").first.click()
        page.get_by_text("Application: All data").click()
        page.get_by_role("link", name="Nexus").click()
        assert path_of(page) == "/requests/?application=nexus"
