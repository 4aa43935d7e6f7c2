"""A directory of backups, each a directory of its own with a manifest, which is there if and only if it is whole.

A backup is made under another name, a hidden one that ends in ``.part``. When everything is on the disk, it is renamed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from kernel.errors import BootError
from kernel.files import exclusive_lock, replace_file, sync_directory

Kind = Literal["base", "incremental", "dump"]

MANIFEST = "tiercel-backup.json"
# Of the manifest. A later version of Tiercel may make what this one cannot read.
FORMAT = 1
_TIME = "%Y%m%dT%H%M%S.%f"  # in names without the microseconds
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[a-z]+")
_PART = re.compile(rf"\.{_NAME.pattern}\.part")
Name = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME.pattern}$")]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is.

    Args:
        format: Version of this description.
        kind: ``base`` is a copy of the files of an embedded server, ``incremental`` of what changed in them since
            ``parent``, ``dump`` the output of pg_dump in directory format.
        started_at: UTC. What was committed before this time is in it.
        finished_at: UTC. A base backup has what was committed until then, nearly.
        tiercel: Version of the service.
        postgresql: Version of the server.
        timescaledb: Version of the extension; None if the database does not have it.
        program: Version of pg_dump or pg_basebackup.
        migrations: Identifiers of those that were applied.
        lineage: History of the embedded server's data; None for a dump.
        parent: Name of the backup that an incremental one builds upon.
        size_bytes: Of all files.
        digests: SHA-256 of files by their path: of a dump all, else of the manifest of PostgreSQL, which has those of
            the others.
    """

    format: int = FORMAT
    kind: Kind
    started_at: datetime
    finished_at: datetime
    tiercel: str
    postgresql: str
    timescaledb: str | None = None
    program: str
    migrations: tuple[str, ...]
    lineage: str | None = None
    parent: Name | None = None
    size_bytes: int
    digests: dict[str, str]

    @property
    def major(self) -> int:
        """Major version of the server."""
        return int(self.postgresql.partition(".")[0])


class Backup(msgspec.Struct, frozen=True):
    """A backup that is whole, as far as its files were not changed since.

    Args:
        path: Its directory.
        manifest: What it is.
    """

    path: Path
    manifest: Manifest

    @property
    def content(self) -> Path:
        """The directory that pg_basebackup or pg_dump wrote."""
        return self.path / content_name(self.manifest.kind)


def content_name(kind: Kind) -> str:
    """Return the name of the directory in a backup that a program of PostgreSQL writes."""
    return "dump" if kind == "dump" else "data"


