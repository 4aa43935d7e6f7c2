"""The addresses that the service listens on: whether they are free, before anything else is started."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import psutil
from gunicorn.util import is_ipv6, parse_address

from kernel.errors import BootError

# Set if the listening sockets come from the process that started this one: systemd, or a master that is replaced.
_INHERITED = ("LISTEN_FDS", "GUNICORN_FD")
_CONNECT_TIMEOUT_S = 1.0
_REASONS = {
    errno.EADDRNOTAVAIL: "no interface of this machine has this address",
    errno.EACCES: "the user of this process may not listen on it",
}


def ensure_addresses_free(bind: str) -> None:
    """Ensure that the service will be able to listen, before the database is started for it.

    Args:
        bind: ``server.bind``: addresses, separated by commas.

    Raises:
        BootError: Another process listens on one of them, or nobody could.
    """
    if any(os.environ.get(name) for name in _INHERITED):
        return
    for text in filter(None, map(str.strip, bind.split(","))):
        address = parse_address(text)
        if isinstance(address, str):
            _ensure_local_free(text, Path(address))
        elif isinstance(address, tuple):
            _ensure_port_free(text, *address)


def _ensure_port_free(text: str, host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if is_ipv6(host) else socket.AF_INET) as probe:
            # As gunicorn does: connections that were closed a moment ago do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as ex:
        if ex.errno == errno.EADDRINUSE:
            raise BootError(f"{text} is in use{_find_listener(port)}; stop it, or set TIERCEL_BIND") from ex
        raise BootError(f"cannot listen on {text}: {_REASONS.get(ex.errno or 0) or ex.strerror or ex}") from ex


def _ensure_local_free(text: str, path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as ex:
        if path.parent.is_dir():
            return
        raise BootError(f"cannot listen on {text}: there is no directory {path.parent}") from ex
    except OSError as ex:
        raise BootError(f"cannot listen on {text}: {ex.strerror or ex}") from ex
    if not stat.S_ISSOCK(mode):
        raise BootError(f"cannot listen on {text}: it exists, and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(_CONNECT_TIMEOUT_S)
        # Refused if a process left it behind that is gone: gunicorn replaces it.
        probe.connect(str(path))
        raise BootError(f"{text} is in use by another process; stop it, or set TIERCEL_BIND")


def _find_listener(port: int) -> str:
    """Return which process listens on a port, as far as this user may know."""
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        # Forked workers share the socket of their parent, which began before them.
        pid = min(each.pid for each in listening if each.pid and each.laddr[1:2] == (port,))
        return f" by process {pid} ({psutil.Process(pid).name()})"
    return " by another process"
