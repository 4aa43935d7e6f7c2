"""Datasets: what plugins and commands do with them. Start reading here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.applications import Applications, filter_keys
from kernel.cache import Caches
from kernel.contracts import Application, Dataset, Policy, Route
from kernel.datasets import store
from kernel.datasets.accounts import AccountVersions, account_of
from kernel.datasets.diff import Difference, compare_views, preview_publication
from kernel.datasets.http import DatasetRoute, IndexEntry, IndexRoute, IndexSpec, ViewSpec
from kernel.datasets.models import SHARED, Publication, Snapshot, Version, decode_items, file_pattern
from kernel.datasets.published_files import CurrentData, PublishedFiles
from kernel.datasets.publisher import Publisher, make_content
from kernel.datasets.response_cache import ResponseCache
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.db.failures import identify_connecting
from kernel.db.pool import Database
from kernel.errors import BootError, NotFoundError, UnavailableError
from kernel.identity import current_identity
from kernel.logging import Logger
from kernel.notifications import DATABASE_ERRORS, NotificationListener
from kernel.settings import Settings
from kernel.threads import BackgroundThread

if TYPE_CHECKING:
    from kernel.datasets.presentation import Presentation

HISTORY_MAX = 100
# Of so many accounts, a process remembers which versions are current: a few hundred bytes each.
ACCOUNTS_HELD = 10_000


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
        self._accounts = AccountVersions(db, caches.create("datasets.accounts", ACCOUNTS_HELD))
        self._snapshots = Snapshots(db, self._cache, self._accounts, now)
        self._views = Views(applications, self._cache, log)
        self._publisher = Publisher(db, now, settings.datasets.keep_versions, self._sync_files)
        folder = settings.datasets.files_dir
        self._files = None if folder is None else PublishedFiles(folder, self._read_current, self._refresh_data, log)
        self._files_outdated = threading.Event()
        self._files_thread = BackgroundThread("dataset-files", self._keep_files, self._files_outdated.set)
        # By the name of its file, the entries of an index as an application sees them.
        self.indexes: dict[str, Callable[[Application | None], Sequence[IndexEntry]]] = {}
        # Those that differ from account to account, which are not among the files that are kept for all to read.
        self._owned_indexes: set[str] = set()
        self._owners: Mapping[str, str] = {}
        # By the name of the dataset, how its plugin shows it to people; ``DatasetPages`` adds them.
        self.presentations: dict[str, Presentation] = {}
        self.publish = self._publisher.publish
        listener.subscribe(
            store.CHANNEL,
            self._receive,
            poll=self._poll,
            on_failure=self._report_failure,
        )

    # --- lifecycle --------------------------------------------------------------------------------------------------

    def install(self, datasets: Iterable[tuple[str, Dataset]]) -> None:
        """Install the datasets that the plugins registered, in place of those that were installed.

        Args:
            datasets: Every dataset, with the plugin that registered it.
        """
        owned = list(datasets)
        self._owners = {dataset.name: plugin for plugin, dataset in owned}
        self._snapshots.install(dataset for _, dataset in owned)

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

    def _receive(self, payloads: Sequence[str]) -> None:
        is_shared, accounts = store.parse_changes(payloads)
        self._accounts.forget(accounts)
        if is_shared:
            self._refresh()

    def _poll(self) -> None:
        self._accounts.expire()
        self._refresh()

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
            [
                (dataset, snapshot)
                for name, dataset in self.all.items()
                if not dataset.per_account and (snapshot := self._find_current(name)) is not None
            ],
            {file: entries(None) for file, entries in self.indexes.items() if file not in self._owned_indexes},
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

    def owner_of(self, name: str) -> str:
        """Return the plugin that registered a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        return self._owners[self.find(name).name]

    def find(self, name: str) -> Dataset:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        return self._snapshots.dataset(name)

    def read(
        self,
        name: str,
        application: Application | None = None,
        as_of: int | datetime | None = None,
        *,
        account: int | None = None,
    ) -> View:
        """Return what an application sees of a dataset; None sees everything.

        Args:
            name: Of the dataset.
            application: Whose filters are applied.
            as_of: A version, or a time; the current version by default.
            account: Whose versions, of a dataset of accounts: that of the current identity by default, and the only one
                that it may name. Outside of requests there is no default. It is the same for all of these methods.

        Raises:
            NotFoundError: There is no such dataset or version.
            ForbiddenError: The current identity may not read this view, or not for that account.
            UnavailableError: Nothing was published yet, or a filter fails.
        """
        _ensure_may_read(application)
        return self._views.view(self._snapshots.dataset(name), self.snapshot(name, as_of, account=account), application)

    def read_together(
        self, names: Sequence[str], application: Application | None = None, *, account: int | None = None
    ) -> Sequence[View]:
        """Return what an application sees of several datasets, all of them current at the same time.

        Args:
            names: Of the datasets.
            application: As for ``read``, as are errors.
            account: Likewise.
        """
        _ensure_may_read(application)
        owned = next((dataset for dataset in map(self.find, names) if dataset.per_account), None)
        owner = SHARED if owned is None else account_of(owned, account)
        snapshots = self._snapshots.at_same_time(names, account=owner)
        return [self._views.view(self.find(each.dataset), each, application) for each in snapshots]

    def snapshot(self, name: str, as_of: int | datetime | None = None, *, account: int | None = None) -> Snapshot:
        """Return a version of a dataset before any filter; arguments and errors as for ``read``."""
        owner = account_of(self._snapshots.dataset(name), account)
        if as_of is None:
            return self._snapshots.current(name, owner)
        return self._snapshots.as_of(name, as_of, owner)

    def versions(self, name: str, limit: int = HISTORY_MAX, *, account: int | None = None) -> Sequence[Version]:
        """Return the versions of a dataset, newest first."""
        return store.list_versions(self._db, name, account_of(self._snapshots.dataset(name), account), limit)

    def read_back(
        self, name: str, application: Application | None = None, *, versions: int, max_bytes: int
    ) -> Iterator[tuple[Version, View]]:
        """Yield what an application sees of the versions of a dataset, newest first, as far back as can be read.

        Args:
            name: Of the dataset.
            application: As for ``read``.
            versions: How many at most.
            max_bytes: How much at most, as the sizes of versions; the newest is read whatever its size.
        """
        read_bytes = 0
        for number, version in enumerate(self.versions(name, versions)):
            read_bytes += version.size_bytes
            if number and read_bytes > max_bytes:
                return
            try:
                view = self.read(name, application, version.version)
            except (UnavailableError, NotFoundError):
                # It has a form that items no longer have, or was removed meanwhile.
                return
            yield version, view

    def never_published(self) -> list[Dataset]:
        """Return the datasets that have no version; outside of requests, of those that all share."""
        has_account = current_identity() is not None
        known = [dataset for dataset in self.all.values() if has_account or not dataset.per_account]
        return [dataset for dataset in known if not self.versions(dataset.name, 1)]

    def publications(self, name: str, limit: int = HISTORY_MAX, *, account: int | None = None) -> Sequence[Publication]:
        """Return the attempts to publish a dataset, newest first."""
        _ensure_may_read(None)
        return store.list_publications(self._db, name, account_of(self._snapshots.dataset(name), account), limit)

    def rejected(self, name: str, *, account: int | None = None) -> Any:
        """Return the first of the items that the last successful attempt rejected, each with its reason."""
        _ensure_may_read(None)
        return store.list_rejected(self._db, name, account_of(self._snapshots.dataset(name), account))

    def compare(
        self,
        name: str,
        earlier: int | datetime,
        later: int | datetime | None = None,
        application: Application | None = None,
        *,
        account: int | None = None,
    ) -> Difference:
        """Return the difference between two versions, after an application's filters.

        Args:
            name: Of the dataset.
            earlier: A version, or a time.
            later: A version, or a time; the current version by default.
            application: Whose filters are applied to both.
            account: As for ``read``.
        """
        views = (self.read(name, application, as_of, account=account) for as_of in (earlier, later))
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

    def refuse(
        self, name: str, reason: str, *, source: str, account: int | None = None, job_id: int | None = None
    ) -> Publication:
        """Record an attempt that failed before it could publish. The current version stays and gets a warning.

        Args:
            name: Of the dataset.
            reason: Why, for people.
            source: Where the items should have come from.
            account: As for ``read``.
            job_id: The job that tried, if one did.
        """
        return self._publisher.refuse(self.find(name), reason, source=source, account=account, job_id=job_id)

    def roll_back(self, name: str, version: int, *, source: str, account: int | None = None) -> Publication:
        """Publish the content of an older version again, as a new version.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._publisher.roll_back(self._snapshots.dataset(name), version, source=source, account=account)

    # --- routes -----------------------------------------------------------------------------------------------------

    def route(self, spec: ViewSpec) -> Route:
        """Make the route of a dataset. See ``Services.dataset_route``.

        Raises:
            TypeError: The path names a field that items do not have, the derivation takes other arguments, or the route
                is public and shows a dataset of accounts.
        """
        responses = self._response_cache(spec.policy)
        return DatasetRoute(spec, self._snapshots, self._views, responses, self._settings.http).route()

    def index_route(self, spec: IndexSpec) -> Route:
        """Make the route of an index. See ``Services.index_route``.

        Raises:
            ValueError: Another index has that file.
            TypeError: The route is public, and shows a dataset of accounts.
        """
        if spec.file in self.indexes:
            raise ValueError(f"another index has the file {spec.file!r}")
        index = IndexRoute(spec, self._snapshots, self._views, self._response_cache(spec.policy), self._now)
        self.indexes[spec.file] = index.entries
        if index.is_owned:
            self._owned_indexes.add(spec.file)
        return index.route()

    def _response_cache(self, policy: Policy) -> ResponseCache:
        return ResponseCache(self._cache, self._settings.datasets.max_age_s, self._now, policy)


def _ensure_may_read(application: Application | None) -> None:
    identity = current_identity()
    if identity is not None:
        identity.ensure_application(None if application is None else application.slug)


# --- summaries, for lists of datasets and applications --------------------------------------------------------------


class DatasetSummary(msgspec.Struct, frozen=True):
    """A dataset and its current version.

    Args:
        name: Unique over all plugins.
        plugin: The plugin that registered it.
        key: The field that identifies an item.
        file: Name of its file; with a field in braces there is one for each value of that field.
        filter_keys: Further keys under which applications may register filters for it.
        per_account: Whether each account has versions of its own; those shown are of the account that asks.
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
    plugin: str
    key: str
    file: str
    filter_keys: tuple[str, ...]
    per_account: bool
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
    summary = DatasetSummary(
        name, datasets.owner_of(name), dataset.key, file_pattern(dataset), dataset.filter_keys, dataset.per_account
    )
    try:
        snapshot = datasets.snapshot(name)
    except UnavailableError as ex:
        return msgspec.structs.replace(summary, reason=ex.detail)
    if not snapshot.version:
        return msgspec.structs.replace(summary, reason=f"account {snapshot.account} has not published {name!r} yet")
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
