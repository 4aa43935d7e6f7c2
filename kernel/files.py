"""Files in directories that others may write to: links of other users are not followed, and files are replaced whole.

An attacker who can create files in a directory, such as the temporary one, could place a symbolic link where a service
is going to write, and so make it change a file of its own user.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_own(path: Path, flags: int, mode: int = 0o600, owners: Collection[int] = ()) -> int:
    """Open a regular file that nobody else can have placed there; return its descriptor, which ``exec`` closes.

    Args:
        path: Its name, which must not be a symbolic link.
        flags: Those of ``os.open``.
        mode: For a new file, before the umask.
        owners: User ids that the file may belong to, besides root, this user and the owner of the directory.

    Raises:
        OSError: It cannot be opened, is a link or no regular file, or belongs to another user.
    """
    try:
        descriptor = os.open(path, flags | _FLAGS, mode)
    except OSError as ex:
        if ex.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link, which is not followed here", str(path)) from None
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    if found.st_uid not in {0, os.geteuid(), path.parent.stat().st_uid, *owners}:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, f"belongs to another user ({found.st_uid})", str(path))
    return descriptor


def open_log(path: Path, mode: int) -> int:
    """Open a file to append to it, and create it if it is missing; return its descriptor, which ``exec`` closes.

    It may be a device, or a symbolic link of root or of this user, such as ``/dev/stderr``.

    Raises:
        OSError: It cannot be opened, or is a symbolic link of another user.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    except OSError as ex:
        if ex.errno != errno.ELOOP:
            raise
    if path.lstat().st_uid not in {0, os.geteuid()}:
        raise PermissionError(errno.EPERM, "is a symbolic link of another user", str(path))
    return os.open(path, flags, mode)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[int]:
    """Lock a file until the block ends; yield its descriptor, for programs that are to keep the lock until they end.

    Raises:
        BlockingIOError: Another process has the lock.
        OSError: It cannot be opened.
    """
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, mode: int = 0o666, owner: tuple[int, int] | None = None) -> None:
    """Write a file completely or not at all: readers see what it was before, or what it is now.

    Args:
        path: Its name. If that is a symbolic link, the link is replaced.
        content: The whole of it.
        mode: Its mode, before the umask.
        owner: User and group id that it is to belong to; None for those of this process.

    Raises:
        OSError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        # What a killed process left there, or somebody else placed there.
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            file.write(content)
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise


def sync_directory(path: Path) -> None:
    """Have names in a directory survive a loss of power: of files that were made, renamed or removed.

    Raises:
        OSError: It cannot be opened or synchronised.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
