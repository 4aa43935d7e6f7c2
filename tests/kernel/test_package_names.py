"""The names of the packages are fixed: who else has them is found and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.package_names import describe_other_owners, ensure_own_packages
from tests.commands import RunCommand, make_runner
from tests.processes import run_tiercel


def add_package(directory: Path, name: str) -> None:
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").touch()


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    return make_runner(database, tmp_path, monkeypatch, capsys)


def test_nobody_else_has_them_here() -> None:
    ensure_own_packages()
    assert describe_other_owners(Path("/")) == ()


def test_a_distribution_with_a_package_of_the_same_name_is_named(
    tiercel: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "acme_tools-1.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.4\nName: acme-tools\nVersion: 1.2\n")
    (installed / "RECORD").write_text("acme/kernel/__init__.py,,\nacme.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_other_owners(Path("/")) == ()

    (installed / "RECORD").write_text("plugins/__init__.py,sha256=47DEQ,0\nkernel/x.py,,\n")
    checked = tiercel("check")

    assert checked.code == 0
    assert "[warning] packages: the distribution acme-tools 1.2 also installs kernel and plugins: " in checked.output
    assert "package_name_taken" in tiercel("migrate").errors


def test_a_package_of_the_same_name_in_the_working_directory_is_named(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "contrib").mkdir()
    assert "[ok] packages: nobody else has kernel, plugins, contrib\n" in tiercel("check").output, "hides nothing"

    add_package(tmp_path, "plugins")

    assert f"[warning] packages: {tmp_path} has packages plugins too: " in tiercel("check").output


@pytest.mark.process
@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_package_that_hides_one_stops_the_start_and_is_named(tmp_path: Path, command: str) -> None:
    add_package(tmp_path, "plugins")

    ran = run_tiercel(tmp_path / ".tiercel", command, PYTHONPATH=str(tmp_path))

    assert ran.returncode == 1
    printed = (ran.stdout + ran.stderr).splitlines()[-1]
    assert f": the package 'plugins' of tiercel is hidden by {tmp_path / 'plugins'}, which comes first " in printed
