"""Run the embedded PostgreSQL as an unprivileged account: PostgreSQL refuses to run as root."""

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


class CommandRunner(msgspec.Struct, frozen=True):
    """Runs commands as an account.

    Args:
        prefix: The command that changes the account; empty if the process is not root.
        owner: User and group id that files must belong to; None if they are those of the process.
    """

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def take_ownership(self, path: Path) -> None:
        """Make the account the owner of a file or a directory, not of what is in it."""
        if self.owner is not None:
            os.chown(path, *self.owner)

    def run(self, command: Sequence[str], directory: Path = Path("/")) -> str | None:
        """Run a command in a directory and wait for it; return None if it succeeded, else its output."""
        # A file: the server that pg_ctl starts inherits the output, and would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                cwd=directory,
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        return None if done.returncode == 0 else text or f"exit code {done.returncode}"


def unprivileged_runner(user: str, directories: Sequence[Path]) -> CommandRunner:
    """Return a runner of commands: as the account of this process, or as another if this process is root.

    Args:
        user: The account to use if the process is root; it is created if it is missing.
        directories: Directories that the account must be able to enter.

    Raises:
        BootError: This process is root and cannot run commands as another account.
    """
    if os.geteuid() != 0:
        return CommandRunner()
    account = _find_or_create_account(user)
    owner = (account.pw_uid, account.pw_gid)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise BootError("setpriv (util-linux) is needed to run the embedded PostgreSQL as root; or set db.url")
    prefix = [setpriv, f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups"]
    if not all(_can_enter(path, *owner) for path in directories):
        # A parent is private, such as /root. Rather than open it to everybody, give the server the capability to search
        # and read directories. no_setuid_fixup: access(2) would drop the capability otherwise.
        prefix += [
            "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search",
            "--securebits=+no_setuid_fixup",
        ]
    return CommandRunner((*prefix, "--"), owner)


def _find_or_create_account(user: str) -> pwd.struct_passwd:
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
