"""What the documents show to copy works as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from kernel.config import load
from plugins.observability.settings import ObservabilitySettings
from plugins.trace.settings import TraceSettings
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
    configuration.table("trace", TraceSettings)
    origins = {entry.origin for entry in configuration.entries()}

    assert origins - {"default"} == {f".env {name}" for name in variables.keys() - parts}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a module of the one example in the README that has a text in it; return its name."""

    def make(text: str) -> str:
        (block,) = (block for block in _PYTHON_BLOCK.findall((ROOT / "README.md").read_text()) if text in block)
        # A name of its own, so that no other test's package of that name is in the way.
        folder = tmp_path / f"readme_{text}"
        folder.mkdir()
        (folder / "example.py").write_text(block)
        monkeypatch.syspath_prepend(tmp_path)
        return f"{folder.name}.example"

    return make


def test_the_plugin_in_the_readme_works(serve: Serve, example: Callable[[str], str]) -> None:
    client = serve(plugins=["system", example("hello")])

    assert client.get("/hello/?name=Ada").json() == {"greeting": "Hello, Ada!"}
    wrong = client.get("/hello/?nmae=Ada")
    assert (wrong.status, list(wrong.json()["errors"])) == (400, ["nmae"])


def test_the_job_in_the_readme_works(serve: Serve, example: Callable[[str], str], database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA acme CREATE TABLE item (name text)")
    client = serve(plugins=["system", example("register_jobs")])

    done = client.service.shared.jobs.run_inline("acme.export", {"source": "a", "limit": 3})

    assert (done.state, done.result) == ("succeeded", {"items": 3})
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM acme.item").fetchone() == (3,)
