"""Run the embedded PostgreSQL as an unprivileged account: PostgreSQL refuses to run as root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from kernel.errors import BootError

# Where the files of accounts are.
_ACCOUNTS = Path("/etc")


class CommandRunner(msgspec.Struct, frozen=True):
    """Runs commands as an account.

    Args:
        prefix: The command that changes the account; empty if the process is not root.
        owner: User and group id that files must belong to; None if they are those of the process.
    """

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def make_private_directory(self, path: Path) -> None:
        """Make a directory that only the account may enter. Its parents, and what is in it, stay as they are.

        Raises:
            BootError: It exists and belongs to another user, or is a link of one.
            OSError: It cannot be made.
        """
        path.mkdir(mode=0o700, exist_ok=True)
        trusted = {0, os.geteuid(), *(self.owner or ())[:1]}
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        # A link of root or of this user may lead to another disk.
        if path.lstat().st_uid not in trusted:
            raise BootError(f"{path} belongs to another user ({path.lstat().st_uid}): remove it")
        directory = os.open(path, flags if path.is_symlink() else flags | os.O_NOFOLLOW)
        try:
            found = os.fstat(directory)
            if found.st_uid not in trusted:
                raise BootError(f"{path} belongs to another user ({found.st_uid}): remove it")
            if self.owner is not None:
                os.fchown(directory, *self.owner)
            os.fchmod(directory, 0o700)
        finally:
            os.close(directory)

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another as the account; it ends with SIGINT if its parent ends."""
        if not self.prefix:
            return [*command]
        # A change of the account clears what the parent has set.
        return [self.prefix[0], "--pdeathsig=INT", *self.prefix[1:], *command]

    def run(self, command: Sequence[str], directory: Path = Path("/")) -> str | None:
        """Run a command in a directory and wait for it; return None if it succeeded, else its output."""
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


def trusted_owners(user: str) -> frozenset[int]:
    """Return the ids of the users that files of the server may belong to: root, this user and the server's account."""
    owners = {0, os.geteuid()}
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            owners.add(pwd.getpwnam(user).pw_uid)
    return frozenset(owners)


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
        pass
    useradd = shutil.which("useradd") or "/usr/sbin/useradd"
    command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", user]
    try:
        # Two useradd at the same time both succeed, and the second one gives the account another number.
        with _locked(_ACCOUNTS):
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(user)
            subprocess.run(command, check=True, capture_output=True)
            return pwd.getpwnam(user)
    except (OSError, subprocess.CalledProcessError, KeyError) as ex:
        raise BootError(f"root needs an account to run PostgreSQL as; making {user!r} failed: {ex}") from ex


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process has locked a directory, and lock it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
