"""What plugins may import is listed, is there, and is used."""

from __future__ import annotations

import ast
import importlib
import re
import types

import pytest

from tests.contract.tree import DOCS, ROOT

PACKAGES = ("kernel", "kernel.http", "kernel.jobs", "kernel.datasets", "kernel.audit", "kernel.limits", "kernel.cli")
MODULES = (*PACKAGES, "kernel.identity", "kernel.metrics")
KERNEL_NAMES_MAX = 46


def imported_by_plugins(module: str) -> set[str]:
    """Return the names that plugins, applications and the documentation import from a module."""
    sources = [path.read_text() for package in ("plugins", "contrib") for path in (ROOT / package).rglob("*.py")]
    pages = "\n".join(path.read_text() for path in DOCS.rglob("*.md"))
    sources += re.findall(r"^```python\n(.*?)^```$", pages, re.MULTILINE | re.DOTALL)
    statements = [
        node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    ]
    return {alias.name for node in statements if node.module == module for alias in node.names}


@pytest.mark.parametrize("module", PACKAGES)
def test_the_list_says_what_is_there(module: str) -> None:
    imported = importlib.import_module(module)
    public = {
        name
        for name, value in vars(imported).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    # The linter keeps it sorted.
    assert sorted(imported.__all__) == sorted(public)


@pytest.mark.parametrize("module", MODULES)
def test_every_listed_name_is_used_by_a_plugin_or_an_example(module: str) -> None:
    used = imported_by_plugins(module)

    assert [name for name in importlib.import_module(module).__all__ if name not in used] == []


def test_the_face_of_the_kernel_is_small() -> None:
    assert len(importlib.import_module("kernel").__all__) <= KERNEL_NAMES_MAX
