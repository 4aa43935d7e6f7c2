"""Datasets: what plugins and commands do with them. Start reading here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel.applications import Applications, filter_keys
from kernel.cache import Caches
from kernel.contracts import Application, Dataset, Policy, Route
from kernel.datasets import store
from kernel.datasets.diff import Difference, compare_views, preview_publication
from kernel.datasets.http import DatasetRoute, IndexEntry, IndexRoute, IndexSpec, ViewSpec
from kernel.datasets.models import Publication, Snapshot, Version, decode_items, file_pattern
from kernel.datasets.published_files import CurrentData, PublishedFiles
from kernel.datasets.publisher import Publisher, make_content
from kernel.datasets.response_cache import ResponseCache
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.db.failures import identify_connecting
from kernel.db.pool import Database
from kernel.errors import BootError, UnavailableError
from kernel.logging import Logger
from kernel.notifications import DATABASE_ERRORS, NotificationListener
from kernel.settings import Settings
from kernel.threads import BackgroundThread

HISTORY_MAX = 100


class Datasets:
    """The datasets of one process.

    Args:
        db: Where they are stored.
        settings: ``datasets``, and the page sizes of ``http``.
        applications: Whose filters make views.
        caches: Gets a cache named ``datasets``.
        listener: Receives notifications of new versions.
        log: Gets filters that fail.
        now: Returns the time.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        applications: Applications,
        caches: Caches,
        listener: NotificationListener,
        log: Logger,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._settings = settings
        self._now = now
        self._cache = caches.create_sized("datasets", settings.datasets.cache_max_bytes)
        self._snapshots = Snapshots(db, self._cache)
        self._views = Views(applications, self._cache, log)
        self._publisher = Publisher(db, now, settings.datasets.keep_versions, self._sync_files)
        folder = settings.datasets.files_dir
        self._files = None if folder is None else PublishedFiles(folder, self._read_current, self._refresh_data, log)
        self._files_outdated = threading.Event()
        self._files_thread = BackgroundThread("dataset-files", self._keep_files, self._files_outdated.set)
        # By the name of its file, the entries of an index as an application sees them.
        self.indexes: dict[str, Callable[[Application | None], Sequence[IndexEntry]]] = {}
        self.publish = self._publisher.publish
        self.refuse = self._publisher.refuse
        listener.subscribe(
            store.CHANNEL,
            lambda _datasets: self._refresh(),
            poll=self._refresh,
            on_failure=self._report_failure,
        )

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def install(self, datasets: Iterable[Dataset]) -> None:
        """Install the datasets that the plugins registered, in place of those that were installed."""
        self._snapshots.install(datasets)

    def start(self) -> None:
        """Serve from memory from now on: the listener, which starts now as well, refreshes it."""
        self._snapshots.is_refreshed = True
        if self._files is not None:
            self._files_thread.start()

    def stop(self) -> None:
        """Read from the database again, without a listener."""
        self._files_thread.stop()
        self._snapshots.is_refreshed = False

    def check(self) -> None:
        """Health check: fail while a version cannot be read, a filter fails, or files cannot be written.

        Raises:
            BootError: Names them, with reasons.
        """
        problems = [*self._snapshots.problems(), *self._views.problems()]
        if self._files is not None and self._files.problem is not None:
            problems.append(self._files.problem)
        if problems:
            raise BootError("; ".join(problems))

    def _refresh(self) -> None:
        self._refresh_data()
        self._files_outdated.set()

    def _refresh_data(self) -> None:
        for snapshot in self._snapshots.refresh():
            self._views.prepare(self._snapshots.dataset(snapshot.dataset), snapshot)

    def _sync_files(self) -> None:
        # Where a listener runs, it learns of the new version and wakes the thread.
        if self._files is not None and not self._snapshots.is_refreshed:
            self._files.sync()

    def _keep_files(self, stopping: threading.Event) -> None:
        # In a thread of its own: a file system that hangs must not keep new versions from being served.
        while self._files is not None and not stopping.is_set():
            self._files_outdated.wait()
            self._files_outdated.clear()
            if not stopping.is_set():
                self._files.sync()

    def _read_current(self) -> CurrentData:
        return CurrentData(
            [(dataset, each) for name, dataset in self.all.items() if (each := self._find_current(name)) is not None],
            {file: entries(None) for file, entries in self.indexes.items()},
        )

    def _find_current(self, name: str) -> Snapshot | None:
        try:
            return self._snapshots.current(name)
        except UnavailableError:
            return None  # never published, or unreadable

    def _report_failure(self, error: Exception) -> None:
        is_away = isinstance(error, DATABASE_ERRORS)
        self._snapshots.report_failure(
            identify_connecting(error).detail if is_away else f"the datasets cannot be read: {error}"
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def all(self) -> Mapping[str, Dataset]:
        """Every dataset by its name."""
        return self._snapshots.datasets

    def find(self, name: str) -> Dataset:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        return self._snapshots.dataset(name)

    def read(self, name: str, application: Application | None = None, as_of: int | datetime | None = None) -> View:
        """Return what an application sees of a dataset; None sees everything.

        Args:
            name: Of the dataset.
            application: Whose filters are applied.
            as_of: A version, or a time; the current version by default.

        Raises:
            NotFoundError: There is no such dataset or version.
            UnavailableError: Nothing was published yet, or a filter fails.
        """
        dataset = self._snapshots.dataset(name)
        return self._views.view(dataset, self._snapshot(name, as_of), application)

    def versions(self, name: str, limit: int = HISTORY_MAX) -> Sequence[Version]:
        """Return the versions of a dataset, newest first."""
        return store.list_versions(self._db, self._snapshots.dataset(name).name, limit)

    def never_published(self) -> list[Dataset]:
        """Return the datasets that have no version."""
        return [dataset for name, dataset in self.all.items() if not self.versions(name, 1)]

    def publications(self, name: str, limit: int = HISTORY_MAX) -> Sequence[Publication]:
        """Return the attempts to publish a dataset, newest first."""
        return store.list_publications(self._db, self._snapshots.dataset(name).name, limit)

    def rejected(self, name: str) -> Any:
        """Return the first of the items that the last successful attempt rejected, each with its reason."""
        return store.list_rejected(self._db, self._snapshots.dataset(name).name)

    def compare(
        self,
        name: str,
        earlier: int | datetime,
        later: int | datetime | None = None,
        application: Application | None = None,
    ) -> Difference:
        """Return the difference between two versions, after an application's filters.

        Args:
            name: Of the dataset.
            earlier: A version, or a time.
            later: A version, or a time; the current version by default.
            application: Whose filters are applied to both.
        """
        dataset = self._snapshots.dataset(name)
        views = (self._views.view(dataset, self._snapshot(name, as_of), application) for as_of in (earlier, later))
        return compare_views(*views)

    def preview(self, dataset: Dataset, items: Iterable[object]) -> Difference:
        """Return what publishing these items would change. Nothing is stored.

        Args:
            dataset: The dataset.
            items: As for ``publish``; invalid ones are left out.
        """
        try:
            current = self.read(dataset.name)
        except UnavailableError:
            current = None
        return preview_publication(dataset, current, decode_items(dataset, make_content(dataset, items).data))

    def roll_back(self, name: str, version: int, *, source: str) -> Publication:
        """Publish the content of an older version again, as a new version.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._publisher.roll_back(self._snapshots.dataset(name), version, source=source)

    def _snapshot(self, name: str, as_of: int | datetime | None) -> Snapshot:
        return self._snapshots.current(name) if as_of is None else self._snapshots.as_of(name, as_of)

    # --- routes -----------------------------------------------------------------------------------------------------

    def route(self, spec: ViewSpec) -> Route:
        """Make the route of a dataset. See ``Services.dataset_route``.

        Raises:
            TypeError: The path names a field that items do not have, or the derivation takes other arguments.
        """
        responses = self._response_cache(spec.policy)
        return DatasetRoute(spec, self._snapshots, self._views, responses, self._settings.http).route()

    def index_route(self, spec: IndexSpec) -> Route:
        """Make the route of an index. See ``Services.index_route``.

        Raises:
            ValueError: Another index has that file.
        """
        if spec.file in self.indexes:
            raise ValueError(f"another index has the file {spec.file!r}")
        index = IndexRoute(spec, self._snapshots, self._views, self._response_cache(spec.policy), self._now)
        self.indexes[spec.file] = index.entries
        return index.route()

    def _response_cache(self, policy: Policy) -> ResponseCache:
        return ResponseCache(self._cache, self._settings.datasets.max_age_s, self._now, policy)


# --- summaries, for lists of datasets and applications --------------------------------------------------------------


class DatasetSummary(msgspec.Struct, frozen=True):
    """A dataset and its current version.

    Args:
        name: Unique over all plugins.
        key: The field that identifies an item.
        file: Name of its file; with a field in braces there is one for each value of that field.
        filter_keys: Further keys under which applications may register filters for it.
        version: The current version; None before the first.
        items: Number of its items.
        size_bytes: Size of the items as JSON.
        sha256: Of the content, hexadecimal.
        published_at: When that version was published.
        confirmed_at: When an export last found it unchanged.
        warning: Why the last attempt to publish was refused, if it was.
        reason: Why there is no current version.
    """

    name: str
    key: str
    file: str
    filter_keys: tuple[str, ...]
    version: int | None = None
    items: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    published_at: datetime | None = None
    confirmed_at: datetime | None = None
    warning: str | None = None
    reason: str | None = None


class FilterSummary(msgspec.Struct, frozen=True):
    """A filter of an application.

    Args:
        key: The key under which the application registered it.
        datasets: Names of the datasets that it filters; none if the key fits no dataset.
    """

    key: str
    datasets: Sequence[str]


class ItemCount(msgspec.Struct, frozen=True):
    """How much of a dataset an application sees.

    Args:
        dataset: Name of the dataset.
        items: Number of items after the application's filters; None if unknown.
        reason: Why it is unknown.
    """

    dataset: str
    items: int | None
    reason: str | None = None


class ApplicationSummary(msgspec.Struct, frozen=True):
    """An application and what it sees.

    Args:
        slug: Its segment in URLs.
        name: For people.
        features: The features it knows.
        services: The services whose request logs belong to it.
        filters: Its filters, each with its datasets.
        datasets: How much it sees of each dataset.
    """

    slug: str
    name: str
    features: Sequence[str]
    services: Sequence[str]
    filters: Sequence[FilterSummary]
    datasets: Sequence[ItemCount]


def summarize_dataset(datasets: Datasets, name: str) -> DatasetSummary:
    """Summarize a dataset and its current version.

    Raises:
        NotFoundError: There is none of that name.
    """
    dataset = datasets.find(name)
    summary = DatasetSummary(name, dataset.key, file_pattern(dataset), dataset.filter_keys)
    try:
        snapshot = datasets.read(name).snapshot
    except UnavailableError as ex:
        return msgspec.structs.replace(summary, reason=ex.detail)
    return msgspec.structs.replace(
        summary,
        version=snapshot.version,
        items=len(snapshot.items),
        size_bytes=snapshot.size_bytes,
        sha256=snapshot.sha256,
        published_at=snapshot.published_at,
        confirmed_at=snapshot.confirmed_at,
        warning=snapshot.warning,
    )


def summarize_application(datasets: Datasets, application: Application) -> ApplicationSummary:
    """Summarize an application: its filters, and how much it sees of each dataset."""
    keys = {name: filter_keys(dataset) for name, dataset in datasets.all.items()}
    return ApplicationSummary(
        slug=application.slug,
        name=application.name,
        features=application.features,
        services=application.services,
        filters=[
            FilterSummary(key, [name for name, names in keys.items() if key in names]) for key in application.filters
        ],
        datasets=[_count_items(datasets, name, application) for name in datasets.all],
    )


def _count_items(datasets: Datasets, name: str, application: Application) -> ItemCount:
    try:
        return ItemCount(name, len(datasets.read(name, application).items))
    except UnavailableError as ex:
        return ItemCount(name, None, ex.detail)
