"""What plugins and commands do with datasets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kernel.applications import Applications
from kernel.cache import Caches
from kernel.contracts import Application, Dataset, Policy, Route
from kernel.datasets import store
from kernel.datasets.answers import Answers
from kernel.datasets.compare import Difference, compare, preview
from kernel.datasets.content import make_content, read_items
from kernel.datasets.endpoint import DatasetEndpoint
from kernel.datasets.files import file_pattern
from kernel.datasets.index import Index, IndexEndpoint, IndexEntry, typed_handler
from kernel.datasets.model import Publication, Snapshot, Version
from kernel.datasets.publishing import Publisher
from kernel.datasets.selection import query_struct
from kernel.datasets.shapes import Derivation, Place, Shape
from kernel.datasets.snapshots import Snapshots
from kernel.datasets.views import View, Views
from kernel.datasets.watch import Watch
from kernel.db.pool import Database
from kernel.errors import BootError, UnavailableError
from kernel.http.request import Request
from kernel.logging import Logger
from kernel.settings import Settings

_SEGMENT = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
HISTORY_MAX = 100


class Datasets:
    """The datasets of one process.

    Args:
        db: Where they are kept.
        settings: ``datasets`` and the page sizes of ``http`` count.
        applications: Whose filters make views.
        caches: Gets a cache named ``datasets``.
        log: Hears of filters that fail and of lost connections.
        now: Tells the time.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        applications: Applications,
        caches: Caches,
        log: Logger,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._settings = settings
        self._now = now
        self._cache = caches.create_sized("datasets", settings.datasets.cache_max_bytes)
        self._applications = applications
        self._snapshots = Snapshots(db, self._cache)
        self._views = Views(applications, self._cache, log)
        self._publisher = Publisher(db, now, settings.datasets.keep_versions)
        poll_interval_s = settings.datasets.poll_interval_s
        self._watch = Watch(db, caches, poll_interval_s, self._refresh, self._snapshots.fail, log)
        # By the name of a file, what makes the entries of an index for an application or everybody.
        self.indexes: dict[str, Callable[[Application | None], Sequence[IndexEntry]]] = {}
        self.publish = self._publisher.publish
        self.refuse = self._publisher.refuse

    # --- the life of a process --------------------------------------------------------------------------------------

    def install(self, datasets: Iterable[Dataset]) -> None:
        """Take what the plugins registered, in place of what was there."""
        self._snapshots.install(datasets)

    def start(self) -> None:
        """Hear of new versions from now on. After the fork."""
        self._snapshots.is_watched = True
        self._watch.start()

    def stop(self) -> None:
        """Undo ``start``."""
        self._watch.stop()
        self._snapshots.is_watched = False

    def check(self) -> None:
        """Fail while an application or a plugin cannot use what was published.

        Raises:
            BootError: Says which filter fails on what, and which version does not fit what its plugin expects.
        """
        problems = [*self._snapshots.problems(), *self._views.problems()]
        if problems:
            raise BootError("; ".join(problems))

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
            as_of: A version, or a time; what serves at the moment by default.

        Raises:
            NotFoundError: There is no such dataset or version.
            UnavailableError: Nothing was published yet, or a filter fails.
        """
        dataset = self._snapshots.dataset(name)
        return self._views.view(dataset, self._snapshot(name, as_of), application)

    def versions(self, name: str, limit: int = HISTORY_MAX) -> Sequence[Version]:
        """Return the versions of a dataset, newest first."""
        return store.list_versions(self._db, self._snapshots.dataset(name).name, limit)

    def publications(self, name: str, limit: int = HISTORY_MAX) -> Sequence[Publication]:
        """Return the attempts to publish a dataset, newest first."""
        return store.list_publications(self._db, self._snapshots.dataset(name).name, limit)

    def rejected(self, name: str) -> Any:
        """Return the first of the items that the last good publication kept aside, each with its reason."""
        return store.list_rejected(self._db, self._snapshots.dataset(name).name)

    def compare(
        self,
        name: str,
        earlier: int | datetime,
        later: int | datetime | None = None,
        application: Application | None = None,
    ) -> Difference:
        """Say what differs between two versions, after an application's filters.

        Args:
            name: Of the dataset.
            earlier: A version, or a time.
            later: Another; what serves at the moment by default.
            application: Whose filters are applied to both.
        """
        dataset = self._snapshots.dataset(name)
        views = (self._views.view(dataset, self._snapshot(name, when), application) for when in (earlier, later))
        return compare(dataset, *views)

    def preview(self, dataset: Dataset, items: Iterable[object]) -> Difference:
        """Say what publishing these items would change. Nothing is stored.

        Args:
            dataset: Whose.
            items: As for ``publish``; those that would be kept aside count for nothing.
        """
        try:
            earlier = self.read(dataset.name)
        except UnavailableError:
            earlier = None
        return preview(dataset, earlier, read_items(dataset, make_content(dataset, items).data))

    def roll_back(self, name: str, version: int, *, source: str) -> Publication:
        """Publish the content of an older version again, as a new one.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._publisher.roll_back(self._snapshots.dataset(name), version, source=source)

    # --- routes -----------------------------------------------------------------------------------------------------

    def route(
        self, place: Place, dataset: Dataset, *, one: bool = False, derivation: Derivation | None = None
    ) -> Route:
        """Make the route of a dataset. See ``Services.dataset_route``."""
        segments = tuple(_SEGMENT.findall(place.path))
        pattern = file_pattern(dataset)
        plain = set(_SEGMENT.findall(pattern)) <= set(segments)
        name = place.name_for(pattern if plain else f"{dataset.name}.json")
        shape = Shape(dataset, name, segments, one, derivation)
        endpoint = DatasetEndpoint(shape, self._snapshots, self._views, self._answers(place.policy), self._settings)
        return place.route(_handler(endpoint, shape))

    def index_route(self, place: Place, datasets: Sequence[Dataset], file: str) -> Route:
        """Make the route of an index. See ``Services.index_route``.

        Raises:
            ValueError: Another index has that file.
        """
        if file in self.indexes:
            raise ValueError(f"another index has the file {file!r}")
        index = Index(datasets, self._snapshots, self._views)
        self.indexes[file] = index.entries
        endpoint = IndexEndpoint(index, self._answers(place.policy), place.name_for(file), self._now)
        return place.route(typed_handler(endpoint))

    def _answers(self, policy: Policy) -> Answers:
        return Answers(self._cache, self._settings, self._now, policy)

    def _snapshot(self, name: str, as_of: int | datetime | None) -> Snapshot:
        return self._snapshots.current(name) if as_of is None else self._snapshots.as_of(name, as_of)

    def _refresh(self) -> None:
        for snapshot in self._snapshots.refresh():
            self._views.prepare(self._snapshots.dataset(snapshot.dataset), snapshot)


def _handler(endpoint: DatasetEndpoint, shape: Shape) -> Callable[..., Any]:
    types = {field.name: field.type for field in msgspec.structs.fields(shape.dataset.item)}
    for name in shape.segments:
        if name not in types:
            raise TypeError(f"{shape.dataset.item.__name__} has no field {name!r}, which the path names")

    def handler(request: Request, application: Application | None, query: Any, **segments: Any) -> Any:
        return endpoint.answer(request, application, query, segments)

    annotations: dict[str, Any] = {
        "request": Request,
        "application": Application | None,
        "query": query_struct(shape.item, tuple(shape.relations)),
        **{name: types[name] for name in shape.segments},
    }
    # The kernel reads a handler's parameters from its signature; these are known only here.
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, annotation=each) for name, each in annotations.items()]
    handler.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    handler.__annotations__ = annotations
    return handler
