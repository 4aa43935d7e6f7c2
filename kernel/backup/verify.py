"""Verify that the files of backups are those that were written."""

from __future__ import annotations

from collections.abc import Sequence

from kernel.backup.archive import Backup, BackupDirectory
from kernel.backup.create import digests_of
from kernel.backup.programs import run_program
from kernel.embedded.server import find_binaries, program_version
from kernel.errors import BootError


def verify(directory: BackupDirectory, backup: Backup) -> Sequence[Backup]:
    """Read a backup, and those that it builds upon, and compare every file with its checksum.

    Args:
        directory: Where the backup is.
        backup: The backup.

    Returns:
        What is needed to restore it, the base first.

    Raises:
        BootError: A file is missing or was changed; the message names it.
    """
    chain = directory.chain(backup)
    for each in chain:
        verify_alone(each)
    return chain


def verify_alone(backup: Backup) -> None:
    """Read a backup, and compare every file with its checksum.

    Raises:
        BootError: A file is missing or was changed; the message names it.
    """
    for name, digest in backup.manifest.digests.items():
        path = backup.path / name
        try:
            found = digests_of(backup.path, [path])[name]
        except OSError as ex:
            raise BootError(f"{backup.path} is damaged: {name}: {ex.strerror}") from ex
        if found != digest:
            raise BootError(f"{backup.path} is damaged: {name} was changed")
    if backup.manifest.kind != "dump":
        _run_verifybackup(backup)


def _run_verifybackup(backup: Backup) -> None:
    programs = find_binaries()
    # The log has another format in each major version.
    same = int(program_version(programs).partition(".")[0]) == backup.manifest.major
    options = ["--quiet"] if same else ["--quiet", "--no-parse-wal"]
    try:
        run_program([programs / "pg_verifybackup", *options, backup.content])
    except BootError as ex:
        raise BootError(f"{backup.path} is damaged: {ex}") from ex
