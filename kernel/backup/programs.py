"""The programs of PostgreSQL that make and restore backups: where they are, how they connect, how they are run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from kernel.embedded.server import DEBIAN_PROGRAMS, find_binaries, program_version
from kernel.errors import BootError

# Parameters that Tiercel adds for its own sessions.
OWN_PARAMETERS = ("application_name", "connect_timeout")
_POLL_S = 1.0
_ERROR_LINES = 3
# What the programs print of the way they failed, beside why.
_NOISE = re.compile(r"^(pg_basebackup: removing|pg_basebackup: changes to|WARNING:  aborting backup|Command was:|\s*$)")
# The first version whose pg_restore sets transaction_timeout, a parameter that earlier servers refuse.
_TRANSACTION_TIMEOUT_MAJOR = 17


def client_environment(conninfo: str, schemas: Sequence[str] = ()) -> Mapping[str, str]:
    """Return the variables that make a program of PostgreSQL connect: unlike arguments, others cannot read them.

    Args:
        conninfo: Connection string.
        schemas: The search path; that of the server by default.
    """
    conninfo = with_search_path(conninfo, schemas)
    return {
        each.envvar.decode(): each.val.decode()
        for each in Conninfo.parse(conninfo.encode())
        if each.envvar and each.val and each.keyword.decode() not in OWN_PARAMETERS
    }


def with_search_path(conninfo: str, schemas: Sequence[str]) -> str:
    """Return a connection string with a search path; without schemas, the same."""
    if not schemas:
        return conninfo
    options = f"{conninfo_to_dict(conninfo).get('options') or ''} -c search_path={','.join(schemas)}".strip()
    return make_conninfo(conninfo, options=options)


def find_programs(name: str, server_major: int, made_by: int = 0) -> Path:
    """Return a directory with ``pg_dump`` or ``pg_restore`` that fits a server: of its major version, or else a later.

    Args:
        name: The program.
        server_major: Major version of the server.
        made_by: Of the pg_dump that made the dump, which earlier programs cannot read.

    Raises:
        BootError: There is none.
    """
    if made_by >= _TRANSACTION_TIMEOUT_MAJOR > server_major:
        raise BootError(
            f"pg_dump {made_by} made the dump, and servers before PostgreSQL {_TRANSACTION_TIMEOUT_MAJOR} cannot read"
            f" it: this one is {server_major}"
        )
    found = dict(_installed_programs(name))
    fitting = [
        major
        for major in found
        if major >= max(server_major, made_by)
        and (server_major >= _TRANSACTION_TIMEOUT_MAJOR or major < _TRANSACTION_TIMEOUT_MAJOR)
    ]
    if not fitting:
        least = max(server_major, made_by)
        wanted = f"{least} or later" if server_major >= _TRANSACTION_TIMEOUT_MAJOR else f"{least}"
        raise BootError(
            f"the server is PostgreSQL {server_major}, which needs {name} {wanted}; there is"
            f" {', '.join(map(str, sorted(found))) or 'none'}: install postgresql-client-{least}, or put the directory"
            " of its programs into PATH"
        )
    return found[min(fitting)]


def _installed_programs(name: str) -> Iterator[tuple[int, Path]]:
    """Find directories of a program, with its major version; the last of a version counts."""
    directories = []
    if in_path := shutil.which(name):
        directories.append(Path(in_path).parent)
    with contextlib.suppress(BootError):
        directories.append(find_binaries())
    for directory in (*directories, *DEBIAN_PROGRAMS.glob("*/bin")):
        if (directory / name).exists():
            yield int(program_version(directory, name).partition(".")[0]), directory


def run_program(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    lock: int | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run a program of PostgreSQL and wait for it; what it creates, no other user may read.

    Args:
        command: The program and its arguments, which other users can read.
        environment: Further variables, such as those of ``client_environment``.
        lock: A descriptor that the program keeps open: the lock on it lasts until it ends, even if this process is
            killed.
        watch: Called every second meanwhile.

    Raises:
        BootError: It failed; the message has the last lines that it printed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            pass_fds=() if lock is None else (lock,),
            umask=0o077,
        )
        try:
            while True:
                try:
                    code = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    watch()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code != 0:
            output.seek(0)
            raise BootError(_explain(Path(command[0]).name, code, output.read().decode(errors="replace")))


def _explain(name: str, code: int, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if not _NOISE.match(line)]
    # The first says why; what follows are consequences.
    first = next((index for index, line in enumerate(lines) if "error:" in line or "ERROR:" in line), 0)
    reason = " ".join(lines[first : first + _ERROR_LINES]) or f"exit code {code}"
    return reason if reason.startswith(name) else f"{name}: {reason}"
