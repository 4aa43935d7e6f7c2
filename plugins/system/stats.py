"""``/stats/``: statistics of the machine, the process, the service, the database engine and the plugins."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from kernel import CacheStats, Database, Engine, PluginStatus, Services, UnavailableError, route
from kernel.jobs import JobFigures

T = TypeVar("T")

# In a shorter time, the ticks of the clock that counts (10 ms) are too few; seconds of all processors together.
_CPU_SAMPLE_MIN_S = 0.2


class CpuStats(msgspec.Struct, frozen=True):
    """The machine's processors; ``used_percent`` since the previous request to this process, or since it started."""

    logical_count: int | None
    physical_count: int | None
    used_percent: float
    load_average_1m: float
    load_average_5m: float
    load_average_15m: float


class MemoryStats(msgspec.Struct, frozen=True):
    """The machine's memory."""

    total_bytes: int
    available_bytes: int
    used_bytes: int
    used_percent: float
    swap_total_bytes: int
    swap_used_bytes: int


class DiskStats(msgspec.Struct, frozen=True):
    """The file system of the service's home directory."""

    path: Path
    total_bytes: int
    used_bytes: int
    free_bytes: int
    used_percent: float


class ProcessStats(msgspec.Struct, frozen=True):
    """The worker process that answers."""

    pid: int
    parent_pid: int
    started_at: datetime
    uptime_s: float
    cpu_user_s: float
    cpu_system_s: float
    resident_bytes: int
    virtual_bytes: int
    threads: int
    open_files: int
    python: str


class ApplicationStats(msgspec.Struct, frozen=True):
    """The service and its configuration; ``figures`` are counters of plugins since the process started."""

    name: str
    version: str
    home: Path
    auth: str
    debug: bool
    workers: int
    threads: int
    routes: int
    pool: Mapping[str, int]
    caches: Mapping[str, CacheStats]
    requests: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, int | float]]


class Stats(msgspec.Struct, frozen=True):
    """All statistics; ``engine`` and ``jobs`` are None while the database is unavailable."""

    cpu: CpuStats
    memory: MemoryStats
    disk: DiskStats
    process: ProcessStats
    application: ApplicationStats
    engine: Engine | None
    jobs: JobFigures | None
    plugins: tuple[PluginStatus, ...]


class StatsRoutes:
    """The handler of ``/stats/``.

    Args:
        services: What the statistics describe.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cpu_meter = CpuMeter()

    @route("/stats/", policy="staff", menu="statistics of machine and process")
    def show(self) -> Stats:
        """Return all statistics."""
        services = self._services
        return Stats(
            cpu=read_cpu(self._cpu_meter),
            memory=read_memory(),
            disk=read_disk(services.kernel_settings.home),
            process=read_process(services.clock.now()),
            application=read_application(services),
            engine=_if_available(lambda: read_engine(services.db)),
            jobs=_if_available(services.jobs.figures),
            plugins=tuple(services.plugins),
        )


class CpuMeter:
    """Measures how busy the machine's processors were since the previous measurement, by any thread.

    ``psutil.cpu_percent`` compares with the previous call of the same thread, so that the first in each returns 0.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy_s, self._total_s = _cpu_times()
        self._percent: float | None = None

    def measure(self) -> float:
        """Return the percentage. If the previous measurement was a moment ago, return that."""
        with self._lock:
            busy_s, total_s = _cpu_times()
            if self._percent is None and total_s - self._total_s < _CPU_SAMPLE_MIN_S:
                time.sleep(_CPU_SAMPLE_MIN_S)
                busy_s, total_s = _cpu_times()
            if total_s - self._total_s >= _CPU_SAMPLE_MIN_S or self._percent is None:
                elapsed_s = max(total_s - self._total_s, _CPU_SAMPLE_MIN_S)
                self._percent = round(100 * min(max((busy_s - self._busy_s) / elapsed_s, 0), 1), 1)
                self._busy_s, self._total_s = busy_s, total_s
            return self._percent


def _cpu_times() -> tuple[float, float]:
    """Return the seconds that all processors were busy since the machine started, and all seconds."""
    times = psutil.cpu_times()
    # Linux counts the time of guests in user and nice as well.
    total_s = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
    return total_s - times.idle - getattr(times, "iowait", 0), total_s


def read_engine(db: Database) -> Engine:
    """Return the engine of a database that answers.

    Raises:
        UnavailableError: It does not; what it was is known all the same.
    """
    db.ping()
    return db.engine


def read_cpu(meter: CpuMeter) -> CpuStats:
    """Measure the machine's processors."""
    load_1m, load_5m, load_15m = psutil.getloadavg()
    return CpuStats(psutil.cpu_count(), psutil.cpu_count(logical=False), meter.measure(), load_1m, load_5m, load_15m)


def read_memory() -> MemoryStats:
    """Measure the machine's memory."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return MemoryStats(memory.total, memory.available, memory.used, memory.percent, swap.total, swap.used)


def read_disk(home: Path) -> DiskStats:
    """Measure the file system of a directory."""
    # The home directory may not exist yet; its nearest existing parent is on the same file system.
    path = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    usage = psutil.disk_usage(str(path))
    return DiskStats(home.absolute(), usage.total, usage.used, usage.free, usage.percent)


def read_process(now: datetime) -> ProcessStats:
    """Measure this process."""
    process = psutil.Process()
    with process.oneshot():
        started_at = datetime.fromtimestamp(process.create_time(), now.tzinfo)
        times, memory = process.cpu_times(), process.memory_info()
        return ProcessStats(
            pid=process.pid,
            parent_pid=process.ppid(),
            started_at=started_at,
            uptime_s=round((now - started_at).total_seconds(), 3),
            cpu_user_s=times.user,
            cpu_system_s=times.system,
            resident_bytes=memory.rss,
            virtual_bytes=memory.vms,
            threads=process.num_threads(),
            open_files=process.num_fds(),
            python=f"{platform.python_implementation()} {sys.version.split()[0]}",
        )


def read_application(services: Services) -> ApplicationStats:
    """Describe the service, and count what it has done in this process."""
    settings = services.kernel_settings
    return ApplicationStats(
        name="tiercel",
        version=version("tiercel"),
        home=settings.home.absolute(),
        auth=settings.auth,
        debug=settings.debug,
        workers=settings.server.workers,
        threads=settings.server.threads,
        routes=len(services.routes),
        pool=services.db.stats(),
        caches=services.cache.stats(),
        requests=services.requests.stats(),
        figures=services.statistics(),
    )


def _if_available(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UnavailableError:
        return None
