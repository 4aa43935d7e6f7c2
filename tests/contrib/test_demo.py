"""The demo files: they fit, and they come along."""

from __future__ import annotations

from pathlib import Path

from kernel.cli.serve import DEMO_FOLDER, publish_demo_files
from kernel.datasets.files import read_folder
from kernel.datasets.published_files import write_files
from tests.applications import DATASETS, PLUGINS, publish, publish_demo
from tests.conftest import Serve


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
