"""The distributions of this source tree, and an environment in which the wheel is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from tests.contract.tree import ROOT


def build_wheel(tree: Path, directory: Path) -> Path:
    """Build the wheel of a source tree, as ``make dist`` does."""
    (wheel,) = WheelBuilder(str(tree)).build(directory=str(directory), versions=["standard"])
    return Path(wheel)


def build_sdist(tree: Path, directory: Path) -> Path:
    """Build the source distribution of a source tree, as ``make dist`` does."""
    (sdist,) = SdistBuilder(str(tree)).build(directory=str(directory), versions=["standard"])
    return Path(sdist)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


class Environment:
    """A new virtual environment with one wheel; of this one it only has the packages that the wheel depends on.

    Args:
        directory: Where to make it.
        wheel: What to install.
    """

    def __init__(self, directory: Path, wheel: Path) -> None:
        self.bin = directory / "bin"
        venv.create(directory, symlinks=True)
        self.site_packages = next((directory / "lib").iterdir()) / "site-packages"
        # The pip of the tests installs into the new environment, which then needs none of its own.
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        # Not editable installs, this source tree's least of all: a .pth file that is reached by another is not read.
        (self.site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        install = [
            *pip,
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--ignore-installed",
            str(wheel),
        ]
        subprocess.run(install, check=True, timeout=120)

    def find_package(self, name: str) -> Path:
        """Return the directory from which this environment would import a package."""
        program = f"from importlib.util import find_spec; print(find_spec('{name}').origin)"
        ran = subprocess.run(
            [self.bin / "python", "-c", program],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return Path(ran.stdout.strip()).parent.parent


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("venv"), wheel)
