"""The tour in the README, walked line by line on a service as ``make up`` starts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contract.tree import ROOT
from tests.processes import TIERCEL, Service, copy_home, eventually, make_environment, serving

_SECTION = re.compile(r"^###? (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FIRST, _BEYOND = "A tour with curl", "Retention"
# Their answers are about the day that ends now.
_OF_TODAY = {"Analytics", "Over time"}
# What was sent is shown by the minute; it takes this long until all of it is.
_SENDING_S = 25


def walk() -> Iterator[tuple[str, str, str | None]]:
    """List section, commands and what the README shows of their output, where it shows some."""
    _, *parts = _SECTION.split((ROOT / "README.md").read_text())
    titles, texts = parts[::2], parts[1::2]
    for title, text in list(zip(titles, texts, strict=True))[titles.index(_FIRST) : titles.index(_BEYOND)]:
        blocks = _BLOCK.findall(text)
        for (kind, commands), (next_kind, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=False):
            if kind == "sh" and title not in _OF_TODAY:
                yield title, commands, shown if next_kind == "text" else None


def run(service: Service, commands: str, folder: Path) -> str:
    """Run commands on a service as a user would; return what a terminal would show."""
    commands = commands.replace("http://127.0.0.1:8000", service.url).replace(".venv/bin/tiercel", TIERCEL)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=make_environment(service.home),
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
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour goes with curl")
def test_every_line_of_the_tour_does_what_is_shown(initialised: Path, tmp_path: Path) -> None:
    home = copy_home(initialised, tmp_path)
    with serving(home, (TIERCEL, "up")) as service:
        assert eventually(lambda: service.get("/readyz").json()["status"] == "ok")
        assert eventually(lambda: datetime.now(UTC).second < 60 - _SENDING_S, timeout_s=60)

        outputs = [(title, shown, run(service, commands, tmp_path)) for title, commands, shown in walk()]

    assert len(outputs) > 15
    assert [(title, shown, output) for title, shown, output in outputs if not looks_like(output, shown)] == []
