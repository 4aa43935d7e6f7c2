"""Small files, small functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.tree import ROOT, sources

FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 50


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """List functions and methods with their lengths."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_there_are_sources_to_look_at() -> None:
    assert Path("kernel/app.py") in sources()


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_file_is_small(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", sources(), ids=str)
def test_functions_are_small(path: Path) -> None:
    assert [name for name, lines in functions(path) if lines > FUNCTION_LINES_MAX] == []
