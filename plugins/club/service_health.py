"""``/club/admin/service-health/``: storage, caches, database and sources, each as far as it can be seen."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from kernel import CacheStats, Request, Response, Route, Services, UnavailableError
from kernel.datasets import DatasetSummary, summarize_dataset
from plugins.club.datasets import DATASETS
from plugins.club.freshness import NOTHING_CONFIGURED, Freshness, SourceFreshness, describe
from plugins.club.store import Figures, read_figures

T = TypeVar("T")
CACHE_NAMES = "club_"


class StorageHealth(msgspec.Struct, frozen=True):
    """The file system that holds the service's home."""

    path: Path
    writable: bool
    free_bytes: int | None
    total_bytes: int | None


class CacheHealth(msgspec.Struct, frozen=True):
    """The caches of the process that answers, and what this plugin's names take in them, in bytes."""

    pid: int
    caches: Mapping[str, CacheStats]
    names: Mapping[str, int]


class DatabaseHealth(msgspec.Struct, frozen=True):
    """The database and what this plugin keeps in it."""

    engine: str
    figures: Figures
    datasets: Sequence[DatasetSummary]


class ServiceHealth(msgspec.Struct, frozen=True):
    """Everything.

    Args:
        status: ``degraded`` if there is any problem.
        problems: For people.
        note: What else they should know.
        storage: Where files are.
        cache: What is kept in memory.
        database: None while it is away.
        sources: Every configured one; None while the database is away.
    """

    status: Literal["ok", "degraded"]
    problems: Sequence[str]
    note: str | None
    storage: StorageHealth
    cache: CacheHealth
    database: DatabaseHealth | None
    sources: Sequence[SourceFreshness] | None


class ServiceHealthMeta(msgspec.Struct, frozen=True):
    """About the answer."""

    application: str
    endpoint: str
    total_items: int
    generated_at: datetime


class ServiceHealthAnswer(msgspec.Struct, frozen=True):
    """The answer in the envelope of all routes of this plugin."""

    data: ServiceHealth
    meta: ServiceHealthMeta


class ServiceHealthRoute:
    """The handler.

    Args:
        services: What it looks at.
        freshness: Knows the sources.
    """

    def __init__(self, services: Services, freshness: Freshness) -> None:
        self._services = services
        self._freshness = freshness

    def route(self) -> Route:
        """Return the route."""
        return Route(path="/club/admin/service-health/", handler=self.show, policy="staff", menu="health of club")

    def show(self, request: Request) -> Response[ServiceHealthAnswer]:
        """Look at everything. What cannot be seen is a problem in the answer, not an error."""
        problems: list[str] = []
        storage = self._storage(problems)
        database = _seen(self._database, problems)
        sources = _seen(self._freshness.list, problems)
        problems += [text for each in sources or () if (text := describe(each)) is not None]
        health = ServiceHealth(
            status="degraded" if problems else "ok",
            # The database that is away is a problem of several parts, and worth one line.
            problems=list(dict.fromkeys(problems)),
            note=NOTHING_CONFIGURED if sources is not None and not sources else None,
            storage=storage,
            cache=self._cache(),
            database=database,
            sources=sources,
        )
        meta = ServiceHealthMeta("default", request.path_as_sent, 1, self._services.clock.now())
        return Response(ServiceHealthAnswer(health, meta), headers={"Cache-Control": "no-store"})

    def _storage(self, problems: list[str]) -> StorageHealth:
        home = self._services.kernel_settings.home.absolute()
        free = total = None
        try:
            usage = shutil.disk_usage(home)
            free, total = usage.free, usage.total
            # The one way to know: permissions say yes on a file system that is full or read-only.
            with tempfile.TemporaryFile(dir=home) as probe:
                probe.write(b"probe")
        except OSError as ex:
            problems.append(f"storage: {ex}")
            return StorageHealth(home, writable=False, free_bytes=free, total_bytes=total)
        return StorageHealth(home, writable=True, free_bytes=free, total_bytes=total)

    def _cache(self) -> CacheHealth:
        cache = self._services.cache
        names = {name: size for name, size in sorted(cache.names().items()) if name.startswith(CACHE_NAMES)}
        return CacheHealth(os.getpid(), cache.stats(), names)

    def _database(self) -> DatabaseHealth:
        engine = self._services.db.engine
        figures = read_figures(self._services.db)
        summaries = [summarize_dataset(self._services.datasets, dataset.name) for dataset in DATASETS]
        return DatabaseHealth(f"{engine.name} {engine.version}", figures, summaries)


def _seen(look: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return look()
    except UnavailableError as ex:
        problems.append(str(ex.detail))
        return None
