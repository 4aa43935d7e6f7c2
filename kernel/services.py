"""What a plugin may touch: settings, database, caches, log, clock, the feed of requests, health."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from threading import Event
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from kernel.applications import Applications
from kernel.cache import Caches
from kernel.contracts import Dataset, Policy, Route
from kernel.datasets.service import Datasets
from kernel.datasets.shapes import CacheName, Derivation, Place
from kernel.db.pool import Database
from kernel.http.access_log import RequestFeed
from kernel.http.auth import Authenticator, Authorizer
from kernel.http.health import Health
from kernel.http.routing import MountedRoute
from kernel.jobs.service import Jobs
from kernel.logging import Logger
from kernel.settings import Settings

T = TypeVar("T", bound=msgspec.Struct)
P = TypeVar("P")
Figures = Callable[[], Mapping[str, int | float]]
PluginState = Literal["loaded", "quarantined", "disabled"]


class Clock(Protocol):
    """Tells the time, so that tests can tell another."""

    def now(self) -> datetime:
        """Return the time, UTC."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)


class PluginStatus(msgspec.Struct, frozen=True):
    """A plugin as the registry knows it.

    Args:
        name: Its name in the configuration and in URLs of commands.
        origin: The module it was loaded from, or the distribution that offers it.
        state: ``quarantined`` failed and is left out; ``disabled`` was switched off by ``disabled = [...]``.
        required: Whether a failure would have stopped the boot.
        version: Of its distribution, if it has one of its own.
        reason: Why it is quarantined.
    """

    name: str
    origin: str
    state: PluginState
    required: bool
    version: str | None = None
    reason: str | None = None


class Inventory:
    """What this process is made of; complete once the boot is through."""

    def __init__(self) -> None:
        self.plugins: dict[str, PluginStatus] = {}
        self.routes: tuple[MountedRoute, ...] = ()


class Shared(msgspec.Struct, frozen=True):
    """The services that all plugins share."""

    kernel: Settings
    db: Database
    cache: Caches
    log: Logger
    clock: Clock
    requests: RequestFeed
    health: Health
    authorizer: Authorizer
    inventory: Inventory
    applications: Applications
    jobs: Jobs
    datasets: Datasets
    started_at: datetime
    figures: dict[str, Figures] = {}
    stopping: Event = msgspec.field(default_factory=Event)


class Services:
    """The services as one plugin sees them.

    Args:
        plugin: Its name.
        settings: Its own table of the configuration, decoded; None if it has none.
        shared: What it shares with the others.
    """

    def __init__(self, plugin: str, settings: msgspec.Struct | None, shared: Shared) -> None:
        self.plugin = plugin
        self.kernel = shared.kernel
        self.db = shared.db
        self.cache = shared.cache
        self.clock = shared.clock
        self.requests = shared.requests
        self.health = shared.health
        self.inventory = shared.inventory
        self.applications = shared.applications
        self.jobs = shared.jobs
        self.datasets = shared.datasets
        self.started_at = shared.started_at
        # Set when this process begins to stop: what takes long, such as a stream, should end.
        self.stopping = shared.stopping
        self.log: Logger = shared.log.bind(plugin=plugin)
        self._settings = settings
        self._authorizer = shared.authorizer
        self._figures = shared.figures
        self._made: dict[Callable[..., Any], Any] = {}

    def settings(self, kind: type[T]) -> T:
        """Return this plugin's table of the configuration.

        Args:
            kind: The Struct that ``register_settings`` returned.
        """
        if not isinstance(self._settings, kind):
            raise TypeError(f"{self.plugin} registered {type(self._settings).__name__}, not {kind.__name__}")
        return self._settings

    def once(self, make: Callable[[Services], P]) -> P:
        """Make something once for this process and return the same one ever after.

        Args:
            make: Called with these services the first time. Hooks share what it makes.
        """
        if make not in self._made:
            self._made[make] = make(self)
        made: P = self._made[make]
        return made

    def dataset_route(
        self,
        path: str,
        dataset: Dataset,
        *,
        one: bool = False,
        derivation: Derivation | None = None,
        policy: Policy = "public",
        menu: str | None = None,
        aliases: tuple[str, ...] = (),
        cache_name: CacheName | None = None,
    ) -> Route:
        """Make the route of a dataset, for everybody and for each application, for ``register_routes`` to return.

        It answers ``{"data": [...], "meta": {...}}`` and takes ``search``, the fields of its items, ``ordering``,
        ``page``, ``page_size``, ``as_of`` and ``explain``; with relations, ``include`` as well. Answers are encoded
        once and kept until the data change.

        Args:
            path: With ``/public/`` in it. A segment ``{name}`` is a field that items must have as the path says.
            dataset: What is served.
            one: Answer the one item that the segments name, not a list.
            derivation: Makes the items that are shown out of those of the dataset, and of others beside it.
            policy: Who may use it.
            menu: Label under which pages list it.
            aliases: Further paths.
            cache_name: Two parts, between which an application's slug goes; by default ``{plugin}_data`` and the
                dataset's file.

        Raises:
            TypeError: The path names a field that items do not have.
        """
        place = Place(self.plugin, path, policy, menu, aliases, cache_name)
        return self.datasets.route(place, dataset, one=one, derivation=derivation)

    def index_route(
        self,
        path: str,
        datasets: Sequence[Dataset],
        *,
        file: str = "index.json",
        policy: Policy = "public",
        menu: str | None = None,
        aliases: tuple[str, ...] = (),
        cache_name: CacheName | None = None,
    ) -> Route:
        """Make the route of an index of datasets, for everybody and for each application.

        It answers ``{"data": [...], "meta": {...}}`` with an ``IndexEntry`` for each dataset: what serves, how many
        items the application sees, how old they are, and the newest attempts to publish.

        Args:
            path: With ``/public/`` in it.
            datasets: What is listed, in this order.
            file: How the file is called that ``tiercel data export`` writes.
            policy: Who may use it.
            menu: Label under which pages list it.
            aliases: Further paths.
            cache_name: Two parts, between which an application's slug goes; by default ``{plugin}_data`` and the file.

        Raises:
            ValueError: Another index has that file.
        """
        return self.datasets.index_route(Place(self.plugin, path, policy, menu, aliases, cache_name), datasets, file)

    def offer_figures(self, read: Figures) -> None:
        """Offer figures of this process for ``/stats/``; a later offer of this plugin replaces an earlier one.

        Args:
            read: Returns numbers by name, with the unit at its end where it is no count. Must be quick and not fail.
        """
        self._figures[self.plugin] = read

    def figures(self) -> dict[str, Mapping[str, int | float]]:
        """Return the figures that plugins offer, by plugin."""
        return {plugin: read() for plugin, read in self._figures.items()}

    def authenticate_with(self, authenticate: Authenticator) -> None:
        """Make this plugin the one that authenticates requests. Call it from a ``register_`` hook.

        Args:
            authenticate: Called with request and policy for every route that is not public, in mode ``required``.
                Raises ``UnauthorizedError`` or ``ForbiddenError`` to refuse.

        Raises:
            DuplicateError: Another plugin does that already.
        """
        self._authorizer.set_authenticator(self.plugin, authenticate)
