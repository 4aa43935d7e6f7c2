"""The parent process of the embedded PostgreSQL, which stops it when no process uses it any more.

Processes that use the server share a lock on a file, which the operating system releases when they end, however that
happens. The guardian tries the lock now and then, and stops the server once it is free. It is no child of them, and
ignores signals that stop a service. If it is killed itself, the kernel of the operating system sends SIGINT to the
server, its child, which is a fast shutdown; processes that still use it start both again.

Run as a script by an isolated interpreter: it imports the standard library only, and little of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
# Fast shutdown; immediate shutdown, after which the next start recovers; the end of its patience.
_STOP_SIGNALS = ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))


def main(start_lock_path: str, users_lock_path: str, sockets: str, log_path: str, *command: str) -> None:
    """Run the server until it ends, or until nobody uses it.

    Args:
        start_lock_path: The file that is locked by whoever starts or stops the server.
        users_lock_path: The file that its users have a shared lock on.
        sockets: Directory of its sockets, which is removed with it.
        log_path: Gets the output of the server.
        command: Runs the server in the foreground.
    """
    if os.fork():
        # The process that started it need not be its parent, which would have to wait for it.
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)  # SIG_IGN would be inherited by the server
    server = _start(log_path, command)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    start_lock, users_lock = (
        os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC) for path in (start_lock_path, users_lock_path)
    )
    while server.poll() is None:
        signal.sigtimedwait({signal.SIGCHLD}, _POLL_S)
        # Nobody can become a user while the start lock is held.
        if _try_lock(start_lock):
            if _try_lock(users_lock):
                _stop(server)
                with contextlib.suppress(OSError):
                    os.rmdir(sockets)  # noqa: PTH106 - pathlib is not worth its import here
                return
            fcntl.flock(start_lock, fcntl.LOCK_UN)


def _start(log_path: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    me, libc = os.getpid(), ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != me:
            os._exit(1)

    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            preexec_fn=end_with_parent,  # there are no threads
        )
    finally:
        os.close(log)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number, timeout_s in _STOP_SIGNALS:
        server.send_signal(number)
        deadline = time.monotonic() + timeout_s
        while server.poll() is None and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, _POLL_S)
        if server.returncode is not None:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
