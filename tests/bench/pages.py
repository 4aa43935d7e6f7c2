"""What pages weigh, when the first of them is seen, and how soon they react, in a Chromium on this machine."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, sync_playwright

from tests.bench.figures import Figure
from tests.bench.service import service

_OVERVIEW = "/requests/"
_ROUNDS = 9
# Bytes as they are transferred, headers included (https://www.w3.org/TR/resource-timing/#dom-performanceresourcetiming-transfersize).
_WEIGHT = """
() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .reduce((sum, each) => sum + each.transferSize, 0)
"""
# https://www.w3.org/TR/paint-timing/#first-contentful-paint
_FIRST_PAINT = """
() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null
"""
# From an event to the frame that shows its effect (https://www.w3.org/TR/event-timing/), in steps of 8 ms.
_OBSERVE_EVENTS = """
window.durations = [];
new PerformanceObserver((list) => durations.push(...list.getEntries().map((each) => each.duration)))
  .observe({ type: "event", durationThreshold: 16, buffered: true });
"""


def figures(full: bool) -> Iterator[Figure]:
    """Measure the pages of a service with demo data.

    Args:
        full: Does not matter.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise RuntimeError("no Chromium")
    with service("up") as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        url = f"http://127.0.0.1:{running.port}"
        paths = menu(browser, url)
        weights = {path: weigh(browser, url + path) for path in paths}
        heaviest = max(weights, key=weights.__getitem__)
        yield Figure(
            f"weight of the heaviest page, {heaviest}",
            weights[heaviest] / 1000,
            150,
            "at most",
            "kB",
            f"{len(weights)} pages, overview {weights[_OVERVIEW] / 1000:.0f} kB",
        )
        paints = [first_paint_ms(browser, url + _OVERVIEW) for _ in range(_ROUNDS)]
        yield Figure(
            "first contentful paint of the overview",
            statistics.median(paints),
            300,
            "at most",
            "ms",
            f"{min(paints):.0f} to {max(paints):.0f} ms, nothing in the cache of the browser",
        )
        durations = interact(browser, url + _OVERVIEW)
        yield Figure(
            "interaction to next paint",
            max(durations, default=0),
            100,
            "at most",
            "ms",
            "palette, typing, theme, filters, and a pointer on a chart; the slowest",
        )
        browser.close()


def menu(browser: Browser, url: str) -> list[str]:
    """Return the paths of the pages in the menu, without those of the programs of others."""
    page = browser.new_page()
    page.goto(url)
    links: list[str] = page.eval_on_selector_all("nav a[href^='/']", "all => all.map((each) => each.pathname)")
    page.close()
    return [each for each in dict.fromkeys(links) if not each.startswith("/api/")]


def weigh(browser: Browser, url: str) -> int:
    """Return how many bytes a page takes in a browser that has none of it."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url, wait_until="load")
        weight: int = page.evaluate(_WEIGHT)
        return weight


def first_paint_ms(browser: Browser, url: str) -> float:
    """Return when something of a page was seen first."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url, wait_until="load")
        page.wait_for_function(_FIRST_PAINT)
        first: float = page.evaluate(_FIRST_PAINT)
        return first


def interact(browser: Browser, url: str) -> list[float]:
    """Use a page, and return how long each event took until its effect was seen, in ms; fast ones are left out."""
    with browser.new_context() as context:
        page: Page = context.new_page()
        page.add_init_script(_OBSERVE_EVENTS)
        page.goto(url)
        page.keyboard.press("Control+k")
        page.keyboard.type("requests", delay=60)
        page.wait_for_timeout(300)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="theme").click()
        page.locator("details.filters > summary").click()
        plot = page.locator(".plot").first
        plot.hover()
        plot.click()
        page.wait_for_timeout(500)
        durations: list[float] = page.evaluate("durations")
        return durations
