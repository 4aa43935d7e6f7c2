"""Make backups: a copy of the embedded server's files, or a dump of any server, while the service goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from kernel.backup.archive import Backup, BackupDirectory, Kind, Manifest, content_name
from kernel.backup.programs import client_environment, find_programs, run_program
from kernel.db.failures import describe
from kernel.db.queries import load_queries
from kernel.embedded.server import EmbeddedServer, find_binaries, program_version
from kernel.errors import BootError
from kernel.files import replace_file
from kernel.last_backup import FILE, LastBackup
from kernel.package_names import own_version

_QUERIES = load_queries(__package__)
# What PostgreSQL says of every file that pg_basebackup copied.
_THEIR_MANIFEST = "backup_manifest"

# Is told how many bytes are done, and of how many; None if that is unknown.
Progress = Callable[[int, int | None], None]


class Server(msgspec.Struct, frozen=True):
    """What a backup has to know of a server.

    Args:
        version: Such as ``18.6``.
        major: Its major version.
        timescaledb: Version of the extension in the database; None if it does not have it.
        is_superuser: Whether the role is a superuser.
        size_bytes: Of all databases.
        migrations: Identifiers of those that were applied; None if the service has no tables in the database.
    """

    version: str
    major: int
    timescaledb: str | None
    is_superuser: bool
    size_bytes: int | None
    migrations: tuple[str, ...] | None


def describe_server(conninfo: str) -> Server:
    """Query a server.

    Raises:
        BootError: It cannot be queried.
    """
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            ((number, text, timescaledb, is_superuser, size_bytes),) = connection.execute(_QUERIES["describe_server"])
            ((exists,),) = connection.execute(_QUERIES["find_migration_table"])
            rows = connection.execute(_QUERIES["list_applied"]).fetchall() if exists else None
    except psycopg.Error as ex:
        raise BootError(describe(ex)) from ex
    migrations = None if rows is None else tuple(name for (name,) in rows)
    return Server(text.split()[0], number // 10_000, timescaledb, is_superuser, size_bytes, migrations)


def back_up_embedded(
    server: EmbeddedServer, directory: BackupDirectory, *, incremental: bool, progress: Progress
) -> Backup:
    """Copy the files of the embedded server, which is running, with what is written meanwhile.

    Args:
        server: In use by this process.
        directory: Where to put the backup.
        incremental: Copy only what changed since the newest backup of the same data in the directory; everything if
            there is none.
        progress: Is told of the size of the copy.

    Raises:
        BootError: The copy failed; nothing is left of it.
    """
    found = _describe_migrated(server.conninfo)
    lineage = server.lineage()
    with _making(directory, "base") as lock:
        parent = directory.find_parent(lineage) if incremental else None
        kind: Kind = "base" if parent is None else "incremental"
        programs = find_binaries()
        with directory.unfinished(kind) as part:
            started_at = datetime.now(UTC)
            content = part / content_name(kind)
            command: list[str | Path] = [programs / "pg_basebackup", "--no-password", "--checkpoint=fast"]
            command.append(f"--pgdata={content}")
            if parent is not None:
                command.append(f"--incremental={parent.content / _THEIR_MANIFEST}")
            _run_in(part, command, server.superuser_conninfo, lock, lambda done: progress(done, found.size_bytes))
            manifest = Manifest(
                kind=kind,
                started_at=started_at,
                finished_at=datetime.now(UTC),
                tiercel=own_version(),
                postgresql=found.version,
                program=program_version(programs, "pg_basebackup"),
                migrations=found.migrations or (),
                lineage=lineage,
                parent=None if parent is None else parent.path.name,
                size_bytes=size_of(part),
                digests=digests_of(part, [content / _THEIR_MANIFEST]),
            )
            return directory.publish(part, manifest)


def dump(conninfo: str, directory: BackupDirectory, *, jobs: int, progress: Progress) -> Backup:
    """Dump a database, as it is at one moment.

    Args:
        conninfo: Connection string of a role that may read all of it.
        directory: Where to put the backup.
        jobs: Connections that read at once.
        progress: Is told of the size of the dump, which is compressed.

    Raises:
        BootError: The dump failed; nothing is left of it.
    """
    found = _describe_migrated(conninfo)
    programs = find_programs("pg_dump", found.major)
    with _making(directory, "dump") as lock, directory.unfinished("dump") as part:
        started_at = datetime.now(UTC)
        content = part / content_name("dump")
        # Rows of accounts are protected by policies, which hold for sessions that serve requests only; without row
        # security, pg_dump would refuse to read the tables, unless as a superuser.
        options = ["--no-password", "--format=directory", "--enable-row-security", f"--jobs={jobs}"]
        _run_in(
            part,
            [programs / "pg_dump", *options, f"--file={content}"],
            conninfo,
            lock,
            lambda done: progress(done, None),
        )
        manifest = Manifest(
            kind="dump",
            started_at=started_at,
            finished_at=datetime.now(UTC),
            tiercel=own_version(),
            postgresql=found.version,
            timescaledb=found.timescaledb,
            program=program_version(programs, "pg_dump"),
            migrations=found.migrations or (),
            size_bytes=size_of(part),
            digests=digests_of(part, sorted(content.iterdir())),
        )
        return directory.publish(part, manifest)


def _describe_migrated(conninfo: str) -> Server:
    found = describe_server(conninfo)
    if not found.migrations:
        raise BootError("there is nothing to back up: the service has no tables in the database")
    return found


@contextmanager
def _making(directory: BackupDirectory, what: str) -> Iterator[int]:
    try:
        with directory.lock() as lock:
            yield lock
    except OSError as ex:
        raise BootError(f"the {what} backup in {directory.path} failed: {ex.strerror or ex}") from ex


def _run_in(part: Path, command: Sequence[str | Path], conninfo: str, lock: int, watch: Callable[[int], None]) -> None:
    run_program(command, environment=client_environment(conninfo), lock=lock, watch=lambda: watch(size_of(part)))


def size_of(directory: Path) -> int:
    """Return the size of all files below a directory, of which some may disappear meanwhile, in bytes."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def digests_of(root: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their path below a directory, hexadecimal."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[str(path.relative_to(root))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def report(home: Path, backup: Backup) -> None:
    """Write to ``<home>/last_backup.json`` that a backup was made, for those who ask how old the last one is."""
    manifest = backup.manifest
    last = LastBackup(finished_at=manifest.finished_at, directory=str(backup.path), kind=manifest.kind)
    replace_file(home / FILE, msgspec.json.encode(last) + b"\n", 0o600)
