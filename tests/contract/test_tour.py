"""The pages of the documentation, executed line by line on a service as ``make up`` starts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contract.tree import DOCS, README, ROOT
from tests.processes import TIERCEL, Service, copy_home, eventually, make_environment, serving

_SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# In an order in which each page finds what it is about.
PAGES = [
    README,
    DOCS / "quickstart.md",
    DOCS / "howto" / "ingest.md",
    DOCS / "howto" / "send-from-applications.md",
    DOCS / "howto" / "analytics.md",
    DOCS / "howto" / "import-logs.md",
    DOCS / "howto" / "opentelemetry.md",
    DOCS / "howto" / "live-tail.md",
    DOCS / "howto" / "jobs.md",
    DOCS / "howto" / "openapi.md",
    DOCS / "howto" / "accounts.md",
    DOCS / "operations" / "production.md",
    DOCS / "operations" / "alerts.md",
    DOCS / "operations" / "checks.md",
    DOCS / "operations" / "scaling.md",
    DOCS / "operations" / "troubleshooting.md",
    DOCS / "reference" / "errors.md",
]
# What is about installing, or about files and containers of another place.
_NOT_HERE = {"Start", "Install and start", "Write a job"}
# What is sent is counted by the minute; it takes this long until all of it is.
_SENDING_S = 25


def examples() -> Iterator[tuple[str, str, str | None]]:
    """List page and section, commands, and what the page shows of their output, where it shows some."""
    for page in PAGES:
        _, *parts = _SECTION.split(f"## {page.name}\n{page.read_text()}")
        for title, text in zip(parts[::2], parts[1::2], strict=True):
            blocks = _BLOCK.findall(text)
            for (kind, commands), (next_kind, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=False):
                if kind == "sh" and title not in _NOT_HERE and "tiercel serve" not in commands:
                    yield f"{page.name}: {title}", commands, shown if next_kind == "text" else None


def run(service: Service, commands: str, folder: Path) -> str:
    """Run commands on a service as a user would; return what a terminal would show."""
    commands = commands.replace("http://127.0.0.1:8000", service.url).replace(".venv/bin/tiercel", TIERCEL)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=make_environment(service.home, PYTHONPATH=f"{ROOT}:{ROOT / 'contrib' / 'client'}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.replace(service.url, "http://127.0.0.1:8000")


def looks_like(output: str, shown: str | None) -> bool:
    """Tell whether an output is what is shown, spaces and ends of lines aside; … stands for anything."""
    if shown is None:
        return '"success":false' not in output
    pattern = re.escape("".join(shown.split())).replace("…", ".*?")
    return re.fullmatch(pattern, "".join(output.split())) is not None


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl")
def test_every_command_of_the_documentation_does_what_is_shown(initialised: Path, tmp_path: Path) -> None:
    home = copy_home(initialised, tmp_path)
    with serving(home, (TIERCEL, "up")) as service:
        # From the first answer on, though the worker starts after the web server.
        assert service.get("/readyz").json()["status"] == "ok"
        assert eventually(lambda: datetime.now(UTC).second < 60 - _SENDING_S, timeout_s=60)

        outputs = [(title, shown, run(service, commands, tmp_path)) for title, commands, shown in examples()]

    assert len(outputs) > 30
    different = [f"{title}\n{shown}\n{output}" for title, shown, output in outputs if not looks_like(output, shown)]
    assert not different, "\n\n".join(different)
