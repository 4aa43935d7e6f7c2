"""What a report has of the machine: versions, memory, disks, processes, the clock, and how the service answers."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from kernel.package_names import DISTRIBUTION, own_version
from kernel.settings import Settings

_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")
# Its own programs, as the first words of a command line name them. Further arguments may be secrets, and are not told.
_PROGRAMS = frozenset({"tiercel", "gunicorn", "guardian.py"})
_WORDS_MAX = 4
_SUBCOMMAND = re.compile(r"[a-z][a-z_-]*")
_PROBES = ("/livez", "/readyz?verbose")
# Memory of the group of processes, which containers and units of systemd have: cgroup version 2.
_CGROUP = Path("/sys/fs/cgroup")


def read_versions() -> dict[str, Any]:
    """Return the versions of Tiercel, Python, the system, and the packages that Tiercel needs."""
    matches = map(_REQUIREMENT_NAME.match, requires(DISTRIBUTION) or ())
    names = sorted({match[0] for match in matches if match is not None})
    return {
        "tiercel": own_version(),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "system": platform.platform(),
        "libpq": psycopg.pq.version(),
        "psycopg": psycopg.pq.__impl__,
        "packages": {name: found for name in names if (found := _installed(name)) is not None},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # an optional one


def read_machine() -> dict[str, Any]:
    """Return processors, load, memory and the limits of this user's processes."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "processors": psutil.cpu_count(),
        "load_average": [round(each, 2) for each in psutil.getloadavg()],
        "memory_total_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "swap_used_bytes": swap.used,
        "cgroup": {name: text for name in ("memory.max", "memory.current", "memory.events") if (text := _cgroup(name))},
        "descriptors_max": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "up_since": datetime.fromtimestamp(psutil.boot_time(), UTC),
    }


def _cgroup(name: str) -> str | None:
    try:
        return " ".join((_CGROUP / name).read_text().split())
    except OSError:
        return None  # the group of the whole machine has none, nor has version 1


def read_disks(settings: Settings) -> dict[str, Any]:
    """Return the file systems that the service writes to, and what takes the space in its home directory."""
    home = settings.home.absolute()
    places = {"home": home, "temporary": Path(os.environ.get("TMPDIR", "/tmp"))}  # noqa: S108 - only measured
    if settings.log.file is not None:
        places["log.file"] = settings.log.file.absolute().parent
    if settings.jobs.log_dir is not None:
        places["jobs.log_dir"] = settings.jobs.log_dir.absolute()
    rows = [{"place": name, **_measure_disk(path)} for name, path in places.items()]
    return {"file_systems": rows, "home_bytes": dict(_measure_folders(home))}


def _measure_disk(path: Path) -> dict[str, int | str]:
    # What does not exist yet will be on the file system of its nearest parent.
    existing = next(each for each in (path, *path.parents) if each.exists())
    found = os.statvfs(existing)
    return {
        "path": str(path),
        "total_bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
        "free_files": found.f_favail,
    }


def _measure_folders(home: Path) -> Iterator[tuple[str, int]]:
    """Yield the size of each file and folder of the home directory, on disk."""
    for entry in sorted(home.iterdir()) if home.is_dir() else ():
        yield entry.name, sum(map(_size_on_disk, (str(entry), *_files_below(entry))))


def _files_below(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (f"{parent}/{name}" for name in names)


def _size_on_disk(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0  # removed meanwhile


def read_processes() -> list[dict[str, Any]]:
    """Return the processes of Tiercel on this machine, of all services."""
    return [
        shown
        for process in psutil.process_iter()
        if process.pid != os.getpid() and (shown := _describe_process(process)) is not None
    ]


def _describe_process(process: psutil.Process) -> dict[str, Any] | None:
    try:
        with process.oneshot():
            command = _name_command(process.cmdline())
            if command is None:
                return None
            times = process.cpu_times()
            return {
                "pid": process.pid,
                "parent": process.ppid(),
                "command": command,
                "status": process.status(),
                "started_at": datetime.fromtimestamp(process.create_time(), UTC),
                "cpu_s": round(times.user + times.system, 1),
                "resident_bytes": process.memory_info().rss,
                "threads": process.num_threads(),
                "descriptors": process.num_fds(),
            }
    except psutil.Error:
        return None  # it ended, or belongs to another user


def _name_command(arguments: list[str]) -> str | None:
    """Return the program and its subcommand; None for a program that is not one of ours."""
    for position, word in enumerate(arguments[:_WORDS_MAX]):
        name = word.rpartition("/")[2]
        if name in _PROGRAMS:
            following = arguments[position + 1 : position + 2]
            subcommands = [each for each in following if _SUBCOMMAND.fullmatch(each)]
            return " ".join([name, *subcommands])
    return None


class ClockWatch:
    """Tells whether the clock is set while a report is made: the time of day moves, the monotonic clock does not."""

    def __init__(self) -> None:
        self._began = time.time(), time.monotonic()

    def read(self) -> dict[str, Any]:
        """Return the time, its zone, and how far the clock was moved since the beginning."""
        wall_s, monotonic_s = time.time() - self._began[0], time.monotonic() - self._began[1]
        return {
            "now": datetime.now(UTC),
            "zone": time.strftime("%Z"),
            "watched_s": round(monotonic_s, 3),
            "moved_ms": round((wall_s - monotonic_s) * 1000, 1),
        }


def read_probes(settings: Settings, timeout_s: float) -> list[dict[str, Any]]:
    """Return how the service on this machine answers its probes.

    Args:
        settings: Where it listens, and under which names.
        timeout_s: Of each probe.
    """
    base, transport = _address(settings.server.bind)
    # Any other host is refused where some are allowed.
    allowed = [each for each in settings.http.allowed_hosts if "*" not in each and not each.startswith(".")]
    headers: Mapping[str, str] = {"Host": allowed[0]} if allowed else {}
    with httpx.Client(transport=transport, base_url=base, timeout=timeout_s, trust_env=False) as client:
        return [_probe(client, path, headers) for path in _PROBES]


def _probe(client: httpx.Client, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        answer = client.get(path, headers=headers)
    except httpx.HTTPError as ex:
        return {"probe": path, "problem": f"{type(ex).__name__}: {ex}"}
    took_ms = round((time.monotonic() - began) * 1000, 1)
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    body = answer.json() if is_json else None
    return {"probe": path, "status": answer.status_code, "took_ms": took_ms, "body": body}


def _address(bind: str) -> tuple[str, httpx.HTTPTransport]:
    first = bind.partition(",")[0].strip()
    if first.startswith("unix:"):
        return "http://localhost", httpx.HTTPTransport(uds=first.removeprefix("unix:").replace("//", "/", 1))
    host, colon, port = first.rpartition(":")
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - as it is written
    return f"http://{name}:{port}" if colon else f"http://{first}:8000", httpx.HTTPTransport()
