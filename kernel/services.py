"""What the kernel offers to plugins: every hook gets the ``Services`` of its plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from threading import Event
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from kernel.applications import Applications
from kernel.audit import Audit
from kernel.cache import Caches
from kernel.contracts import Dataset, Policy, Route
from kernel.datasets.http import CacheName, Derivation, IndexSpec, ViewSpec
from kernel.datasets.service import Datasets
from kernel.db.pool import Database
from kernel.http.access_log import RequestFeed
from kernel.http.auth import Authenticator, Authorizer, SignInPages
from kernel.http.event_streams import EventStreams
from kernel.http.health import Health
from kernel.http.request import Request
from kernel.http.routing import MountedRoute
from kernel.identity import Identity
from kernel.jobs.service import Jobs
from kernel.limits.throttles import Throttles
from kernel.limits.usage import Usage
from kernel.logging import Logger
from kernel.metrics import Metrics
from kernel.notifications import NotificationListener
from kernel.settings import Settings

T = TypeVar("T", bound=msgspec.Struct)
P = TypeVar("P")
# Returns numbers by name, with the unit as a suffix unless they are counts: ``rows``, ``wait_ms``.
Statistics = Callable[[], Mapping[str, int | float]]
# Removes for good what an account has, in bounded transactions; yields how many rows each of them removed.
AccountPurge = Callable[[int], Iterator[int]]
# Takes the number of a row, and who looks; returns the path of its page, or None if that is not for them.
RowLink = Callable[[int, Identity], str | None]
PluginState = Literal["loaded", "quarantined", "disabled"]


class Clock(Protocol):
    """A clock, which tests can replace."""

    def now(self) -> datetime:
        """Return the time, UTC."""


class SystemClock:
    """The clock of the operating system."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)


class PluginStatus(msgspec.Struct, frozen=True):
    """State of a plugin.

    Args:
        name: Name of the plugin, of its settings table and of its group of commands.
        origin: The module it was loaded from, with the distribution that provides it.
        state: ``quarantined`` if it failed and is left out; ``disabled`` if the configuration disables it.
        required: Whether a failure stops the boot instead.
        version: Version of its distribution; None if it is part of Tiercel's.
        reason: Why it is quarantined.
        hooks: The hooks that it implements.
        contributions: How many routes, jobs, datasets, commands and so on it has registered, by what they are.
    """

    name: str
    origin: str
    state: PluginState
    required: bool
    version: str | None = None
    reason: str | None = None
    hooks: tuple[str, ...] = ()
    contributions: Mapping[str, int] = {}


class SharedServices(msgspec.Struct):
    """What all plugins of a process share. The boot creates it; plugins see it through their ``Services``.

    Args:
        settings: The kernel's settings.
        db: Connection pool.
        cache: Caches by name.
        log: Logger without a plugin's name.
        clock: Returns the time.
        requests: Feed of served requests.
        health: Health checks.
        metrics: What is measured.
        authorizer: Enforces the policies of routes.
        audit: The audit log.
        throttles: Limit how many requests of a kind somebody may send.
        usage: Counts what accounts use of their plans.
        applications: Applications of all plugins; complete after the boot.
        jobs: Jobs of all plugins; complete after the boot.
        datasets: Datasets of all plugins; complete after the boot.
        listener: Listens for notifications of other processes.
        event_streams: Serves server-sent events.
        stopping: Set when the process begins to stop.
        plugins: State of each plugin, in configured order.
        routes: Mounted routes; complete after the boot.
        statistics: Statistics that plugins provide, by plugin.
        account_purges: What removes the data of an account, by plugin.
        row_links: What returns the path of the page of a row, by table; complete after the boot.
    """

    settings: Settings
    db: Database
    cache: Caches
    log: Logger
    clock: Clock
    requests: RequestFeed
    health: Health
    metrics: Metrics
    authorizer: Authorizer
    audit: Audit
    throttles: Throttles
    usage: Usage
    applications: Applications
    jobs: Jobs
    datasets: Datasets
    listener: NotificationListener
    event_streams: EventStreams
    stopping: Event
    plugins: dict[str, PluginStatus] = {}
    routes: tuple[MountedRoute, ...] = ()
    statistics: dict[str, Statistics] = {}
    account_purges: dict[str, AccountPurge] = {}
    row_links: dict[str, RowLink] = {}


