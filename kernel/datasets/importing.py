"""Publish what lies in a folder as files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.content import make_content
from kernel.datasets.files import find_files, read_files
from kernel.datasets.model import Content, Publication, Rejected
from kernel.datasets.service import Datasets
from kernel.errors import BootError


class Found(msgspec.Struct, frozen=True, eq=False):
    """A dataset whose files are in a folder.

    Args:
        dataset: Which.
        files: Their names.
        items: What they hold, decoded.
        content: The good ones, and those that would be kept aside.
    """

    dataset: Dataset
    files: Sequence[str]
    items: Sequence[Any]
    content: Content

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Items that do not fit, each with its reason."""
        return self.content.rejected


class Folder(msgspec.Struct, frozen=True, eq=False):
    """What a folder holds.

    Args:
        path: Where it is.
        found: Datasets with files in it.
        ignored: Names of other files in it, each with the reason why they are left alone.
    """

    path: Path
    found: Sequence[Found]
    ignored: Mapping[str, str]


def read_folder(path: Path, datasets: Sequence[Dataset], made: Collection[str] = ()) -> Folder:
    """Read the files of datasets from a folder.

    Args:
        path: The folder.
        datasets: Those to look for.
        made: Names of files that are made from what serves, such as an index.

    Raises:
        BootError: It is no folder, or a file in it cannot be read.
    """
    if not path.is_dir():
        raise BootError(f"{path}: there is no such folder")
    found: list[Found] = []
    names: set[str] = set()
    for dataset in datasets:
        if files := [file for file in find_files(dataset, path) if file.name not in made]:
            items = list(read_files(files))
            names |= {file.name for file in files}
            found.append(Found(dataset, [file.name for file in files], items, make_content(dataset, items)))
    others = {file.name for file in path.glob("*.json") if not file.name.startswith(".")} - names
    ignored = {
        name: "is made from what serves, not imported" if name in made else "no such dataset is imported"
        for name in sorted(others)
    }
    return Folder(path, found, ignored)


def publish_folder(datasets: Datasets, folder: Folder, *, source: str) -> Mapping[str, Publication]:
    """Publish what a folder holds, everything or nothing.

    Raises:
        BootError: Every item of a dataset is wrong: those are files of something else.
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
