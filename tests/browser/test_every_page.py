"""Every page of a service with demo data: reached by links, accessible, and fit for any window, by day and night."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from playwright.sync_api import Browser, Page

from kernel.app import Tiercel
from kernel.testing import make_configuration
from tests.browser.conftest import NARROW, TIMEOUT_S, WIDE, Visit
from tests.processes import TIERCEL, Service, copy_home, serving

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.xdist_group("browser")]

# The rules of WCAG 2.2 up to level AA, of https://github.com/dequelabs/axe-core.
_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
_RUN_AXE = """
async () => {
  const standards = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const { violations } = await axe.run({ runOnly: standards, resultTypes: ["violations"] });
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).slice(0, 3).join(", ")}`);
}
"""
# The programs of other projects, which test_pages.py looks at.
_VENDORED = {"/api/docs", "/api/redoc"}
# Those that no link of a service in mode "open" leads to.
_UNLINKED: set[str] = set()


@pytest.fixture(scope="module")
def demo(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as ``make up`` starts it."""
    home = copy_home(initialised, tmp_path_factory.mktemp("demo"))
    with serving(home, (TIERCEL, "up")) as started:
        fill_tables(started)
        yield started


def fill_tables(service: Service) -> None:
    """Create a row of each table that has none, so that links lead to its page."""

    def create(table: str, **fields: Any) -> int:
        answer = service.post(f"/api/v1/{table}/", fields)
        assert answer.status_code == 201, answer.text
        data = answer.json()["data"]
        return int(data.get("key", data)["id"])

    site = create("sites", slug="demo", name="Demo")
    create("sectors", site=site, slug="demo", name="Demo")
    create("site-access", site=site, user_id=create("users", email="demo@example.com"), role="viewer")
    create("keys", name="demo", scopes=["read"])
    assert service.post("/api/requests/marks/", {"title": "demo"}).status_code == 201
    # The list of runs has those that somebody started.
    assert service.post("/api/v1/jobs/", {"name": "observability.retention"}).status_code == 202


class Pages:
    """The pages of a service, by the templates of their paths."""

    def __init__(self) -> None:
        routes = Tiercel(make_configuration(log={"level": "error"})).shared.routes
        templates = {each.template for each in routes if each.is_page and each.route.method == "GET"}
        self.missing = templates - _VENDORED - _UNLINKED
        # A literal segment goes before a parameter.
        self._patterns = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(each)) + "/?"), each)
            for each in sorted(templates, key=lambda each: each.count("{"))
        ]

    def template_of(self, path: str) -> str | None:
        """Return the template of a page; None if the path is not that of a page."""
        return next((template for pattern, template in self._patterns if pattern.fullmatch(path)), None)


def name_of(template: str) -> str:
    """Return the name of the picture of a page."""
    return re.sub(r"[^a-z0-9]+", "-", template.lower()).strip("-") or "start"


def look(opened: Visit, name: str) -> list[str]:
    """Look at a page in both themes and sizes, and return what is wrong with it."""
    page, wrong = opened.page, []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        # Nobody looks at the pictures of continuous integration, where time is short: sizes take turns with themes.
        sizes: Sequence[str] = ("wide", "narrow")
        if os.environ.get("CI"):
            sizes = sizes[:1] if theme == "light" else sizes[1:]
        for size in sizes:
            page.set_viewport_size(WIDE if size == "wide" else NARROW)
            if not os.environ.get("CI"):
                opened.shoot(f"{name}-{size}-{theme}", full_page=True)
            if overflow_px := opened.overflow_px():
                wrong.append(f"{theme} {size}: {overflow_px} px wider than the window")
        # Sizes differ by what is folded, themes by their contrast.
        if not os.environ.get("CI") or zlib.crc32(name.encode()) % 2 == (theme == "dark"):
            page.set_viewport_size(WIDE if theme == "light" else NARROW)
            wrong += [f"{theme}: {each}" for each in run_axe(page)]
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    return wrong


def run_axe(page: Page) -> list[str]:
    """Return what is a serious obstacle to people with disabilities."""
    # Chromium lets a debugger do what Content-Security-Policy forbids the page.
    page.evaluate(_AXE)
    found: list[str] = page.evaluate(_RUN_AXE)
    return found


def test_every_page_is_reached_and_fits(demo: Service, browser: Browser) -> None:
    pages = Pages()
    wrong: dict[str, Any] = {}
    # Nobody has to sign in.
    paths = ["/", "/sign-in/"]
    with browser.new_context(viewport=WIDE, color_scheme="light") as context:
        context.set_default_timeout(TIMEOUT_S * 1000)
        opened = Visit(context.new_page(), demo.url)
        while paths:
            path = paths.pop(0)
            template = pages.template_of(urlsplit(path).path)
            if template not in pages.missing:
                continue
            pages.missing.remove(template)
            opened.page.goto(demo.url + path)
            opened.page.get_by_role("heading", level=1).first.wait_for(state="attached")
            paths += opened.page.eval_on_selector_all("a[href]", "all => all.map(each => each.getAttribute('href'))")
            found = look(opened, name_of(template)) + opened.problems()
            if found:
                wrong[path] = found

    assert wrong == {}, msgspec.json.format(msgspec.json.encode(wrong)).decode()
    assert pages.missing == set()
