"""Backups: ``tiercel backup DIRECTORY``, ``tiercel backup list``, ``tiercel backup verify`` and ``tiercel restore``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from kernel.app import Tiercel
from kernel.backup import archive, create
from kernel.backup import restore as restoring
from kernel.backup.archive import Backup, BackupDirectory
from kernel.backup.verify import verify as verify_backup
from kernel.backup.verify import verify_alone
from kernel.cli.output import echo, print_json, print_table, progress
from kernel.config import load
from kernel.conversion import parse_time
from kernel.errors import BootError

_JOBS = 2
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_MB = 1e6


class _BackupGroup(click.Group):
    """A group whose name followed by a directory makes a backup."""

    default = "create"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_BackupGroup)
def backup() -> None:
    """Make, list and verify backups of the database; `tiercel backup DIRECTORY` is short for `backup create`."""


@backup.command("create")
@click.argument("directory", type=_DIRECTORY)
@click.option("--incremental", is_flag=True, help="Copy what changed since the newest backup in DIRECTORY (embedded).")
@click.option(
    "--dump", "as_dump", is_flag=True, help="Also of the embedded server, make a dump instead of a copy of files."
)
@click.option("--keep", metavar="N", type=click.IntRange(1), help="Remove all backups in DIRECTORY but the N newest.")
@click.option("--jobs", default=_JOBS, show_default=True, type=click.IntRange(1, 64), help="Connections of a dump.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create_backup(
    *, directory: Path, incremental: bool, as_dump: bool, keep: int | None, jobs: int, as_json: bool
) -> None:
    """Make a backup in DIRECTORY while the service goes on.

    Of the embedded server it is a copy of its files, of another a dump. It is a directory with a new name in DIRECTORY,
    which only this user may enter; with --keep, older ones are removed once it is complete.
    """
    service = Tiercel(load())
    is_dump = as_dump or service.server is None
    if incremental and is_dump:
        raise click.UsageError("a dump cannot be incremental: that needs the embedded server, and no --dump")
    backups = BackupDirectory(directory)
    with service.database_ready(), _copying() as report:
        if service.server is None or is_dump:
            made = create.dump(service.db.direct_conninfo, backups, jobs=jobs, progress=report)
        else:
            made = create.back_up_embedded(service.server, backups, incremental=incremental, progress=report)
    create.report(service.settings.home, made)
    removed = backups.keep(keep) if keep is not None else ()
    if as_json:
        print_json({**_described(made), "removed": [str(each.path) for each in removed]})
        return
    manifest = made.manifest
    took_s = (manifest.finished_at - manifest.started_at).total_seconds()
    if incremental and manifest.parent is None:
        echo(f"{directory} had no backup of these data to build upon: this one has everything", err=True)
    since = f" since {manifest.parent}" if manifest.parent is not None else ""
    echo(f"{made.path}: {manifest.kind}{since}, {manifest.size_bytes / _MB:,.1f} MB in {took_s:.1f} s")
    for each in removed:
        echo(f"{each.path}: removed")


@contextmanager
def _copying() -> Iterator[Callable[[int, int | None], None]]:
    with progress("Backup, MB") as bar:
        yield lambda done, total: bar.show(done / _MB, None if total is None else max(done, total) / _MB)


def _described(found: Backup) -> dict[str, Any]:
    described = msgspec.to_builtins(found.manifest)
    del described["digests"]
    return {"directory": str(found.path), **described}


@backup.command("list")
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_backups(*, directory: Path, as_json: bool) -> None:
    """List the backups in DIRECTORY, oldest first."""
    found = BackupDirectory(directory).list()
    if as_json:
        print_json([_described(each) for each in found])
        return
    rows = [
        (
            each.path.name,
            f"{each.manifest.finished_at:%Y-%m-%d %H:%M:%S}",
            f"{each.manifest.size_bytes / _MB:,.1f}",
            each.manifest.postgresql,
            each.manifest.tiercel,
            each.manifest.parent,
        )
        for each in found
    ]
    print_table(("backup", "finished (UTC)", "MB", "PostgreSQL", "Tiercel", "since"), rows)


@backup.command("verify")
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(*, directory: Path, as_json: bool) -> None:
    """Compare the files of all backups in DIRECTORY, or of one, with their checksums; exit with 1 on any problem."""
    if (directory / archive.MANIFEST).exists():
        problems = {str(directory): _problem(lambda: verify_backup(*archive.find_backup(directory)))}
    else:
        backups = BackupDirectory(directory)
        # Each file is read once, whatever builds upon it.
        problems = {str(path): _problem(partial(_verify_alone, backups, path)) for path in backups.paths()}
    if not problems:
        raise BootError(f"there is no backup in {directory}")
    if as_json:
        print_json({"ok": not any(problems.values()), "backups": problems})
    else:
        for path, problem in problems.items():
            echo(f"[PROBLEM] {problem}" if problem else f"[ok] {path}")
    if any(problems.values()):
        sys.exit(1)


def _verify_alone(backups: BackupDirectory, path: Path) -> None:
    found = archive.read_backup(path)
    backups.chain(found)
    verify_alone(found)


def _problem(verify: Callable[[], object]) -> str | None:
    try:
        verify()
    except BootError as ex:
        return str(ex)
    return None


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--replace", is_flag=True, help="There may be data: they are kept beside the restored (embedded).")
@click.option(
    "--wal", metavar="DIRECTORY", type=_DIRECTORY, help="Apply the write-ahead log that is archived there (embedded)."
)
@click.option("--to", "until", metavar="TIME", help="Apply it up to this time, such as 2026-11-29T03:20:00+00:00.")
@click.option("--no-privileges", is_flag=True, help="Leave out privileges of other roles, which may not exist (dumps).")
@click.option("--jobs", default=_JOBS, show_default=True, type=click.IntRange(1, 64), help="Connections of a dump.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(
    *,
    directory: Path,
    replace: bool,
    wal: Path | None,
    until: str | None,
    no_privileges: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Restore the newest backup in DIRECTORY, or the backup that DIRECTORY is. Stop the service first.

    The embedded server may have data only with --replace, and these are kept beside the restored. A database of another
    server must be empty.
    """
    time = None if until is None else _parse_time(until)
    if time is not None and wal is None:
        raise click.UsageError("--to needs --wal DIRECTORY, the archived write-ahead log")
    service = Tiercel(load())
    backups, found = archive.find_backup(directory, time)
    restoring.ensure_known(found, {migration.id for migration in service.migrations()})
    kept = None
    if service.server is not None:
        kept = restoring.restore_embedded(
            service.server,
            backups,
            found,
            replace=replace,
            wal=wal,
            until=time,
            jobs=jobs,
            privileges=not no_privileges,
            progress=lambda step: echo(f"{found.path.name}: {step}", err=True),
        )
    else:
        _restore_elsewhere(service, backups, found, jobs=jobs, privileges=not no_privileges, wal=wal)
    if as_json:
        print_json(
            {"directory": str(found.path), "kind": found.manifest.kind, "kept": None if kept is None else str(kept)}
        )
        return
    echo(f"{found.path} was restored.")
    if kept is not None:
        echo(f"The former data is in {kept}; remove it once everything works.")


def _restore_elsewhere(
    service: Tiercel, backups: BackupDirectory, found: Backup, *, jobs: int, privileges: bool, wal: Path | None
) -> None:
    if found.manifest.kind != "dump":
        raise BootError(
            f"{found.path} has the files of an embedded server, and db.url names another: restore it where that is"
            " unset; what tiercel backup --dump makes there can be restored here"
        )
    if wal is not None:
        raise BootError("--wal is for the embedded server: apply the log of your own server with its own tools")
    verify_backup(backups, found)
    with service.database_ready():
        restoring.restore_dump(service.db.direct_conninfo, found, jobs=jobs, privileges=privileges)


def _parse_time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as ex:
        raise click.BadParameter(f"--to: {ex}") from ex
