"""The demo files: they fit, and they come along."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from kernel.cli.serve import DEMO_FOLDER, publish_demo_files
from kernel.datasets.files import read_folder
from kernel.datasets.published_files import write_files
from tests.applications import DATASETS, PLUGINS, publish, publish_demo
from tests.conftest import Serve
from tests.processes import ROOT

FILES = sorted(path.name for path in DEMO_FOLDER.iterdir())


def test_every_file_belongs_to_a_dataset_and_every_item_is_valid(serve: Serve) -> None:
    datasets = serve(plugins=[*PLUGINS, "club"]).service.shared.datasets

    folder = read_folder(DEMO_FOLDER, list(datasets.all.values()))

    assert {each.dataset.name: each.rejected for each in folder.found} == {name: [] for name in datasets.all}
    assert folder.ignored == {}


def test_an_export_writes_what_was_imported(serve: Serve, tmp_path: Path) -> None:
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    datasets = client.service.shared.datasets

    written = {name: write_files(datasets.find(name), datasets.read(name).items, tmp_path) for name in DATASETS}

    assert {name: len(files) for name, files in written.items()} == dict.fromkeys(DATASETS, 1)
    paths = [path for (path,) in written.values()]
    assert [path.name for path in paths if path.read_bytes() != (DEMO_FOLDER / path.name).read_bytes()] == []


def test_demo_data_does_not_replace_published_data(serve: Serve) -> None:
    client = serve(plugins=PLUGINS)
    publish(client, "tags", {"slug": "ours"})

    publish_demo_files(client.service)

    versions = {name: len(client.service.shared.datasets.versions(name)) for name in DATASETS}
    assert versions == dict.fromkeys(DATASETS, 1)
    assert client.service.shared.datasets.rejected("tags") == []
    assert [item["slug"] for item in client.get("/trace/public/tags/").json()["data"]] == ["ours"]


def test_a_wheel_contains_the_demo_files_and_those_of_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")

    names = zipfile.ZipFile(wheel).namelist()

    assert [name for name in FILES if f"contrib/demo/{name}" not in names] == []
    pages = {
        str(path.relative_to(ROOT))
        for package in ("kernel", "plugins")
        for folder in ("static", "templates")
        for path in (ROOT / package).glob(f"*/{folder}/**/*")
        if path.is_file()
    }
    assert pages
    assert pages - set(names) == set()
