"""Examples of the documentation work when copied."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from kernel.config import load
from kernel.testing import running
from plugins.observability.settings import ObservabilitySettings
from plugins.trace.settings import TraceSettings
from tests.conftest import Serve
from tests.contract.tree import DOCS, ROOT, documents, python_blocks
from tests.processes import copy_home, run_tiercel


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
    plugin, *_ = python_blocks("howto/write-a-plugin.md")
    (acme / "hello.py").write_text(plugin)

    client = serve(plugins=["system", f"{acme.name}.hello"])

    assert client.get("/hello/?name=Ada").json() == {"greeting": "Hello, Ada!"}
    wrong = client.get("/hello/?nmae=Ada")
    assert (wrong.status, list(wrong.json()["errors"])) == (400, ["nmae"])


def test_the_page_of_the_how_to_is_in_the_menu(serve: Serve, acme: Path) -> None:
    _, _, _, plugin, _ = python_blocks("howto/write-a-plugin.md")
    template, panel, _ = html_blocks("howto/write-a-plugin.md")
    templates = {"templates/board.html": template, "templates/plugins.html": panel}
    files = {"__init__.py": plugin, **templates, "static/board.css": ".card { color: teal }"}
    write_files(acme / "board", files)

    client = serve(plugins=["system", f"{acme.name}.board"])
    page = client.get("/board/", headers={"Accept": "text/html"}).content.decode()

    assert '<li class="card">board</li>' in page
    assert '<a href="/board/" aria-current="page">Board</a>' in page
    (style,) = re.findall(r'href="(/static/board/[^"]*)"', page)
    assert client.get(style).content.decode() == files["static/board.css"]
    assert client.get("/board/").json() == {"plugins": ["system", "board"]}


def test_the_form_of_the_how_to_is_filled_in(serve: Serve, acme: Path) -> None:
    *_, plugin = python_blocks("howto/write-a-plugin.md")
    *_, template = html_blocks("howto/write-a-plugin.md")
    write_files(acme / "guestbook", {"__init__.py": plugin, "templates/book.html": template})
    client = serve(plugins=["system", f"{acme.name}.guestbook"])
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}

    wrong = client.post("/guestbook/", content=b"name=Ada&stars=6", headers=headers)
    sent = client.post("/guestbook/", content=b"name=Ada&stars=4", headers=headers)
    cookie = sent.headers["set-cookie"].partition(";")[0]
    page = client.get("/guestbook/", headers={"Cookie": cookie}).content.decode()

    assert (wrong.status, sent.status, sent.headers["location"]) == (400, 303, "/guestbook/")
    assert "Expected int &lt;= 5" in wrong.content.decode()
    assert "<p>Ada</p>" in page
    assert "Thank you for signing." in page
    assert client.post("/guestbook/clear/", content=b"", headers=headers).status == 303
    assert "Ada" not in client.get("/guestbook/").content.decode()


def html_blocks(page: str) -> list[str]:
    """Return the templates of a page of the documentation."""
    return re.findall(r"^```html\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_table_of_the_how_to_is_that_of_the_example() -> None:
    _, declaration, pages, *_ = python_blocks("howto/write-a-plugin.md")
    example = (ROOT / "contrib" / "planner" / "__init__.py").read_text()

    assert declaration in example
    assert pages in example


@pytest.mark.process
@pytest.mark.slow
def test_the_tests_of_the_how_to_pass_and_leave_live_data_alone(
    initialised: Path, tmp_path: Path, database: str
) -> None:
    plugin, *_ = python_blocks("howto/write-a-plugin.md")
    (tests,) = python_blocks("howto/test-a-plugin.md")
    home = copy_home(initialised, tmp_path)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "hello.py").write_text(plugin)
    (tmp_path / "acme" / "test_hello.py").write_text(tests)
    (tmp_path / ".env").write_text(f"TIERCEL_DATABASE_URL={database}\nTIERCEL_LOG__FILE=live.log\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiercel.toml").write_text('home = ".tiercel"\n')
    before = (files_below(home), contents_of(database))

    # Without the variable that names the live database, .env does; with it, the environment.
    for variables in ({}, {"TIERCEL_DATABASE_URL": database, "DATABASE_URL": database}):
        ran = run_tiercel(home, "test", "acme.hello", "-p", "no:cacheprovider", **variables)

        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "2 passed" in ran.stdout
    assert (files_below(home), contents_of(database)) == before
    assert not (tmp_path / "live.log").exists()


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def contents_of(database: str) -> list[tuple[object, ...]]:
    """Return how much has ever been written to each table of a database."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        return connection.execute(
            "SELECT schemaname, relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables ORDER BY 1, 2"
        ).fetchall()


@pytest.mark.parametrize("given", [{}, {"TIERCEL_HOME": "elsewhere"}])
def test_the_test_kit_refuses_a_configuration_of_the_working_directory(given: dict[str, str], tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="make the configuration with make_configuration"),
        running(load(given, tmp_path)),
    ):
        pass


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
