"""Datasets as files: one list of JSON each, or one for each value of a field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.errors import BootError

_FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def file_pattern(dataset: Dataset) -> str:
    """Return how the files of a dataset are called."""
    return dataset.file or f"{dataset.name}.json"


def file_fields(dataset: Dataset) -> list[str]:
    """Return the fields that part the items of a dataset into files."""
    return _FIELD.findall(file_pattern(dataset))


def split(dataset: Dataset, items: Sequence[Any]) -> dict[str, list[Any]]:
    """Sort items into files, by name. A dataset of one file has it even without items."""
    pattern = file_pattern(dataset)
    fields = _FIELD.findall(pattern)
    files: dict[str, list[Any]] = {} if fields else {pattern: []}
    for item in items:
        values = {field: _UNSAFE.sub("_", str(getattr(item, field))) for field in fields}
        files.setdefault(pattern.format_map(values), []).append(item)
    return files


def write_files(dataset: Dataset, items: Sequence[Any], folder: Path) -> list[Path]:
    """Write the files of a dataset, each whole or not at all; return their paths.

    Raises:
        OSError: A file cannot be written.
    """
    written: list[Path] = []
    for name, part in split(dataset, items).items():
        path = folder / name
        write_json(path, part)
        written.append(path)
    return written


def write_json(path: Path, value: object) -> None:
    """Write indented JSON to a file that is there completely or not at all."""
    # Whoever reads the folder meanwhile must not see half a file.
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")
    unfinished.replace(path)


def find_files(dataset: Dataset, folder: Path) -> list[Path]:
    """Return the files of a dataset that are in a folder."""
    pattern = file_pattern(dataset)
    glob = _FIELD.sub("*", re.sub(r"([*?\[])", r"[\1]", pattern))
    return sorted(path for path in folder.glob(glob) if path.is_file() and not path.name.startswith("."))


def read_files(paths: Sequence[Path]) -> Iterator[Any]:
    """Read items from files: a list, or an object with a list under ``data``, as routes answer.

    Raises:
        BootError: A file cannot be read, or holds something else.
    """
    for path in paths:
        try:
            content = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as ex:
            raise BootError(f"{path}: {ex}") from ex
        found = content.get("data") if isinstance(content, dict) else content
        if not isinstance(found, list):
            raise BootError(f"{path}: expected a list, or an object with a list under 'data'")
        yield from found
