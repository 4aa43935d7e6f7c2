"""The set-up of Notion as the how-to shows it, word by word, with a fake in place of Notion."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.contract.test_tour import looks_like
from tests.contract.tree import DOCS
from tests.notion.server import FakeNotion, running_notion
from tests.notion.values import person
from tests.notion.workspace import DataSource, Workspace
from tests.plugins.trace.factories import FAST
from tests.processes import eventually

PAGE = (DOCS / "howto" / "notion.md").read_text()
_SECTION = re.compile(r"^## Set up$(.*?)^## Refresh$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_IDS = re.compile(r"\b[0-9a-f]{32}\b")
PLUGINS = ["system", "trace", "skyflow", "nexus"]


class Example:
    """The workspace that the page is about."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.tiers = self.workspace.add_data_source("Tiers", {"Name": "title", "Level": "number"})
        relation = ("relation", {"data_source_id": self.tiers.id})
        columns: dict[str, Any] = {"Area": "select", "Status": "status", "Lowest tier": relation, "Owner": "people"}
        self.features = self.workspace.add_data_source("Features", {"Name": "title", **columns})
        free = self.workspace.add_page(self.tiers, {"Name": "Free", "Level": 1})
        self._feature("Boards", "flow", free)
        self.workspace.wait(minutes=5)
        plus = self.workspace.add_page(self.tiers, {"Name": "Plus", "Level": 2})
        self._feature("Digest", "beacon", plus)

    def _feature(self, name: str, area: str, tier: Any) -> None:
        values = {"Area": area, "Status": "live", "Lowest tier": [tier], "Owner": [person("Ada")]}
        self.workspace.add_page(self.features, {"Name": name, **values})

    def spoil(self) -> None:
        """Break the workspace as on that page: change the type of a column."""
        self.workspace.change_type(self.features, "Status", "checkbox")

    def put_ids(self, toml: str) -> str:
        """Put the ids of this workspace in the place of those on the page: of features, of a view, of tiers."""
        ids = [_plain(self.features), "0" * 32, _plain(self.tiers)]
        return _IDS.sub(lambda found: ids.pop(0), toml)


def _plain(source: DataSource) -> str:
    return source.database_id.replace("-", "")


def blocks() -> Iterator[tuple[str, str]]:
    """List the kinds and contents of the blocks of the section."""
    (section,) = _SECTION.findall(PAGE)
    for indent, kind, content in _BLOCK.findall(section):
        yield kind, textwrap.dedent(f"{indent}{content}") if indent else content


@pytest.fixture
def example() -> Example:
    return Example()


@pytest.fixture
def notion(example: Example) -> Iterator[FakeNotion]:
    with running_notion(FakeNotion(example.workspace, token="ntn_...")) as started:
        yield started


@pytest.fixture
def tiercel(
    notion: FakeNotion,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunCommand:
    """Run commands as a user would who has nothing set but the address of the fake."""
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.delenv("NOTION_TOKEN", raising=False)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    for name, value in {**FAST, "api_url": notion.url}.items():
        monkeypatch.setenv(f"TIERCEL_TRACE__{name.upper()}", str(value))
    return run


@pytest.mark.slow
def test_every_line_of_the_set_up_does_what_is_shown(
    serve: Serve, tiercel: RunCommand, notion: FakeNotion, example: Example, tmp_path: Path
) -> None:
    client = serve(plugins=PLUGINS)
    (tmp_path / "config").mkdir()
    do = Doing(tiercel, client, tmp_path, on_full=example.spoil)
    outputs: list[tuple[str, str]] = []
    given = list(blocks())
    for (kind, content), (next_kind, shown) in zip(given, [*given[1:], ("", "")], strict=True):
        if kind == "toml":
            (tmp_path / "config" / "tiercel.toml").write_text(example.put_ids(content))
        if kind == "sh":
            expected = shown if next_kind == "text" else ""
            output = "".join(do(line, expected) for line in content.splitlines())
            outputs.append((expected, output.replace(notion.url, "https://api.notion.com")))

    assert len(outputs) == 4
    for expected, output in outputs:
        assert looks_like(output, expected), output


class Doing:
    """Does what a line of a shell says: a command of ours, curl, or echo into a file."""

    def __init__(self, tiercel: RunCommand, client: Client, folder: Path, on_full: Callable[[], None]) -> None:
        self._tiercel = tiercel
        self._client = client
        self._folder = folder
        self._on_full = on_full

    def __call__(self, line: str, shown: str) -> str:
        """Return what a line prints. The page shows what its whole block prints, curl's answer as the last line."""
        words = shlex.split(line)
        if words[0] == "tiercel":
            if "--full" in words:
                self._on_full()
            ran = self._tiercel(*words[1:])
            # Messages to the user, without the log.
            told = [each for each in ran.errors.splitlines(keepends=True) if each.startswith("tiercel: ")]
            return ran.output + "".join(told)
        if words[:2] == ["curl", "-s"]:
            path = words[2].removeprefix("http://127.0.0.1:8000")
            *_, last = shown.splitlines()
            # The service hears of what a command changed a moment later.
            assert eventually(lambda: looks_like(self._client.get(path).content.decode(), last))
            return f"{self._client.get(path).content.decode()}\n"
        assert (words[0], words[2]) == ("echo", ">>")
        (self._folder / words[3]).write_text(f"{words[1]}\n")
        return ""
