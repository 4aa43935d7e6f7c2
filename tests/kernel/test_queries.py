"""Loading of named queries from ``.sql`` files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kernel.db.queries import load_queries

Load = Callable[[str], Mapping[str, str]]
_numbers = itertools.count()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the queries of a package whose file has this text."""

    def loaded(text: str) -> Mapping[str, str]:
        package = tmp_path / f"package_with_queries_{next(_numbers)}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "queries.sql").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return load_queries(package.name)

    return loaded


def test_queries_are_loaded_by_name(load: Load) -> None:
    queries = load("-- About this file.\n\n-- name: one\nSELECT 1;\n\n-- name: two\nSELECT\n  %(x)s -- two\n")

    assert queries == {"one": "SELECT 1;", "two": "SELECT\n  %(x)s -- two"}


def test_loaded_queries_are_read_only(load: Load) -> None:
    with pytest.raises(TypeError):
        load("-- name: one\nSELECT 1")["one"] = "SELECT 2"  # type: ignore[index]


def test_two_queries_with_the_same_name_are_rejected(load: Load) -> None:
    with pytest.raises(ValueError, match="query 'one' is defined twice"):
        load("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;")


@pytest.mark.parametrize("text", ["SELECT 1;\n-- name: one\nSELECT 2;", "SELECT 1;"])
def test_sql_before_the_first_name_is_rejected(text: str, load: Load) -> None:
    with pytest.raises(ValueError, match="SQL before the first '-- name:' line"):
        load(text)


@pytest.mark.parametrize("line", ["-- name: Two", "--name: two", "-- name: two words", "-- NAME: two"])
def test_a_misspelt_name_line_is_rejected(line: str, load: Load) -> None:
    with pytest.raises(ValueError, match="is not '-- name: ' and a name in snake_case"):
        load(f"-- name: one\nSELECT 1;\n{line}\nSELECT 2;")
