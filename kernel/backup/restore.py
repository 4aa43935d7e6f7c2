"""Restore backups: beside the data of the embedded server, which are kept, or into an empty database of any server."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.backup.archive import Backup, BackupDirectory
from kernel.backup.create import describe_server
from kernel.backup.programs import client_environment, find_programs, run_program
from kernel.backup.verify import verify
from kernel.db.failures import describe
from kernel.db.queries import load_queries
from kernel.embedded.server import EmbeddedServer, find_binaries, program_version
from kernel.errors import BootError
from kernel.files import exclusive_lock

_QUERIES = load_queries(__package__)
# Lines of the table of contents of a dump that are restored after all others, and in this order. Between a table's row
# security and its policies nobody sees a row of it, not even a foreign key that another connection adds.
_LATER = (re.compile(r"^\d+; \d+ \d+ (?:ROW SECURITY|POLICY) "), re.compile(r" TABLE DATA tiercel migration "))


def ensure_known(backup: Backup, migrations: Collection[str]) -> None:
    """Ensure that this version of Tiercel has every migration of a backup.

    Args:
        backup: The backup.
        migrations: Identifiers of the migrations of the kernel and of the loaded plugins.

    Raises:
        BootError: A later version made the backup.
    """
    owners = {name.partition("/")[0] for name in migrations}
    unknown = [
        name for name in backup.manifest.migrations if name not in migrations and name.partition("/")[0] in owners
    ]
    if unknown:
        raise BootError(
            f"{backup.path} was made by a later version of Tiercel ({backup.manifest.tiercel}), which this one does not"
            f" know the migrations of: {', '.join(unknown)}; restore it with that version"
        )


def restore_embedded(
    server: EmbeddedServer,
    directory: BackupDirectory,
    backup: Backup,
    *,
    replace: bool,
    wal: Path | None = None,
    until: datetime | None = None,
    jobs: int = 1,
    privileges: bool = True,
    progress: Callable[[str], None],
) -> Path | None:
    """Make a backup the data of the embedded server, which nobody uses.

    Args:
        server: Not in use.
        directory: Where the backup is.
        backup: Of any kind.
        replace: Whether there may be data at present.
        wal: Directory of the archived write-ahead log, which is applied to a copy of files.
        until: Apply it until then only; None for all of it.
        jobs: Connections that write at once, of a dump.
        privileges: Whether a dump's privileges of other roles are restored.
        progress: Is told of each step.

    Returns:
        Where the former data were kept; None if there were none.

    Raises:
        BootError: It cannot be restored; nothing has changed then.
    """
    programs = find_binaries()
    installed = int(program_version(programs).partition(".")[0])
    is_dump = backup.manifest.kind == "dump"
    if is_dump and wal is not None:
        raise BootError(f"{backup.path} is a dump: the write-ahead log cannot be applied to it")
    if not is_dump and backup.manifest.major != installed:
        raise BootError(
            f"{backup.path} has the files of PostgreSQL {backup.manifest.major}, and {installed} is installed: restore"
            " it with the version of Tiercel that made it, and run: tiercel upgrade"
        )
    if not is_dump and wal is None and server.archives:
        raise BootError(
            "the write-ahead log is archived: pass --wal DIRECTORY, where it is, so that what is written from now on"
            " does not get names that are taken there"
        )

    def fill(new: EmbeddedServer) -> None:
        progress("verifying")
        chain = verify(directory, backup)
        if is_dump:
            progress("restoring the dump")
            new.create()
            restore_dump(new.conninfo, backup, jobs=jobs, privileges=privileges)
            return
        progress("copying")
        run_program(
            [programs / "pg_combinebackup", *(each.content for each in chain), f"--output={new.data}"], lock=lock
        )
        progress("applying the log")
        new.recover("false" if wal is None else _fetch_command(wal.absolute()), until)

    # What a killed restore leaves running keeps the lock.
    with contextlib.ExitStack() as stack:
        try:
            server.data.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(exclusive_lock(server.data.parent / "postgres.restore.lock"))
            return server.replace_data(fill, replace=replace)
        except BlockingIOError:
            raise BootError(f"another backup is being restored in {server.data.parent}") from None
        except OSError as ex:
            raise BootError(f"{backup.path} cannot be restored: {ex.strerror or ex}") from ex


def _fetch_command(wal: Path) -> str:
    """Return the ``restore_command`` for a directory; a percent sign is doubled in it."""
    return f"cp {shlex.quote(str(wal)).replace('%', '%%')}/%f %p"


def restore_dump(conninfo: str, backup: Backup, *, jobs: int, privileges: bool) -> None:
    """Restore a dump into a database that the service has no tables in.

    The rows that say which migrations were applied come last: a service does not start on what is there before.

    Args:
        conninfo: Connection string. What a role restores, it owns; a superuser restores the owners as they were.
        backup: A dump, which was verified.
        jobs: Connections that write at once.
        privileges: Whether privileges of other roles are restored.

    Raises:
        BootError: The database has tables of the service, or the restore failed, and left some.
    """
    target = describe_server(conninfo)
    if target.migrations is not None:
        raise BootError(
            "the database has tables of the service already, or of a restore that failed: create an empty one, and name"
            " it in db.url"
        )
    made_by = int(backup.manifest.program.partition(".")[0])
    programs = find_programs("pg_restore", target.major, made_by)
    environment = client_environment(conninfo)
    options = [
        f"--dbname={make_conninfo('', dbname=conninfo_to_dict(conninfo).get('dbname'))}",
        *("--no-password", "--exit-on-error", "--enable-row-security"),
        *([] if target.is_superuser else ["--no-owner"]),
        *([] if privileges else ["--no-privileges"]),
    ]
    # More at once would restore the catalog of TimescaleDB wrongly.
    timescaledb = backup.manifest.timescaledb
    jobs = jobs if timescaledb is None else 1
    with tempfile.TemporaryDirectory() as folder, _prepared(conninfo, timescaledb):
        contents = Path(folder) / "contents"
        run_program([programs / "pg_restore", "--list", f"--file={contents}", backup.content])
        lines = contents.read_text(encoding="utf-8").splitlines()
        later = [[line for line in lines if pattern.search(line)] for pattern in _LATER]
        first = [line for line in lines if not any(line in part for part in later)]
        for number, chosen in enumerate((first, *later)):
            chosen_file = Path(folder) / str(number)
            chosen_file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
            run_program(
                [programs / "pg_restore", *options, f"--jobs={jobs}", f"--use-list={chosen_file}", backup.content],
                environment=environment,
            )


@contextlib.contextmanager
def _prepared(conninfo: str, timescaledb: str | None) -> Iterator[None]:
    """Let TimescaleDB leave its catalog alone until the block ends."""
    if timescaledb is None:
        yield
        return
    with _connected(conninfo) as connection:
        create = sql.SQL(_QUERIES["create_timescaledb"]).format(version=sql.Literal(timescaledb))
        connection.execute(create)
        connection.execute(_QUERIES["prepare_timescaledb"])
    yield
    with _connected(conninfo) as connection:
        connection.execute(_QUERIES["finish_timescaledb"])


@contextlib.contextmanager
def _connected(conninfo: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as ex:
        raise BootError(f"only a superuser can restore a dump with TimescaleDB: {describe(ex)}") from ex
    except psycopg.Error as ex:
        raise BootError(f"the dump cannot be restored: {describe(ex)}") from ex
