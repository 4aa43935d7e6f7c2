"""The folder of ``datasets.files_dir``: files of JSON of the current versions, written whenever something is published.

Every process that serves or publishes brings the folder up to date when it learns of a new version. A lock on the
folder lets one write at a time, and the others find nothing left to do. Writing comes after the commit of a
publication, which it cannot fail: a problem is logged, degrades the health check of the datasets, and is tried again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.models import Snapshot, file_pattern, pattern_fields
from kernel.errors import ApiError
from kernel.files import open_own, replace_file
from kernel.logging import Logger

# Letters of every script are kept in names of files.
_UNSAFE = re.compile(r"[^\w.-]")
_MANIFEST = ".tiercel-files.json"
_LOCK = ".tiercel-files.lock"
_LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.05


class CurrentData(msgspec.Struct, frozen=True, eq=False):
    """What the folder is to hold.

    Args:
        snapshots: The current version of each dataset that has one.
        indexes: The entries of each index, by the name of its file.
    """

    snapshots: Sequence[tuple[Dataset, Snapshot]]
    indexes: Mapping[str, Sequence[Any]]


class _Written(msgspec.Struct, frozen=True):
    """What was written of a dataset or of an index: a hash of its content, and the names of its files."""

    sha256: str
    files: Sequence[str]


# By the name of a dataset, or of the file of an index.
_Manifest = dict[str, _Written]


class PublishedFiles:
    """Keeps a folder up to date.

    Args:
        folder: Made if it does not exist.
        read: Returns what this process knows of the current versions.
        refresh: Reads the current versions from the database.
        log: Gets problems, once until they change.

    Attributes:
        problem: Why the folder is not up to date; None if it is.
    """

    def __init__(self, folder: Path, read: Callable[[], CurrentData], refresh: Callable[[], None], log: Logger) -> None:
        self._folder = folder
        self._read = read
        self._refresh = refresh
        self._log = log
        self.problem: str | None = None

    def sync(self) -> None:
        """Write what is out of date. Never raises."""
        try:
            if not self._is_current(self._read()):
                with self._lock():
                    # A process that learns of versions late must not replace newer ones.
                    self._refresh()
                    self._write(self._read())
            self.problem = None
        except ApiError:
            pass  # The database is unavailable, which others report.
        except Exception as ex:
            problem = f"files of datasets cannot be written to {self._folder}: {ex}"
            if problem != self.problem:
                self._log.error("dataset_files_not_written", folder=str(self._folder), exc_info=ex)
            self.problem = problem

    def _is_current(self, data: CurrentData) -> bool:
        manifest = self._read_manifest()
        return all(self._is_written(manifest, dataset.name, each.sha256) for dataset, each in data.snapshots) and all(
            self._is_written(manifest, file, _hash(entries)) for file, entries in data.indexes.items()
        )

    def _is_written(self, manifest: _Manifest, name: str, sha256: str) -> bool:
        written = manifest.get(name)
        # Files that somebody deleted are written again.
        return (
            written is not None
            and written.sha256 == sha256
            and all((self._folder / file).is_file() for file in written.files)
        )

    def _write(self, data: CurrentData) -> None:
        manifest = self._read_manifest()
        try:
            for dataset, snapshot in data.snapshots:
                if not self._is_written(manifest, dataset.name, snapshot.sha256):
                    files = [path.name for path in write_files(dataset, snapshot.items, self._folder)]
                    self._replace(manifest, dataset.name, _Written(snapshot.sha256, files))
            for file, entries in data.indexes.items():
                if not self._is_written(manifest, file, sha256 := _hash(entries)):
                    write_json(self._folder / file, entries)
                    self._replace(manifest, file, _Written(sha256, [file]))
        finally:
            write_json(self._folder / _MANIFEST, manifest)

    def _replace(self, manifest: _Manifest, name: str, written: _Written) -> None:
        """Note what was written, and remove the files that belonged to it before and to nothing now."""
        before = manifest.get(name)
        manifest[name] = written
        if before is not None:
            for stale in {*before.files}.difference(*(each.files for each in manifest.values())):
                (self._folder / stale).unlink(missing_ok=True)

    def _read_manifest(self) -> _Manifest:
        try:
            return msgspec.json.decode((self._folder / _MANIFEST).read_bytes(), type=_Manifest)
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        with os.fdopen(open_own(self._folder / _LOCK, os.O_RDWR | os.O_CREAT)) as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError("another process has been writing to it for too long") from None
                    time.sleep(_LOCK_POLL_S)
            yield


def _hash(entries: Sequence[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(entries, enc_hook=str)).hexdigest()


# --- one file ---------------------------------------------------------------------------------------------------------


def write_files(dataset: Dataset, items: Sequence[Any], folder: Path) -> list[Path]:
    """Write the files of a dataset, each completely or not at all; return their paths.

    Raises:
        OSError: A file cannot be written.
    """
    pattern = file_pattern(dataset)
    fields = pattern_fields(pattern)
    # A dataset of one file has it even without items.
    files: dict[str, list[Any]] = {} if fields else {pattern: []}
    for item in items:
        values = {field: _UNSAFE.sub("_", str(getattr(item, field))) for field in fields}
        files.setdefault(pattern.format_map(values), []).append(item)
    for name, part in files.items():
        write_json(folder / name, part)
    return [folder / name for name in files]


def write_json(path: Path, value: object) -> None:
    """Write a file of indented JSON, completely or not at all.

    Raises:
        OSError: It cannot be written.
    """
    replace_file(path, msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")
