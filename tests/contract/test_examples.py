"""Examples of the documentation work when copied."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kernel.config import load
from plugins.observability.settings import ObservabilitySettings
from plugins.trace.settings import TraceSettings
from tests.conftest import Serve
from tests.contract.tree import ROOT, documents, python_blocks


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
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package that can be imported, with a unique name for each test."""
    folder = tmp_path / f"acme_{tmp_path.name.replace('-', '_')}"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_plugin_of_the_how_to_works(serve: Serve, acme: Path) -> None:
    (plugin,) = python_blocks("howto/write-a-plugin.md")
    (acme / "hello.py").write_text(plugin)

    client = serve(plugins=["system", f"{acme.name}.hello"])

    assert client.get("/hello/?name=Ada").json() == {"greeting": "Hello, Ada!"}
    wrong = client.get("/hello/?nmae=Ada")
    assert (wrong.status, list(wrong.json()["errors"])) == (400, ["nmae"])


@pytest.mark.slow
def test_the_tests_of_the_how_to_pass(acme: Path, database: str) -> None:
    (plugin,) = python_blocks("howto/write-a-plugin.md")
    (tests,) = python_blocks("howto/test-a-plugin.md")
    (acme / "hello.py").write_text(plugin)
    (acme.parent / "test_hello.py").write_text(tests.replace("acme.hello", f"{acme.name}.hello"))
    path = os.pathsep.join((str(acme.parent), str(ROOT)))
    server = make_conninfo(database, dbname="postgres")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hello.py"],
        cwd=acme.parent,
        env={**os.environ, "PYTHONPATH": path, "TEST_DATABASE_URL": server},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout


def test_the_job_of_the_how_to_works(serve: Serve, acme: Path, database: str) -> None:
    (job,) = python_blocks("howto/jobs.md")
    (acme / "export.py").write_text(job)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA acme CREATE TABLE item (name text)")
    client = serve(plugins=["system", f"{acme.name}.export"])

    done = client.service.shared.jobs.run_inline("acme.export", {"source": "a", "limit": 3})

    assert (done.state, done.result) == ("succeeded", {"items": 3})
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM acme.item").fetchone() == (3,)


def test_what_the_documentation_imports_is_there() -> None:
    text = "\n".join(page.read_text() for page in documents())
    imported = re.findall(r"^from (kernel[\w.]*) import (.+)$", text, re.MULTILINE)

    assert imported
    for module, names in imported:
        assert set(names.split(", ")) <= set(dir(importlib.import_module(module)))