class Services:
    """The services of one plugin: what its hooks, handlers and jobs may use.

    ``register_`` hooks run before the pool opens and before the other plugins have registered everything: store the
    services in handlers, and use them when requests come.

    Attributes:
        plugin: Name of this plugin.
        kernel_settings: The kernel's settings, such as ``kernel_settings.http.page_size``.
        db: Connection pool: ``with services.db.transaction() as connection``.
        cache: Creates bounded caches with statistics.
        clock: Returns the time; use it instead of ``datetime.now`` so that tests can replace it.
        log: Logger that adds the plugin's name to each line.
        requests: Feed of served requests, to subscribe to in ``startup``.
        health: Runs health checks.
        metrics: Counts and measures what this plugin does, for Prometheus.
        audit: Records changes in the transactions that make them. Requests that change something are recorded anyway.
        usage: Counts what accounts use of their plans, and refuses what these do not allow.
        applications: Finds applications by slug.
        jobs: Starts jobs, watches and cancels them.
        datasets: Publishes and reads datasets.
        row_links: By table, what returns the path of the page of a row; see ``ResourcePages``.
        event_streams: Responds with server-sent events.
        stopping: Set when the process begins to stop: long responses, such as streams, should end.

    Args:
        plugin: Name of the plugin.
        settings: Its decoded table of the configuration; None if it has none.
        shared: What it shares with the other plugins.
    """

    def __init__(self, plugin: str, settings: msgspec.Struct | None, shared: SharedServices) -> None:
        self.plugin = plugin
        self.kernel_settings = shared.settings
        self.db = shared.db
        self.cache = shared.cache
        self.clock = shared.clock
        self.log: Logger = shared.log.bind(plugin=plugin)
        self.requests = shared.requests
        self.health = shared.health
        self.metrics = shared.metrics.of(plugin)
        self.audit = shared.audit
        self.usage = shared.usage
        self.applications = shared.applications
        self.jobs = shared.jobs
        self.datasets = shared.datasets
        self.row_links = shared.row_links
        self.event_streams = shared.event_streams
        self.stopping = shared.stopping
        self._settings = settings
        self._shared = shared
        self._singletons: dict[Callable[..., Any], Any] = {}

    def settings(self, kind: type[T]) -> T:
        """Return the settings of this plugin.

        Args:
            kind: The Struct that ``register_settings`` returned.

        Raises:
            TypeError: The plugin registered another Struct, or none.
        """
        if not isinstance(self._settings, kind):
            raise TypeError(f"{self.plugin} registered {type(self._settings).__name__}, not {kind.__name__}")
        return self._settings

    def once(self, factory: Callable[[Services], P]) -> P:
        """Return the singleton that a factory makes: created at the first call in a process, and returned by all later.

        Hooks use it to share objects::

            store = services.once(make_store)

        Args:
            factory: Called with these services.
        """
        if factory not in self._singletons:
            self._singletons[factory] = factory(self)
        singleton: P = self._singletons[factory]
        return singleton

    @property
    def plugins(self) -> Sequence[PluginStatus]:
        """The state of every plugin, in configured order."""
        return tuple(self._shared.plugins.values())

    @property
    def routes(self) -> Sequence[MountedRoute]:
        """Every mounted route, with the plugin that owns it; empty during the boot."""
        return self._shared.routes

    def requester(self, request: Request) -> Identity | None:
        """Return who sends a request to a public route, for a page to show; None if that is not known.

        It decides nothing: credentials may be wrong there, and the database may be away.
        """
        return self._shared.authorizer.requester(request)

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
        """Return a route that serves a dataset, unfiltered and per application; for ``register_routes``.

        The body is ``{"data": [...], "meta": {...}}``. The query parameters are the fields of the items, ``search``,
        ``ordering``, ``page``, ``page_size``, ``as_of`` and ``explain``, and ``include`` if there are relations.
        Responses are encoded once, and cached until the data change.

        Args:
            path: Path of the unfiltered view; it contains ``/public/``. A parameter ``{name}`` selects the items whose
                field of that name equals it.
            dataset: The dataset.
            one: Whether ``data`` is the single item that the path selects, instead of a list.
            derivation: Computes the items of the response from those of this and of other datasets.
            policy: Who may use the route.
            menu: Label of the route in lists of routes.
            aliases: Further paths.
            cache_name: Prefix and suffix of the name that ``tiercel cache clear`` matches; an application's slug comes
                between them. By default ``{plugin}_data`` and the dataset's file.

        Raises:
            TypeError: A path parameter is not a field of the items, or ``derive`` takes other arguments.
        """
        return self.datasets.route(
            ViewSpec(
                owner=self.plugin,
                path=path,
                dataset=dataset,
                one=one,
                derivation=derivation,
                policy=policy,
                menu=menu,
                aliases=aliases,
                cache_name=cache_name,
            )
        )

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
        """Return a route that serves an index of datasets, unfiltered and per application; for ``register_routes``.

        The body is ``{"data": [...], "meta": {...}}``, with an ``IndexEntry`` for each dataset: its current version,
        the number of items that the application sees, their age, and the latest attempts to publish.

        Args:
            path: Path of the unfiltered view; it contains ``/public/``.
            datasets: The datasets, in the order of the list.
            file: Name of the file that ``tiercel data export`` writes.
            policy: Who may use the route.
            menu: Label of the route in lists of routes.
            aliases: Further paths.
            cache_name: Prefix and suffix of the name that ``tiercel cache clear`` matches; an application's slug comes
                between them. By default ``{plugin}_data`` and ``file``.

        Raises:
            ValueError: Another index has the same file.
        """
        return self.datasets.index_route(
            IndexSpec(
                owner=self.plugin,
                path=path,
                datasets=datasets,
                file=file,
                policy=policy,
                menu=menu,
                aliases=aliases,
                cache_name=cache_name,
            )
        )

    def provide_statistics(self, read: Statistics) -> None:
        """Provide statistics of this process for ``/stats/``. A second call replaces the first.

        Args:
            read: Returns numbers by name, with the unit as a suffix unless they are counts. Must be fast and not raise.
        """
        self._shared.statistics[self.plugin] = read

    def statistics(self) -> dict[str, Mapping[str, int | float]]:
        """Return the statistics of all plugins that provide some, by plugin."""
        return {plugin: read() for plugin, read in self._shared.statistics.items()}

    def purge_accounts_with(self, purge: AccountPurge) -> None:
        """Take part in the purge of an account. Call it from a ``register_`` hook; a second call replaces the first.

        Rows with the columns ``id``, ``account`` and ``deleted_at`` of scoped tables are purged without it.

        Args:
            purge: Removes what the plugin has of an account: in bounded transactions, after each of which it yields how
                many rows are gone. Called for the service itself, which sees all accounts; again, if it is interrupted.
        """
        self._shared.account_purges[self.plugin] = purge

    @property
    def account_purges(self) -> Mapping[str, AccountPurge]:
        """What removes the data of an account, by plugin."""
        return self._shared.account_purges

    def listen(
        self, channel: str, receive: Callable[[Sequence[str]], None], *, poll: Callable[[], None] | None = None
    ) -> None:
        """Call a function with notifications of all processes. Call it from a ``register_`` hook.

        ``notify`` sends them. One that is sent while the database is away is lost: ``poll`` makes up for that.

        Args:
            channel: Name of the channel; begins with the name of the plugin.
            receive: Called in a thread of its own with the payloads that arrived together, in their order.
            poll: Called once connected, and once every ``datasets.poll_interval_s``.
        """
        self._shared.listener.subscribe(channel, receive, poll=poll)

    def authenticate_with(self, authenticator: Authenticator, pages: SignInPages | None = None) -> None:
        """Make this plugin the one that authenticates requests. Call it from a ``register_`` hook.

        Args:
            authenticator: Asked for every route that is not public, if ``auth`` is ``required``.
            pages: Where people sign in. A browser that may not open a page is sent there.

        Raises:
            DuplicateError: Another plugin authenticates already.
        """
        self._shared.authorizer.set_authenticator(self.plugin, authenticator, pages)
