"""Run the database server as an account that is not root: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kernel.errors import BootError


class Runner(msgspec.Struct, frozen=True):
    """Runs commands as an account.

    Args:
        prefix: The words that change the account; none when the process is not root.
        owner: User and group id that files must belong to; None when they are ours already.
    """

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def give(self, path: Path) -> None:
        """Make a file or an empty directory belong to the account."""
        if self.owner is not None:
            os.chown(path, *self.owner)

    def run(self, command: Sequence[str]) -> str | None:
        """Run a command to its end. Return None when it went well, else what it printed."""
        # Files, not pipes: a server that pg_ctl starts inherits them, and a pipe would never end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self.prefix, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, cwd="/"
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        return None if done.returncode == 0 else text or f"exit code {done.returncode}"


def make_runner(user: str, reach: Sequence[Path]) -> Runner:
    """Return how to run the server: as ourselves, or as another account when we are root.

    Args:
        user: The account to use when the process is root; it is made if it is missing.
        reach: Directories the account must be able to enter.

    Raises:
        BootError: There is no way to run as another account.
    """
    if os.geteuid() != 0:
        return Runner()
    account = _account(user)
    owner = (account.pw_uid, account.pw_gid)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise BootError("setpriv (util-linux) is needed to run the embedded PostgreSQL as root; or set db.url")
    prefix = [setpriv, f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups"]
    if not all(_can_enter(path, *owner) for path in reach):
        # The way there leads through a private directory, such as /root. Rather than open that to everybody, let this
        # one server search and read through it. no_setuid_fixup: access(2) would drop the capability otherwise.
        prefix += [
            "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search",
            "--securebits=+no_setuid_fixup",
        ]
    return Runner((*prefix, "--"), owner)


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        useradd = shutil.which("useradd") or "/usr/sbin/useradd"
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", user]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return pwd.getpwnam(user)
        except (OSError, subprocess.CalledProcessError, KeyError) as ex:
            raise BootError(f"root needs an account to run PostgreSQL as; making {user!r} failed: {ex}") from ex


def _can_enter(path: Path, uid: int, gid: int) -> bool:
    for directory in path.absolute().parents:
        found = directory.stat()
        allowed = stat.S_IXOTH
        if found.st_uid == uid:
            allowed = stat.S_IXUSR
        elif found.st_gid == gid:
            allowed = stat.S_IXGRP
        if not found.st_mode & allowed:
            return False
    return True
