"""The code of the frozen release."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.upgrade.freeze import FOLDER


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of the frozen wheel."""
    (wheel,) = FOLDER.glob("*.whl")
    directory = tmp_path_factory.mktemp("frozen")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory
