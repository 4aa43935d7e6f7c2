"""The health of the plugin: how fresh each source is, and the state of storage, caches and database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from kernel import CacheStats, Services, UnavailableError
from kernel.datasets import DatasetSummary, summarize_dataset
from plugins.club.datasets import DATASETS
from plugins.club.jobs import JOB
from plugins.club.settings import ClubSettings, Source
from plugins.club.store import DatabaseUsage, SourceState, list_states, read_database_usage

NO_SOURCES = "no sources are configured: imported data are served"
_CACHE_PREFIX = "club_"


class SourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a source and the age of its content.

    Args:
        source: Its name.
        dataset: The dataset it belongs to.
        host: Host and port of its URL, the rest of which may be secret.
        state: ``failing`` serves the last content; ``stale`` has none newer than ``club.stale_after_s``; ``waiting``
            was never fetched.
        items: Number of valid items of the last content.
        rejected: Number of invalid ones.
        changed_at: When the content was fetched.
        succeeded_at: When it was last fetched or confirmed.
        age_s: Seconds since ``succeeded_at``.
        failed_at: When a fetch last failed.
        failure: Reason of that failure.
        failures: Number of failures since the last success.
        attempted_at: When the last fetch ended.
        next_try_at: When the next fetch is due; None without a schedule.
    """

    source: str
    dataset: str
    host: str
    state: Literal["ok", "failing", "stale", "waiting"]
    items: int = 0
    rejected: int = 0
    changed_at: datetime | None = None
    succeeded_at: datetime | None = None
    age_s: int | None = None
    failed_at: datetime | None = None
    failure: str | None = None
    failures: int = 0
    attempted_at: datetime | None = None
    next_try_at: datetime | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the source; None if nothing is."""
        if self.state == "ok":
            return None
        if self.state == "waiting":
            return f"{self.source}: has not been fetched yet"
        last = "has never succeeded" if self.age_s is None else f"last succeeded {self.age_s} s ago"
        return f"{self.source}: {last}" if self.state == "stale" else f"{self.source}: {self.failure}; {last}"


class StorageHealth(msgspec.Struct, frozen=True):
    """The file system of the service's home directory."""

    path: Path
    writable: bool
    free_bytes: int | None
    total_bytes: int | None


class CacheHealth(msgspec.Struct, frozen=True):
    """The caches of the process that answers; ``names`` has the bytes that each of this plugin's entries takes."""

    pid: int
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


class DatabaseHealth(msgspec.Struct, frozen=True):
    """The database, and the datasets of this plugin."""

    engine: str
    figures: DatabaseUsage
    datasets: Sequence[DatasetSummary]


class ServiceHealth(msgspec.Struct, frozen=True):
    """The health of the plugin and of what it depends on.

    Args:
        status: ``degraded`` if there is any problem.
        problems: Descriptions of them.
        note: Further information.
        storage: The file system.
        cache: The caches.
        database: None while it is unavailable.
        sources: All configured sources; None while the database is unavailable.
    """

    status: Literal["ok", "degraded"]
    problems: Sequence[str]
    note: str | None
    storage: StorageHealth
    cache: CacheHealth
    database: DatabaseHealth | None
    sources: Sequence[SourceHealth] | None


