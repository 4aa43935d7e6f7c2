"""Tables and their forms in a browser without scripts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import NARROW, TIMEOUT_S, WIDE
from tests.processes import Service

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("browser")]


def csv(*lines: str) -> dict[str, object]:
    """Return a file to upload."""
    return {"name": "sites.csv", "mimeType": "text/csv", "buffer": "\n".join(lines).encode()}


def test_rows_are_created_edited_imported_and_deleted_without_scripts(service: Service, browser: Browser) -> None:
    with browser.new_context(viewport=WIDE, java_script_enabled=False, base_url=service.url) as context:
        context.set_default_timeout(TIMEOUT_S * 1000)
        page = context.new_page()
        page.goto("/admin/sites/")
        page.get_by_role("link", name="New site").click()
        page.get_by_label("Slug").fill("browser-shop")
        page.get_by_label("Name").fill("Shop")
        page.get_by_role("button", name="Create").click()
        expect(page.get_by_role("status")).to_have_text("Site created.")

        page.get_by_label("Name").fill("Store")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("Site saved.")
        expect(page.get_by_role("heading", level=1)).to_have_text("Store")
        page.reload()
        expect(page.get_by_role("status")).to_have_count(0)

        page.goto("/admin/sites/import/")
        page.get_by_label("File").set_input_files(csv("slug,name", "browser-shop,Shop", "browser-bar,"))  # type: ignore[arg-type]
        page.get_by_role("button", name="Import").click()
        expect(page.get_by_role("alert")).to_contain_text("line 3: name: This field is required.")
        page.get_by_label("File").set_input_files(csv("slug,name", "browser-shop,Shop", "browser-bar,Bar"))  # type: ignore[arg-type]
        page.get_by_role("button", name="Import").click()
        expect(page.get_by_role("status")).to_contain_text("1 created, 1 changed, 0 unchanged")

        page.goto("/admin/sites/?search=browser-")
        expect(page.get_by_role("row")).to_have_count(3)
        page.get_by_role("link", name="browser-bar").click()
        expect(page.get_by_role("button", name="Delete site")).to_have_count(0)
        page.locator("summary", has_text="Delete site").click()
        page.get_by_role("button", name="Delete site").click()
        expect(page.get_by_role("status")).to_have_text("Site deleted.")


def test_a_new_key_is_shown_once_without_scripts(service: Service, browser: Browser) -> None:
    with browser.new_context(viewport=WIDE, java_script_enabled=False, base_url=service.url) as context:
        context.set_default_timeout(TIMEOUT_S * 1000)
        page = context.new_page()
        page.goto("/admin/keys/new/")
        page.get_by_label("Name").fill("browser")
        page.get_by_role("checkbox", name="read").check()
        page.get_by_role("checkbox", name="ingest").check()
        page.get_by_role("button", name="Create").click()
        expect(page.locator("#secret")).to_have_text(re.compile(r"^tk_\w{8}_"))
        page.get_by_role("link", name="I have it").click()
        expect(page.locator(".badge.good")).to_have_text("works")
        expect(page.locator("#secret")).to_have_count(0)

        # On a telephone, whatever a cell has stands beside its label, as wide as it is.
        page.set_viewport_size(NARROW)
        page.goto("/admin/keys/?search=browser")
        cell = page.locator('td[data-label="Scopes"]')
        expect(cell.locator(".badge")).to_have_count(2)
        boxes = [each.bounding_box() for each in cell.locator(".badge").all()]
        beside = (cell.bounding_box() or {"x": 0.0})["x"] + 100
        assert all(box is not None and box["x"] > beside and box["width"] < 80 for box in boxes), boxes
