"""What ``make dist`` builds: complete, the same bytes each time, and a service once it is installed."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.contract.tree import ROOT, committed
from tests.processes import serving
from tests.release.conftest import Environment, build_sdist, build_wheel

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("release")]

TOP_LEVEL_NAMES = ("kernel", "plugins", "contrib")
_ASSET = re.compile(r'(?:href|src)="(/static/[^"]+)"')


def test_the_wheel_has_every_file_of_the_service_and_no_other(wheel: Path) -> None:
    files = [path.relative_to(ROOT) for path in committed()]
    if not files:
        pytest.skip("no checkout")
    packages = {str(path) for path in files if path.parts[0] in TOP_LEVEL_NAMES}
    configuration = {f"kernel/_config/{path.relative_to('config')}" for path in files if path.parts[0] == "config"}
    client = {name for name in packages if name.startswith("contrib/client/")}

    names = set(zipfile.ZipFile(wheel).namelist())

    assert len(client) > 8
    assert {name for name in names if ".dist-info/" not in name} == (packages - client) | configuration


def test_the_same_sources_make_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Also elsewhere, later and under another umask; and a source distribution has all that a wheel is made of."""
    sdist = build_sdist(ROOT, tmp_path / "first")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / sdist.name.removesuffix(".tar.gz")
    for path in tree.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & 0o700)

    assert build_wheel(tree, tmp_path / "second").read_bytes() == wheel.read_bytes()
    assert build_sdist(tree, tmp_path / "second").read_bytes() == sdist.read_bytes()


def test_an_installed_wheel_is_up_in_an_empty_directory(environment: Environment, tmp_path: Path) -> None:
    home = tmp_path / ".tiercel"
    # Not this source tree, which is elsewhere.
    assert [environment.find_package(name) for name in TOP_LEVEL_NAMES] == [environment.site_packages] * 3

    with (
        serving(home, (str(environment.bin / "tiercel"), "up"), PYTHONPATH="") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        pages = [client.get(path, headers={"Accept": "text/html"}) for path in ("/", "/requests/", "/api/docs")]
        assets = {path for page in pages for path in _ASSET.findall(page.text)}
        statuses = {path: client.get(path).status_code for path in assets}
        tags = client.get("/trace/public/tags/").json()["data"]
        requests = client.get("/api/requests/").json()["count"]

    assert [page.status_code for page in pages] == [200] * 3
    assert len(assets) > 5
    assert statuses == dict.fromkeys(assets, 200)
    assert {tag["slug"] for tag in tags} >= {"open", "planning", "social"}
    assert requests > 10_000
