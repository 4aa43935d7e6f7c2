"""Datasets as files of JSON: export them to a folder, and publish those of a folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.conversion import strip_bom
from kernel.datasets.models import Content, Publication, Rejected, file_pattern, pattern_fields
from kernel.datasets.published_files import write_files, write_json
from kernel.datasets.publisher import make_content
from kernel.datasets.service import Datasets
from kernel.errors import BootError, UnavailableError

# --- export ---------------------------------------------------------------------------------------------------------


class Export(msgspec.Struct, frozen=True):
    """What an export wrote.

    Args:
        files: Paths of the files.
        warnings: By name of a dataset that was not exported, or of a file that should be removed, the reason.
    """

    files: Sequence[Path]
    warnings: Mapping[str, str]


def export_folder(datasets: Datasets, folder: Path) -> Export:
    """Write the files of every dataset and of every index to a folder.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    warnings: dict[str, str] = {}
    for name, dataset in datasets.all.items():
        try:
            items = datasets.read(name).items
        except UnavailableError as ex:
            warnings[name] = str(ex.detail)
            continue
        files = write_files(dataset, items, folder)
        written += files
        for stale in set(find_files(dataset, folder)) - set(files):
            # It may be a file of the user's, so it is not removed; but an import would read it as part of the dataset.
            warnings[stale.name] = f"{stale} does not belong to {name} any more: remove it before an import"
    for file, entries in datasets.indexes.items():
        write_json(folder / file, entries(None))
        written.append(folder / file)
    return Export(written, warnings)


# --- import ---------------------------------------------------------------------------------------------------------


class DatasetFiles(msgspec.Struct, frozen=True, eq=False):
    """The files of one dataset in a folder.

    Args:
        dataset: The dataset.
        files: Their names.
        items: What they hold, decoded.
        content: What would be published.
    """

    dataset: Dataset
    files: Sequence[str]
    items: Sequence[Any]
    content: Content

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Invalid items, each with its reason."""
        return self.content.rejected


class Folder(msgspec.Struct, frozen=True, eq=False):
    """What a folder holds.

    Args:
        path: The folder.
        found: Datasets that have files in it.
        ignored: By name of another file in it, why it is not imported.
    """

    path: Path
    found: Sequence[DatasetFiles]
    ignored: Mapping[str, str]


def read_folder(path: Path, datasets: Sequence[Dataset], generated: Collection[str] = ()) -> Folder:
    """Read the files of datasets from a folder.

    Args:
        path: The folder.
        datasets: Those to look for.
        generated: Names of files that an export writes but that are not datasets, such as an index.

    Raises:
        BootError: It is not a folder, or a file in it cannot be read.
    """
    if not path.is_dir():
        raise BootError(f"{path}: there is no such folder")
    found: list[DatasetFiles] = []
    names: set[str] = set()
    for dataset in datasets:
        if files := [file for file in find_files(dataset, path) if file.name not in generated]:
            items = list(read_files(files))
            names |= {file.name for file in files}
            found.append(DatasetFiles(dataset, [file.name for file in files], items, make_content(dataset, items)))
    others = {file.name for file in path.glob("*.json") if not file.name.startswith(".")} - names
    ignored = {
        name: "is generated, not imported" if name in generated else "no such dataset is imported"
        for name in sorted(others)
    }
    return Folder(path, found, ignored)


def publish_folder(datasets: Datasets, folder: Folder, *, source: str) -> Mapping[str, Publication]:
    """Publish what a folder holds, everything or nothing.

    Raises:
        BootError: Every item of a dataset is invalid: its files are of something else.
    """
    for each in folder.found:
        if each.rejected and not each.content.item_count:
            first = each.rejected[0]
            raise BootError(
                f"nothing was published: no item of {', '.join(each.files)} fits {each.dataset.name}; "
                f"the first: {first.reason}"
            )
    if not folder.found:
        return {}
    return datasets.publish({each.dataset: each.items for each in folder.found}, source=source)


def find_files(dataset: Dataset, folder: Path) -> list[Path]:
    """Return the files of a dataset that are in a folder."""
    glob = re.sub(r"([*?\[])", r"[\1]", file_pattern(dataset))
    for field in pattern_fields(glob):
        glob = glob.replace(f"{{{field}}}", "*")
    return sorted(path for path in folder.glob(glob) if path.is_file() and not path.name.startswith("."))


def read_files(paths: Sequence[Path]) -> Iterator[Any]:
    """Read items from files that hold a list, or an object with a list under ``data``, as routes respond with.

    Raises:
        BootError: A file cannot be read, or holds something else.
    """
    for path in paths:
        try:
            content = msgspec.json.decode(strip_bom(path.read_bytes()))
        except (OSError, msgspec.DecodeError) as ex:
            raise BootError(f"{path}: {ex}") from ex
        found = content.get("data") if isinstance(content, dict) else content
        if not isinstance(found, list):
            raise BootError(f"{path}: expected a list, or an object with a list under 'data'")
        yield from found
