"""What the kernel measures of itself, from what ``/stats/`` reads as well.

Values of each process are read once a second and added up; those of the whole instance are read at a scrape.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator

import psutil

from kernel.errors import UnavailableError
from kernel.last_backup import read_last_backup
from kernel.metrics import Read, Reading
from kernel.package_names import own_version
from kernel.services import SharedServices

# Reading the descriptors of a process takes a while if there are thousands.
_PROCESS_INTERVAL_S = 5.0
# The server asks for the size of every file.
_DATABASE_SIZE_MAX_AGE_S = 60.0


def measure(shared: SharedServices) -> None:
    """Have everything measured that no part of the kernel counts itself."""
    metrics = shared.metrics
    for read in (_pool, _caches, _throttles, _notifications, _feed, _audit):
        metrics.read_in_process("tiercel_", _bind(read, shared))
    metrics.read_in_process("tiercel_", _Process(shared).read)
    metrics.add_source("instance", "tiercel_", _bind(_instance, shared), 0.0)
    metrics.add_source("database", "tiercel_", _bind(_database, shared))
    metrics.add_source("database_size", "tiercel_", _bind(_database_size, shared), _DATABASE_SIZE_MAX_AGE_S)
    metrics.add_source("jobs", "tiercel_", _bind(_jobs, shared))
    metrics.add_source("datasets", "tiercel_", _bind(_datasets, shared))


def _bind(read: Callable[[SharedServices], Iterable[Reading]], shared: SharedServices) -> Read:
    return lambda: read(shared)


# --- of each process --------------------------------------------------------------------------------------------------


def _pool(shared: SharedServices) -> Iterator[Reading]:
    stats = shared.db.stats()
    if not stats:
        return
    yield Reading("db_pool_connections", "Connections in the pools.", stats["pool_size"])
    yield Reading("db_pool_connections_max", "The most connections of the pools.", stats["pool_max"])
    yield Reading("db_pool_connections_available", "Idle connections in the pools.", stats["pool_available"])
    yield Reading("db_pool_requests_waiting", "Who waits for a connection of a pool.", stats["requests_waiting"])
    counts = {
        "db_pool_requests_total": ("How often a connection was asked for.", stats.get("requests_num", 0)),
        "db_pool_requests_queued_total": ("How often none was idle.", stats.get("requests_queued", 0)),
        "db_pool_requests_errors_total": ("How often none came free in time.", stats.get("requests_errors", 0)),
        "db_pool_wait_seconds_total": ("Time spent waiting for one.", stats.get("requests_wait_ms", 0) / 1000),
        "db_pool_usage_seconds_total": ("Time for which one was borrowed.", stats.get("usage_ms", 0) / 1000),
        "db_pool_connections_opened_total": ("Attempts to open one.", stats.get("connections_num", 0)),
        "db_pool_connections_errors_total": ("Attempts that failed.", stats.get("connections_errors", 0)),
        "db_pool_connections_lost_total": ("Connections found broken.", stats.get("connections_lost", 0)),
    }
    for name, (help_text, value) in counts.items():
        yield Reading(name, help_text, value, kind="counter")


def _caches(shared: SharedServices) -> Iterator[Reading]:
    for name, stats in shared.cache.stats().items():
        cache = {"cache": name}
        yield Reading("cache_hits_total", "Values that were found in a cache.", stats.hits, cache, "counter")
        yield Reading("cache_misses_total", "Values that were not.", stats.misses, cache, "counter")
        yield Reading("cache_entries", "Values in a cache.", stats.items, cache)
        if stats.size_bytes is not None:
            yield Reading("cache_bytes", "Size of the values in a cache.", stats.size_bytes, cache)


def _throttles(shared: SharedServices) -> Iterator[Reading]:
    throttles = shared.throttles
    name, text = "throttle_requests_total", "Requests that were counted by throttles, by scope."
    for scope, (allowed, refused) in throttles.outcomes().items():
        yield Reading(name, text, allowed, {"scope": scope, "outcome": "allowed"}, "counter")
        yield Reading(name, text, refused, {"scope": scope, "outcome": "refused"}, "counter")
    uncounted = throttles.statistics()["throttle_passed_uncounted"]
    text = "Requests that passed because the storage of throttles was away."
    yield Reading("throttle_uncounted_requests_total", text, uncounted, kind="counter")
    text = "Processes for which the storage of throttles is away."
    yield Reading("throttle_backend_away", text, float(throttles.is_away))
    refused = shared.usage.statistics()["quota_refused"]
    yield Reading("plan_limit_refused_total", "What plans did not allow, by day.", refused, kind="counter")


def _notifications(shared: SharedServices) -> Iterator[Reading]:
    text = "Whether a process hears of changes at once; else it polls, once it reaches the database."
    process = {"process": shared.metrics.process}
    yield Reading("notifications_listening", text, float(shared.listener.is_listening), process)


def _feed(shared: SharedServices) -> Iterator[Reading]:
    text = "Records of requests that were not delivered to a subscriber."
    for name, stats in shared.requests.stats().items():
        yield Reading("request_feed_dropped_total", text, stats.dropped, {"subscriber": name}, "counter")


def _audit(shared: SharedServices) -> Iterator[Reading]:
    yield Reading("audit_entries_total", "Entries in the audit log.", shared.audit.written, kind="counter")


class _Process:
    """Reads what the operating system knows of this process, not every time that it is asked."""

    def __init__(self, shared: SharedServices) -> None:
        self._shared = shared
        self._read_at = float("-inf")
        self._readings: list[Reading] = []

    def read(self) -> Iterable[Reading]:
        if time.monotonic() - self._read_at >= _PROCESS_INTERVAL_S:
            self._readings = list(_process(self._shared.metrics.process))
            self._read_at = time.monotonic()
        return self._readings


def _process(name: str) -> Iterator[Reading]:
    labels, process = {"process": name}, psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        seconds = times.user + times.system
        yield Reading("process_cpu_seconds_total", "Processor time of a process.", seconds, labels, "counter")
        yield Reading("process_resident_memory_bytes", "Memory of a process.", memory.rss, labels)
        yield Reading("process_open_fds", "Open descriptors of a process.", process.num_fds(), labels)
        yield Reading("process_threads", "Threads of a process.", process.num_threads(), labels)
        text = "When a process started, in seconds since 1970."
        yield Reading("process_start_time_seconds", text, process.create_time(), labels)


# --- of the instance --------------------------------------------------------------------------------------------------


def _instance(shared: SharedServices) -> Iterator[Reading]:
    build = {"version": own_version(), "python": platform.python_version()}
    yield Reading("build_info", "Versions of Tiercel and Python.", 1, build)
    text = "Whether a plugin works; it does not if it is quarantined."
    for plugin in shared.plugins.values():
        if plugin.state != "disabled":
            yield Reading("plugin_up", text, float(plugin.state == "loaded"), {"plugin": plugin.name})
    disk = psutil.disk_usage(str(shared.settings.home.absolute()))
    yield Reading("home_filesystem_size_bytes", "The file system of the home directory.", disk.total)
    yield Reading("home_filesystem_free_bytes", "What is free of it.", disk.free)
    try:
        backup = read_last_backup(shared.settings.home)
    except (OSError, ValueError):
        return  # tiercel check says why
    if backup is not None:
        text = "When the latest backup was complete, in seconds since 1970."
        yield Reading("backup_finished_time_seconds", text, backup.finished_at.timestamp())


def _database(shared: SharedServices) -> Iterator[Reading]:
    measures, engine = shared.db.measures(shared.settings.metrics.source_timeout_s), shared.db.engine
    yield Reading("database_connections", "Connections to the database, of anybody.", measures.connections)
    yield Reading("database_server_connections", "Connections to its server.", measures.server_connections)
    text = "The most connections to its server."
    yield Reading("database_server_connections_max", text, measures.server_connections_max)
    labels = {"engine": engine.name, "version": engine.version, "timescaledb": engine.timescaledb_version or ""}
    yield Reading("database_info", "Engine and version of the database.", 1, labels)


def _database_size(shared: SharedServices) -> Iterator[Reading]:
    size_bytes = shared.db.size_bytes(shared.settings.metrics.source_timeout_s)
    yield Reading("database_size_bytes", "Size of the database on disk.", size_bytes)


def _jobs(shared: SharedServices) -> Iterator[Reading]:
    measures = shared.jobs.measures(shared.settings.metrics.source_timeout_s)
    registry = shared.jobs.registry
    text = "Jobs that wait or run, and those that failed within the last day."
    # Those that no plugin has any more count together.
    counts = {(name, state): 0 for name in registry.names for state in ("waiting", "running", "failed")}
    for (name, state), count in measures.counts.items():
        key = (name if name in registry.names else "(unknown)", state)
        counts[key] = counts.get(key, 0) + count
    for (name, state), count in counts.items():
        yield Reading("jobs", text, count, {"name": name, "state": state})
    text = "For how long the job that is due for longest has been waiting."
    yield Reading("jobs_oldest_waiting_seconds", text, measures.oldest_waiting_s)
    yield Reading("job_workers", "Workers of jobs that are alive, on all machines.", measures.workers)
    now = shared.clock.now()
    text = "Whether the job of a schedule was due a minute ago, and is not queued."
    for name in registry.schedules:
        is_late = registry.is_late(name, measures.schedules.get(name), now)
        yield Reading("job_schedule_late", text, float(is_late), {"name": name})


def _datasets(shared: SharedServices) -> Iterator[Reading]:
    for name, dataset in shared.datasets.all.items():
        if dataset.per_account:
            continue
        labels = {"dataset": name}
        try:
            snapshot = shared.datasets.snapshot(name)
        except UnavailableError:
            # Nothing is published, or nothing that can be read: a health check tells.
            continue
        text = "When the current version of a dataset was published, in seconds since 1970."
        yield Reading("dataset_published_time_seconds", text, snapshot.published_at.timestamp(), labels)
        text = "When a dataset was last found to be up to date, in seconds since 1970."
        confirmed_at = snapshot.confirmed_at or snapshot.published_at
        yield Reading("dataset_confirmed_time_seconds", text, confirmed_at.timestamp(), labels)
        yield Reading("dataset_items", "Items of the current version of a dataset.", len(snapshot.items), labels)
