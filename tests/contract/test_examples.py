"""What the documents show to copy works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernel.configuration import load
from plugins.observability.settings import ObservabilitySettings
from tests.conftest import Serve
from tests.contract.tree import ROOT

_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_variable_of_the_example_sets_something(tmp_path: Path) -> None:
    example = (ROOT / "config" / ".env.example").read_text()
    variables = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", example, re.MULTILINE))
    # The parts of a URL count only where no URL is given.
    parts = {name for name in variables if name.startswith(("POSTGRES_", "DB_"))}
    (tmp_path / ".env").write_text("".join(f"{name}={variables[name]}\n" for name in variables.keys() - parts))

    configuration = load({}, tmp_path)
    configuration.table("observability", ObservabilitySettings)
    origins = {entry.origin for entry in configuration.entries()}

    assert origins - {"default"} == {f".env {name}" for name in variables.keys() - parts}


def test_the_plugin_in_the_readme_works(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = _PYTHON_BLOCK.findall((ROOT / "README.md").read_text())
    # A name of its own, so that no other test's package of that name is in the way.
    folder = tmp_path / "readme_example"
    folder.mkdir()
    (folder / "hello.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)

    client = serve(plugins=["system", "readme_example.hello"])

    assert client.get("/hello/?name=Ada").json() == {"greeting": "Hello, Ada!"}
    wrong = client.get("/hello/?nmae=Ada")
    assert (wrong.status, list(wrong.json()["errors"])) == (400, ["nmae"])