class ClubHealth:
    """Checks the health of this plugin.

    Args:
        services: Settings, database, datasets, jobs, caches, clock.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(ClubSettings)

    def list_sources(self) -> Sequence[SourceHealth]:
        """Return the health of every configured source.

        Raises:
            UnavailableError: The database is unavailable.
        """
        sources = self._settings.sources
        if not sources:
            return ()
        states = list_states(self._services.db, sources)
        now, next_try_at = self._services.clock.now(), self._next_try_at()
        return [
            self._source_health(name, source, states.get(name), now, next_try_at) for name, source in sources.items()
        ]

    def check(self) -> str:
        """Check all sources, for readiness.

        Raises:
            UnavailableError: A source is failing, stale, or was never fetched; the message says which and why.
        """
        sources = self.list_sources()
        if not sources:
            return NO_SOURCES
        if problems := [source.problem for source in sources if source.problem is not None]:
            raise UnavailableError("; ".join(problems))
        return f"sources: {len(sources)} are fresh"

    def report(self) -> ServiceHealth:
        """Check everything. What is unavailable becomes a problem in the report, not an error."""
        problems: list[str] = []
        storage = self._storage(problems)
        database, sources = self._stored(problems)
        problems += [source.problem for source in sources or () if source.problem is not None]
        return ServiceHealth(
            status="degraded" if problems else "ok",
            problems=problems,
            note=NO_SOURCES if sources is not None and not sources else None,
            storage=storage,
            cache=self._cache(),
            database=database,
            sources=sources,
        )

    def _source_health(
        self, name: str, source: Source, state: SourceState | None, now: datetime, next_try_at: datetime | None
    ) -> SourceHealth:
        health = SourceHealth(
            source=name,
            dataset=source.dataset,
            host=urlsplit(source.url).netloc,
            state="waiting",
            next_try_at=next_try_at,
        )
        if state is None:
            return health
        age_s = None if state.succeeded_at is None else max(0, int((now - state.succeeded_at).total_seconds()))
        is_stale = age_s is not None and age_s > self._settings.stale_after_s
        # Content that was fetched for another dataset does not count.
        is_current = state.dataset == source.dataset
        return msgspec.structs.replace(
            health,
            state="failing" if state.failures else "stale" if is_stale else "ok",
            items=state.items if is_current else 0,
            rejected=state.rejected if is_current else 0,
            changed_at=state.changed_at,
            succeeded_at=state.succeeded_at,
            age_s=age_s,
            failed_at=state.failed_at,
            failure=state.failure,
            failures=state.failures,
            attempted_at=state.attempted_at,
        )

    def _next_try_at(self) -> datetime | None:
        jobs, now = self._services.jobs, self._services.clock.now()
        schedule = jobs.registry.schedules.get(JOB)
        times = [] if schedule is None else [schedule.following(now)]
        times += [job.due_at for job in jobs.list(name=JOB, state="waiting", limit=1)]
        return min(times, default=None)

    def _storage(self, problems: list[str]) -> StorageHealth:
        home = self._services.kernel_settings.home.absolute()
        free_bytes = total_bytes = None
        try:
            usage = shutil.disk_usage(home)
            free_bytes, total_bytes = usage.free, usage.total
            # Permissions do not tell: they allow writing on a file system that is full or read-only.
            with tempfile.TemporaryFile(dir=home) as probe:
                probe.write(b"probe")
        except OSError as ex:
            problems.append(f"storage: {ex}")
            return StorageHealth(home, writable=False, free_bytes=free_bytes, total_bytes=total_bytes)
        return StorageHealth(home, writable=True, free_bytes=free_bytes, total_bytes=total_bytes)

    def _cache(self) -> CacheHealth:
        cache = self._services.cache
        names = {name: size for name, size in sorted(cache.names().items()) if name.startswith(_CACHE_PREFIX)}
        return CacheHealth(os.getpid(), cache.stats(), names)

    def _stored(self, problems: list[str]) -> tuple[DatabaseHealth | None, Sequence[SourceHealth] | None]:
        """Return what is read from the database. While it is unavailable, that is one problem, and one wait for it."""
        try:
            return self._database(), self.list_sources()
        except UnavailableError as ex:
            problems.append(str(ex.detail))
            return None, None if self._settings.sources else ()

    def _database(self) -> DatabaseHealth:
        engine = self._services.db.engine
        usage = read_database_usage(self._services.db)
        summaries = [summarize_dataset(self._services.datasets, dataset.name) for dataset in DATASETS]
        return DatabaseHealth(f"{engine.name} {engine.version}", usage, summaries)
