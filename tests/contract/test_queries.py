"""Every named query is used, and every query that is used is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.tree import PRODUCT, ROOT, sources

FILES = sorted(path.relative_to(ROOT) for package in PRODUCT for path in (ROOT / package).rglob("queries*.sql"))
_NAME = re.compile(r"^-- name: (\w+)", re.MULTILINE)
_USE = re.compile(r'QUERIES\["(\w+)"\]')
_USED_PREFIX = re.compile(r'QUERIES\[f"(\w+_)\{')


def code_of(folder: Path) -> str:
    """Return the Python code that may use the queries of a folder."""
    # Those of kernel/db are used from all over the kernel; others in their room alone.
    root = Path("kernel") if folder == Path("kernel/db") else folder
    rooms = [path.parent for path in FILES if path.parent != folder and path.parent.is_relative_to(root)]
    inside = [path for path in sources() if path.is_relative_to(root)]
    return "\n".join((ROOT / path).read_text() for path in inside if not any(map(path.is_relative_to, rooms)))


def is_used(name: str, code: str) -> bool:
    """Tell whether code names a query, or composes its name: ``QUERIES[f"filter_{name}"]``."""
    prefixes = {"", *_USED_PREFIX.findall(code)}
    return any(name.startswith(prefix) and f'"{name.removeprefix(prefix)}"' in code for prefix in prefixes)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_named_query_is_used(path: Path) -> None:
    code = code_of(path.parent)

    names = _NAME.findall((ROOT / path).read_text())

    assert names
    assert [name for name in names if not is_used(name, code)] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_query_that_is_used_is_there(path: Path) -> None:
    names = _NAME.findall((ROOT / path).read_text())

    assert set(_USE.findall(code_of(path.parent))) <= set(names)