class BackupDirectory:
    """Backups in a directory, which is created when the first is made.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def paths(self) -> Sequence[Path]:
        """Return the directories of the backups, oldest first.

        Raises:
            BootError: The directory cannot be read.
        """
        try:
            return sorted(path for path in self.path.iterdir() if _NAME.fullmatch(path.name))
        except OSError as ex:
            raise BootError(f"{self.path} cannot be read: {ex.strerror}") from ex

    def list(self) -> Sequence[Backup]:
        """Return the backups, oldest first.

        Raises:
            BootError: The directory, or the manifest of a backup, cannot be read.
        """
        return [read_backup(path) for path in self.paths()]

    def find_parent(self, lineage: str) -> Backup | None:
        """Return the newest backup of the data with a history; those with a damaged manifest do not count."""
        for path in reversed(self.paths()):
            with contextlib.suppress(BootError):
                found = read_backup(path)
                if found.manifest.lineage == lineage:
                    return found
        return None

    def chain(self, backup: Backup) -> Sequence[Backup]:
        """Return what is needed to restore a backup: itself, after those that it builds upon, the base first.

        Raises:
            BootError: One of them is missing.
        """
        found = [backup]
        while (parent := found[0].manifest.parent) is not None:
            if not (self.path / parent).is_dir():
                raise BootError(f"{found[0].path} builds upon {parent}, which is missing")
            found.insert(0, read_backup(self.path / parent))
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Let nobody else change the directory meanwhile; yield a descriptor for programs that work in it.

        What a killed process left is removed.

        Raises:
            BootError: Another backup is made in it, or it cannot be written.
        """
        if (self.path / MANIFEST).exists():
            raise BootError(f"{self.path} is a backup: name the directory that it is in")
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = stack.enter_context(exclusive_lock(self.path / ".lock"))
                for path in self.path.iterdir():
                    if _PART.fullmatch(path.name):
                        shutil.rmtree(path)
            except BlockingIOError:
                raise BootError(f"another backup is being made in {self.path}") from None
            except OSError as ex:
                raise BootError(f"{self.path} cannot hold backups: {ex.strerror}") from ex
            yield lock

    @contextlib.contextmanager
    def unfinished(self, kind: Kind) -> Iterator[Path]:
        """Make a directory for a backup; it is removed at the end of the block, unless it was published."""
        time = datetime.now(UTC)
        # Two may be made in one millisecond, and a clock may be set back: names are in the order of backups even then.
        for newest in self.paths()[-1:]:
            last = datetime.strptime(newest.name.partition("Z")[0], _TIME).replace(tzinfo=UTC)
            time = max(time, last + timedelta(milliseconds=1))
        name = f"{time:{_TIME}}"[:-3] + f"Z-{kind}"
        part = self.path / f".{name}.part"
        part.mkdir(mode=0o700)
        try:
            yield part
        finally:
            if part.exists():
                shutil.rmtree(part, ignore_errors=True)

    def publish(self, part: Path, manifest: Manifest) -> Backup:
        """Write the manifest of a backup whose other files are on the disk, and give it its name.

        Raises:
            OSError: It cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        replace_file(part / MANIFEST, text + b"\n", 0o600)
        with (part / MANIFEST).open("rb") as file:
            os.fsync(file.fileno())
        sync_directory(part)
        final = self.path / part.name.removeprefix(".").removesuffix(".part")
        part.rename(final)
        sync_directory(self.path)
        return Backup(final, manifest)

    def keep(self, count: int) -> Sequence[Backup]:
        """Remove all backups but the newest, and those that they build upon; return the removed.

        Raises:
            BootError: A manifest cannot be read.
            OSError: One cannot be removed.
        """
        found = self.list()
        needed = {each.path for newest in found[-count:] for each in self.chain(newest)}
        removed = [each for each in found if each.path not in needed]
        # Those first that build upon others.
        for each in reversed(removed):
            part = self.path / f".{each.path.name}.part"
            each.path.rename(part)
            shutil.rmtree(part)
        return removed


def find_backup(path: Path, until: datetime | None = None) -> tuple[BackupDirectory, Backup]:
    """Return a backup and the directory that it is in.

    Args:
        path: The backup, or a directory of backups, whose newest is meant.
        until: Take the newest of those that were finished by then.

    Raises:
        BootError: There is none, or its manifest cannot be read.
    """
    path = path.absolute()
    if (path / MANIFEST).exists():
        found = [read_backup(path)]
        directory = BackupDirectory(path.parent)
    else:
        directory = BackupDirectory(path)
        found = list(directory.list())
    if not found:
        raise BootError(f"there is no backup in {path}")
    early = [each for each in found if until is None or each.manifest.finished_at <= until]
    if not early:
        raise BootError(f"no backup in {path} was finished by {until}")
    return directory, early[-1]


def read_backup(path: Path) -> Backup:
    """Return a backup.

    Raises:
        BootError: Its manifest is missing or damaged, or of a later version of Tiercel.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        if msgspec.json.decode(raw, type=_Format).format > FORMAT:
            raise BootError(f"{path} was made by a later version of Tiercel: restore it with that")
        return Backup(path, msgspec.json.decode(raw, type=Manifest))
    except OSError as ex:
        raise BootError(f"{path} is no backup: {MANIFEST}: {ex.strerror}") from ex
    except msgspec.MsgspecError as ex:
        raise BootError(f"{path} is damaged: {MANIFEST}: {ex}") from ex


class _Format(msgspec.Struct, frozen=True):
    format: int
