"""Make the pictures of the README anew: ``python -m tests.browser.pictures``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import ViewportSize, sync_playwright

from tests.processes import ROOT, TIERCEL, serving

FOLDER = ROOT / "docs" / "pictures"
WINDOW: ViewportSize = {"width": 1440, "height": 860}
# By name: the page, and its theme.
PICTURES: dict[str, tuple[str, Literal["light", "dark"]]] = {
    "overview": ("/requests/?last=7d", "light"),
    "requests": ("/requests/list/?status_class=5xx", "dark"),
    "matrix": ("/trace/matrix/", "light"),
}


def main() -> None:
    """Start a service with demo data, and write a picture of each page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium")
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="tiercel-pictures-") as folder,
        serving(Path(folder) / "home", (TIERCEL, "up")) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (path, theme) in PICTURES.items():
            page = browser.new_page(viewport=WINDOW, color_scheme=theme)
            page.goto(service.url + path, wait_until="networkidle")
            page.screenshot(path=FOLDER / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
