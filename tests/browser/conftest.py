"""One service and one browser for all tests of pages.

They are closed with the last of them: while it is open, Playwright has an event loop in this thread, where other tests
run their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import Service, copy_home, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

Open = Callable[[str, str], "Visit"]
SHOTS = Path(__file__).parent / "shots"
WIDE: ViewportSize = {"width": 1440, "height": 900}
# Tests share the machine; Redoc draws all operations at once.
TIMEOUT_S = 60
NARROW: ViewportSize = {"width": 390, "height": 844}
# What a page loads or does against its Content-Security-Policy.
_COLLECT_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


@pytest.fixture(scope="package")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the plugins of the tree."""
    home = copy_home(initialised, tmp_path_factory.mktemp("browser"))
    with serving(home) as started:
        yield started


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine."""
    # It takes longer to import than everything else together, and most processes of a run open no page.
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what it did so far.

    Args:
        page: The page.
        origin: Of the service.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self._origin = f"{origin}/"
        self._urls: list[str] = []
        self._errors: list[str] = []
        page.on("request", lambda request: self._urls.append(request.url))
        page.on("console", lambda message: self._errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.add_init_script(_COLLECT_VIOLATIONS)

    def wait_for(self, shown: str) -> None:
        """Wait until a text is seen."""
        self.page.get_by_text(shown).filter(visible=True).first.wait_for()

    def problems(self) -> list[str]:
        """Return what failed, what ``Content-Security-Policy`` forbade, and what was loaded from elsewhere.

        What was returned once is not again.
        """
        violations: list[str] = self.page.evaluate("violations.splice(0)")
        own = (self._origin, "data:", "blob:")
        found = [*self._errors, *violations, *(url for url in self._urls if not url.startswith(own))]
        self._errors.clear()
        self._urls.clear()
        return found

    def overflow_px(self) -> int:
        """Return by how much the page is wider than the window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def background(self) -> str:
        """Return the colour behind everything."""
        found: str = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return found

    def shoot(self, name: str, *, full_page: bool = False) -> None:
        """Save a picture of what the window shows, or of the whole page, for people."""
        SHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=full_page)


@pytest.fixture
def visit(service: Service, browser: Browser) -> Iterator[Open]:
    """Open pages of the service, as wide as a desk allows, in the light theme: ``visit("/", "what it shows")``."""
    with ExitStack() as stack:

        def open_page(path: str, shown: str) -> Visit:
            context = stack.enter_context(browser.new_context(viewport=WIDE, color_scheme="light"))
            context.set_default_timeout(TIMEOUT_S * 1000)
            opened = Visit(context.new_page(), service.url)
            opened.page.goto(service.url + path)
            opened.wait_for(shown)
            return opened

        yield open_page
