"""Nothing that is committed tells where it was made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.tree import ROOT, committed

# Written in parts, so that this file does not find itself.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("proxy", "golang", "org"),
    )
]
_INDEX_OPTION = re.compile(r"^\s*(--(extra-)?index-url|--find-links|-i)\s", re.MULTILINE)
_HOME = re.compile(r"(?<![\w./])/(?:(home|Users)/[A-Za-z][\w.-]*|root)/")

FILES = committed()


def text_of(path: Path) -> str:
    """Return a file as text, whatever it is."""
    return path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(autouse=True)
def checkout() -> None:
    if not FILES:
        pytest.skip("no checkout")


def named(paths: list[Path]) -> list[str]:
    """Return paths as people write them."""
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("host", REGISTRIES)
def test_no_file_names_a_package_registry(host: str) -> None:
    assert named([path for path in FILES if host in text_of(path)]) == []


def test_no_lock_file_says_where_packages_come_from() -> None:
    assert named([path for path in FILES if path.suffix == ".lock" and _INDEX_OPTION.search(text_of(path))]) == []


def test_both_lock_files_have_one_version_of_each_package() -> None:
    locked, tested = (
        dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", (ROOT / path).read_text(), re.MULTILINE))
        for path in ("requirements.lock", "tests/requirements.lock")
    )

    assert locked
    assert {name: (version, tested.get(name)) for name, version in locked.items() if tested.get(name) != version} == {}


def test_no_file_holds_a_path_of_the_machine_it_was_made_on() -> None:
    here = str(ROOT) if len(ROOT.parts) > 2 else "\0"

    assert named([path for path in FILES if here in text_of(path)]) == []


def test_no_file_holds_the_path_of_a_home() -> None:
    assert named([path for path in FILES if _HOME.search(text_of(path))]) == []
