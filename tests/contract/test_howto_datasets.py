"""Applications and datasets as the how-to pages show them, word by word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernel.testing import Client
from tests.applications import PLUGINS, is_served, publish_demo
from tests.commands import make_runner
from tests.conftest import Serve
from tests.contract.tree import DOCS
from tests.processes import eventually

PAGES = "\n".join((DOCS / "howto" / name).read_text() for name in ("applications.md", "datasets.md"))
_SAVED = re.compile(r"Save this as `acme/(\w+)\.py`.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASKED = re.compile(r"^```sh\n([^`]*?)^```\n```text\n([^`]*?)^```$", re.MULTILINE)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of all plugins that the PAGES tells to save."""
    # A unique name, because modules of other tests stay imported.
    folder = tmp_path / "howto_example"
    folder.mkdir()
    for name, block in _SAVED.findall(PAGES):
        (folder / f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_the_application_of_the_how_to_works(serve: Serve, examples: str) -> None:
    client = serve(plugins=["system", "trace", f"{examples}.orbit"])
    publish_demo(client)

    assert shown(client, "/trace/public/orbit/tiers/?explain=1") == example("/trace/public/orbit/tiers/?explain=1")


def test_the_dataset_of_the_how_to_works(
    serve: Serve,
    examples: str,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugins = ["system", f"{examples}.orbit", f"{examples}.planets"]
    (file,) = re.findall(r"^echo '(.*)' > files/planets.json$", PAGES, re.MULTILINE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "planets.json").write_text(file)
    run = make_runner(database, tmp_path, monkeypatch, capsys)

    ran = run("data", "import", "files", TIERCEL_PLUGINS=",".join(plugins))
    client = serve(plugins=plugins)

    assert eventually(lambda: is_served(client, "planets"))
    for path in ("planets/?tags=hot", "planets/venus/", "versions/", "versions/compare/", "hidden/?application=orbit"):
        assert "Planets" in client.get(f"/acme/{path}", headers={"Accept": "text/html"}).content.decode(), path
    assert ran.code == 0
    assert ran.output + ran.errors in PAGES
    for path in ("/acme/public/orbit/planets/", "/acme/public/planets/?tags=hot", "/acme/public/planets/mars/"):
        assert shown(client, path) == example(path)


@pytest.mark.parametrize(
    "path",
    [
        "/trace/public/features/beacon-digest/?include=tier,gateways",
        "/trace/public/nexus/features/beacon-digest/?include=tier,gateways",
        "/trace/public/nexus/features/?tier=plus&include=gateways&explain=1",
        "/trace/public/skyflow/matrix/?tier=plus",
        "/trace/public/nexus/matrix/?search=digest",
    ],
)
def test_what_is_requested_of_specifications_is_answered_as_shown(serve: Serve, path: str) -> None:
    client = serve(plugins=PLUGINS)
    publish_demo(client)

    assert re.fullmatch(re.escape(example(path)).replace("…", ".*"), shown(client, path))


def shown(client: Client, path: str) -> str:
    """Return the answer to a path that must be there."""
    answer = client.get(path)
    assert answer.status == 200
    return answer.content.decode()


def example(path: str) -> str:
    """Return the answer that the PAGES shows for a path."""
    for commands, answers in _ASKED.findall(PAGES):
        asked = re.findall(r"^curl -s '?http://127.0.0.1:8000([^'\n]*)'?$", commands, re.MULTILINE)
        if path in asked:
            return str(answers.splitlines()[asked.index(path)])
    raise LookupError(path)
