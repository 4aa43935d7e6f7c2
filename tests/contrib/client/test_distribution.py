"""The client is a distribution of its own, which needs nothing but Python."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import vermin
from hatchling.builders.wheel import WheelBuilder

from tests.contract.tree import ROOT
from tiercel_client import Settings

CLIENT = ROOT / "contrib" / "client"
SOURCES = sorted((CLIENT / "tiercel_client").glob("*.py"))
PYTHON_MIN = (3, 9)


def imported(tree: ast.AST) -> set[str]:
    """Return the packages that are imported, those for type checkers aside."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
        names |= imported(node)
    return names


def test_it_imports_nothing_but_the_standard_library() -> None:
    found = {name for path in SOURCES for name in imported(ast.parse(path.read_text()))}

    assert len(SOURCES) > 8
    assert found - sys.stdlib_module_names == {"tiercel_client"}


def test_its_oldest_python_has_all_that_it_uses() -> None:
    newest = {
        path.name: max(version for version in vermin.visit(path.read_text()).minimum_versions() if version)
        for path in SOURCES
    }

    assert f'requires-python = ">={".".join(map(str, PYTHON_MIN))}"' in (CLIENT / "pyproject.toml").read_text()
    assert {name: version for name, version in newest.items() if version > PYTHON_MIN} == {}


def test_its_license_is_that_of_the_project() -> None:
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.process
def test_its_wheel_installs_without_anything_else(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(CLIENT)).build(directory=str(tmp_path), versions=["standard"])
    venv.create(tmp_path / "venv")
    site_packages = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    python = str(tmp_path / "venv" / "bin" / "python")
    # The pip of the tests installs into the new environment, which then needs none of its own.
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]

    subprocess.run([*install, "--no-index", "--no-deps", wheel], check=True, timeout=60)
    ran = subprocess.run(
        [python, "-c", "import tiercel_client.django as django; print(django.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=tmp_path,
        env={},
    )

    assert Path(ran.stdout.strip()).parent == site_packages / "tiercel_client"
    assert (site_packages / "tiercel_client" / "py.typed").exists()


def test_its_readme_has_every_setting() -> None:
    readme = (CLIENT / "README.md").read_text()
    table = "\n".join(line for line in readme.splitlines() if line.startswith("| `"))

    assert [name for name in Settings.__dataclass_fields__ if f"`{name}`" not in table] == []
