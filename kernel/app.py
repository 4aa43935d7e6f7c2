"""The boot as a list of steps, ``BOOT_STEPS`` at the end of this file, and the service that it makes.

A service is booted once, without a database; prepared once per machine, which starts and migrates the database; and
started once per process, after the fork.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

import click
import falcon
import msgspec

from kernel import cache_control
from kernel.applications import Applications, validate_application
from kernel.audit import Audit
from kernel.cache import Caches
from kernel.config import Configuration
from kernel.contracts import Application, Command, Dataset, HealthCheck, Job, Route
from kernel.datasets.models import find_invalid_relation, validate_dataset
from kernel.datasets.service import Datasets
from kernel.datasets.store import purge_account as purge_datasets
from kernel.db.engine import Engine
from kernel.db.failures import READ_ONLY
from kernel.db.migrations import (
    Migration,
    MigrationError,
    MissingPrivileges,
    describe_timescaledb,
    find_migrations,
    find_missing_privileges,
    kernel_migrations,
    migrate,
    newer_migrations,
    pending_migrations,
)
from kernel.db.pool import Database
from kernel.embedded.server import EmbeddedServer
from kernel.embedded.watchdog import EmbeddedWatchdog
from kernel.errors import BootError, PluginError
from kernel.http.access_log import AccessLog, RequestFeed, StartResponse
from kernel.http.assets import Assets
from kernel.http.auth import Authorizer, ensure_safe_bind
from kernel.http.compression import CompressionMiddleware
from kernel.http.cors import AllowedOrigins
from kernel.http.errors import ErrorHandlers
from kernel.http.event_streams import EventStreams
from kernel.http.forwarding import ForwardingMiddleware, TrustedProxies
from kernel.http.health import KERNEL, Health, HealthRoutes
from kernel.http.metrics import MetricsRoutes, RequestMetrics
from kernel.http.openapi import Described, DocumentRoutes, Plugin
from kernel.http.request import BodyBudget, BodyLimits, Request
from kernel.http.resource_tracking import ResourceTracking
from kernel.http.response import FalconResponse
from kernel.http.response_headers import ResponseHeaders
from kernel.http.routing import (
    App,
    MountedRoute,
    RequestPipeline,
    ensure_no_shadowing,
    expand_routes,
    list_pages,
    mount,
    validate_route,
)
from kernel.http.search import Search, SearchRoutes
from kernel.http.shell import Shells
from kernel.http.templating import Templates
from kernel.jobs.run_log import RunLogFiles
from kernel.jobs.runner import RunMetrics
from kernel.jobs.service import Jobs
from kernel.limits.throttles import Throttles
from kernel.limits.upkeep import LimitsUpkeep
from kernel.limits.usage import Usage
from kernel.logging import Logger, make_logger
from kernel.measurements import measure
from kernel.metrics import Metrics, Role
from kernel.notifications import NotificationListener
from kernel.package_names import describe_other_owners, ensure_own_packages, own_version
from kernel.registry import Registry
from kernel.services import Clock, SharedServices, SystemClock
from kernel.settings import Settings
from kernel.tracing import Tracing, make_tracing


class Tiercel:
    """A service: a WSGI application, and what belongs to it.

    Args:
        configuration: From ``kernel.config.load``.
        clock: Replaces the system's clock, for tests.
        log: Replaces the configured logger.

    Raises:
        BootError: The configuration is wrong, a required plugin fails, or two plugins register the same name.
    """

    configuration: Configuration
    settings: Settings
    log: Logger
    clock: Clock
    # Set by the boot steps, in this order.
    server: EmbeddedServer | None
    watchdog: EmbeddedWatchdog | None
    db: Database
    shared: SharedServices
    origins: AllowedOrigins
    response_headers: ResponseHeaders
    tracking: ResourceTracking
    tracing: Tracing | None
    limits_upkeep: LimitsUpkeep
    request_metrics: RequestMetrics
    registry: Registry
    assets: Assets
    shells: Shells
    templates: Templates
    falcon_app: App
    wsgi_app: AccessLog

    def __init__(self, configuration: Configuration, clock: Clock | None = None, log: Logger | None = None) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.log = log or make_logger(self.settings.log)
        self.clock = clock or SystemClock()
        self.is_prepared = False
        self.is_started = False
        with _without_garbage_collection():
            for step in BOOT_STEPS:
                step(self)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request (PEP 3333)."""
        return self.wsgi_app(environ, start_response)

    # --- once per machine -------------------------------------------------------------------------------------------

    def prepare(self, *, log_migrations: bool = True) -> tuple[Migration, ...]:
        """Start the database server if it is embedded, wait for it, and apply pending migrations.

        Args:
            log_migrations: Log a line for each migration that is applied.

        Returns:
            The migrations that were applied.

        Raises:
            BootError: The server cannot be started or reached, or a migration of the kernel or of a required plugin
                failed.
            UnavailableError: The server stopped answering meanwhile.
        """
        # Before a command changes data: they may be those of another database than was meant.
        self._warn_unused_variables()
        for owner in describe_other_owners(Path.cwd()):
            self.log.warning("package_name_taken", detail=owner)
        self._connect()
        try:
            applied = self._migrate()
            self.db.detect_engine()
            if log_migrations:
                for migration in applied:
                    self.log.info("migration_applied", migration=migration.id)
        except BaseException:
            self.close()
            raise
        self.is_prepared = True
        return applied

    def close(self) -> None:
        """Undo ``prepare``: stop the embedded server unless another process uses it."""
        if self.server is not None:
            self.server.release()

    @contextmanager
    def database_ready(self) -> Iterator[Engine]:
        """Keep the database server running, without migrating, until the block ends."""
        engine = self._connect()
        try:
            yield engine
        finally:
            self.close()

    @contextmanager
    def database_open(self) -> Iterator[None]:
        """Keep the database running, migrated, and the pool open until the block ends; for commands.

        What they change is in the audit log.
        """
        self.prepare()
        command = click.get_current_context(silent=True)
        try:
            self.db.open()
            with self.shared.audit.command("tiercel" if command is None else command.command_path):
                yield
        finally:
            self.db.close()
            self.close()

    def migrations(self) -> tuple[Migration, ...]:
        """Return the migrations of the kernel and of every imported plugin, in configured order."""
        found = [self._migrations_of(name) for name in self.registry.plugins]
        return (*kernel_migrations(), *(migration for each in found for migration in each))

    def pending_migrations(self) -> tuple[Migration, ...]:
        """Return the migrations that are not applied yet. The database must be running."""
        return pending_migrations(self.db.direct_conninfo, self.migrations())

    def newer_migrations(self) -> tuple[str, ...]:
        """Return the ids of what newer versions applied, and this one does not have. The database must be running."""
        return newer_migrations(self.db.conninfo, self.migrations())

    def missing_privileges(self) -> MissingPrivileges:
        """Return what the role lacks to apply migrations and to run. The database must be running."""
        return find_missing_privileges(self.db.direct_conninfo, self.migrations())

    def _connect(self) -> Engine:
        try:
            self.settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as ex:
            raise BootError(f"home cannot be made: {ex}") from ex
        if self.server is not None:
            self.server.acquire()
        try:
            return self.db.wait_for_server(self.settings.db.startup_timeout_s)
        except BaseException:
            self.close()
            raise

    def _migrate(self) -> tuple[Migration, ...]:
        # Most starts have nothing to apply, which one connection tells for all; what is wrong is told by its owner.
        with suppress(MigrationError):
            if not self.pending_migrations():
                return ()
        conninfo = self.db.direct_conninfo
        applied = list(migrate(conninfo, kernel_migrations()))
        # Said where it is decided: nothing can change it afterwards.
        if len(applied) == len(kernel_migrations()) and (advice := describe_timescaledb(conninfo)):
            self.log.warning("timescaledb_not_used", reason=advice)
        for name, plugin in self.registry.plugins.items():
            if plugin.migrations is not None:
                try:
                    applied += migrate(conninfo, self._migrations_of(name))
                except MigrationError as ex:
                    self.registry.quarantine(name, "migrations", ex)
        return tuple(applied)

    def _migrations_of(self, name: str) -> tuple[Migration, ...]:
        plugin = self.registry.plugins[name]
        return () if plugin.migrations is None else find_migrations(name, plugin.migrations, plugin.code_version)

    # --- once per process -------------------------------------------------------------------------------------------

    @staticmethod
    def before_fork() -> None:
        """Hide what was loaded from the garbage collector, in this process and its forks.

        It stays until the process ends. Looked through again and again, it takes up to a third of the time of what
        makes many objects, and its pages of memory are copied for each process.
        """
        gc.collect()
        gc.freeze()

    def start(self, role: Role = "web") -> None:
        """Open the pool and start background threads and plugins. After the fork.

        Args:
            role: What this process does, for the names of processes in metrics.
        """
        self.shared.stopping.clear()
        self.shared.metrics.open(role)
        if self.shared.metrics.is_on:
            self.request_metrics.subscribe(self.shared.requests)
        if self.tracing is not None:
            self.tracing.start()
        self.shared.throttles.open()
        self.db.open()
        if self.watchdog is not None:
            self.watchdog.start()
        self._warn_unmatched_names()
        self.shared.datasets.start()
        self.shared.listener.start()
        self.registry.start()
        self.shared.requests.start()
        self.limits_upkeep.start()
        self.is_started = True

    def announce_stop(self) -> None:
        """Announce that ``stop`` follows once the current requests are served: long responses should end."""
        self.shared.stopping.set()

    def stop(self) -> None:
        """Undo ``start``, in reverse order."""
        self.announce_stop()
        self.is_started = False
        self.limits_upkeep.stop()
        self.shared.requests.stop()
        self.registry.stop()
        self.shared.listener.stop()
        self.shared.datasets.stop()
        if self.watchdog is not None:
            self.watchdog.stop()
        self.shared.metrics.close()
        self.db.close()
        if self.tracing is not None:
            self.tracing.stop()

    def _warn_unused_variables(self) -> None:
        for unused in self.configuration.unused_variables():
            variables = ", ".join(unused.variables)
            self.log.warning("variables_without_effect", place=unused.place, variables=variables, reason=unused.reason)

    def _warn_unmatched_names(self) -> None:
        for name, nearest in self.registry.unmatched_disabled().items():
            self.log.warning("disabled_matches_no_plugin", name=name, nearest=nearest)
        for each in self.shared.applications.unmatched_filters:
            # A misspelt key would silently show everything.
            self.log.warning("filter_matches_no_dataset", **msgspec.structs.asdict(each))
        scopes = {each.throttle for each in self.shared.routes if each.throttle is not None}
        for name in sorted(self.shared.throttles.unmatched(scopes)):
            self.log.warning("throttle_matches_no_route", scope=name)

    # --- description ------------------------------------------------------------------------------------------------

    def describe(self) -> Described:
        """Return what the OpenAPI document is made of."""
        plugins = [Plugin(KERNEL, "Probes, what a request took, and this document.")]
        plugins += [Plugin(name, plugin.module.__doc__) for name, plugin in self.registry.plugins.items()]
        return Described(
            version=own_version(),
            plugins=plugins,
            routes=self.shared.routes,
            applications=self.shared.applications.slugs,
            security_schemes=self.shared.authorizer.security_schemes(),
            page_size_max=max(self.settings.http.page_size, self.settings.http.page_size_max),
            unified_errors=self.settings.http.unified_errors,
        )

    # --- checks -----------------------------------------------------------------------------------------------------

    def ensure_safe(self) -> None:
        """Ensure that authentication is configured before listening.

        Raises:
            BootError: ``auth`` is ``open`` on an address beyond this machine, or ``required`` and no plugin
                authenticates; or requests cannot be counted where they should.
        """
        ensure_safe_bind(self.settings)
        self.shared.authorizer.ensure_authenticator()
        # After this, workers share what was imported for it.
        self.shared.throttles.open()

    def check_startup(self) -> str:
        """Check that the service is prepared and started.

        Raises:
            BootError: It is not.
        """
        if not self.is_prepared or not self.is_started:
            raise BootError("the service is still starting")
        return "migrated and started"

    def check_database(self) -> str:
        """Check that the database answers.

        Raises:
            UnavailableError: It does not.
        """
        self.db.ping()
        engine = self.db.engine
        return f"{engine.name} {engine.version}"

    def check_writes(self) -> None:
        """Check that the database accepts writes.

        Raises:
            BootError: It is read-only.
            UnavailableError: It does not answer.
        """
        if self.db.is_read_only():
            raise BootError(READ_ONLY.detail)


# --- boot steps, in order -------------------------------------------------------------------------------------------


def verify_packages(_service: Tiercel) -> None:
    """Ensure that the plugins that are imported next are those of this distribution."""
    ensure_own_packages()


def configure_database(service: Tiercel) -> None:
    """Use the configured server, or else an embedded one with a watchdog. Nothing is started or connected yet."""
    settings = service.settings.db
    if settings.url is not None:
        service.server = service.watchdog = None
        direct = None if settings.direct_url is None else settings.direct_url.reveal()
        service.db = Database(settings, settings.url.reveal(), direct, embedded=False, log=service.log)
    elif settings.direct_url is not None:
        raise BootError("db.direct_url is set without db.url, which leads to the same database through a pooler")
    else:
        service.server = EmbeddedServer(
            service.settings.home, user=settings.embedded_user, options=settings.embedded_options
        )
        service.watchdog = EmbeddedWatchdog(service.server, service.log)
        service.db = Database(settings, service.server.conninfo, embedded=True, log=service.log)


def create_shared_services(service: Tiercel) -> None:
    """Create what all plugins share. No thread is started yet."""
    settings, log, db = service.settings, service.log, service.db
    service.tracing = make_tracing(os.environ, log)
    caches, applications = Caches(), Applications()
    metrics = Metrics(settings.metrics, settings.home.absolute() / "metrics", log)
    log_dir = settings.jobs.log_dir
    run_log_files = None if log_dir is None else RunLogFiles(log_dir, settings.log)
    listener = NotificationListener(
        db.direct_conninfo, name=cache_control.LISTENER, poll_interval_s=settings.datasets.poll_interval_s, log=log
    )
    cache_control.subscribe(listener, db, caches)
    authorizer, stopping = Authorizer(settings), Event()
    service.shared = SharedServices(
        settings=settings,
        db=db,
        cache=caches,
        log=log,
        clock=service.clock,
        requests=RequestFeed(log),
        health=Health(settings.health.timeout_s, service.clock.now),
        metrics=metrics,
        authorizer=authorizer,
        audit=Audit(db, log, service.clock.now),
        throttles=Throttles(settings, db, log),
        usage=Usage(db, log, service.clock.now),
        applications=applications,
        jobs=Jobs(db, settings.jobs, log, run_log_files, service.tracing, RunMetrics(metrics)),
        datasets=Datasets(db, settings, applications, caches, listener, log, service.clock.now),
        listener=listener,
        event_streams=EventStreams(settings, authorizer, stopping),
        stopping=stopping,
    )
    throttles, usage = service.shared.throttles, service.shared.usage
    service.limits_upkeep = LimitsUpkeep(throttles, usage)
    service.shared.statistics[KERNEL] = lambda: {**throttles.statistics(), **usage.statistics()}
    service.shared.account_purges[KERNEL] = lambda account: chain(
        service.shared.jobs.store.purge_account(account), purge_datasets(db, account)
    )
    service.request_metrics = RequestMetrics(metrics, lambda: service.shared.routes)
    measure(service.shared)
    service.origins = AllowedOrigins(settings)
    service.response_headers = ResponseHeaders(service.origins, settings.http.hsts_max_age_s)
    service.tracking = ResourceTracking(db, service.shared.authorizer, log)


def load_plugins(service: Tiercel) -> None:
    """Import the enabled plugins."""
    service.registry = Registry(service.configuration, service.shared, service.log)
    service.registry.load()


def decode_plugin_settings(service: Tiercel) -> None:
    """Decode each plugin's table of the configuration, and reject keys that belong to none."""
    service.registry.decode_settings()


def register_applications(service: Tiercel) -> None:
    """Collect the applications of the plugins."""
    service.registry.collect(
        "register_applications", Application, unique_name=lambda _, each: each.slug, validate=validate_application
    )


def register_datasets(service: Tiercel) -> None:
    """Collect the datasets of the plugins, and quarantine those that relate theirs to a dataset that does not exist."""
    registry = service.registry
    registry.collect("register_datasets", Dataset, unique_name=lambda _, each: each.name, validate=validate_dataset)
    # A quarantined plugin takes its datasets with it, to which others may be related.
    while wrong := find_invalid_relation(registry.contributions(Dataset)):
        plugin, error = wrong
        registry.quarantine(plugin, "register_datasets", error)


def register_routes(service: Tiercel) -> None:
    """Collect the routes of the plugins."""
    service.registry.collect("register_routes", Route, validate=validate_route)


def register_jobs(service: Tiercel) -> None:
    """Collect the jobs of the plugins, and validate them and the configured schedules."""
    registry, jobs = service.registry, service.shared.jobs.registry
    for plugin, job in registry.collect("register_jobs", Job, unique_name=lambda _, each: each.name):
        try:
            if plugin in registry.loaded:
                jobs.register(plugin, job)
        except ValueError as ex:
            registry.quarantine(plugin, "register_jobs", ex)
    # The configuration may have schedules for jobs of plugins that are not loaded at the moment.
    jobs.apply_overrides(registry.statuses.keys() - set(registry.loaded))


def register_health_checks(service: Tiercel) -> None:
    """Add the kernel's health checks, then those of the plugins."""
    shared, registry = service.shared, service.registry
    shared.health.add("startup", service.check_startup)
    shared.health.add("database", service.check_database)
    # What is stored can be read while the database is read-only.
    shared.health.add("writes", service.check_writes, critical=False)
    shared.health.add("notifications", shared.listener.check, critical=False)
    shared.health.add("plugins", registry.check_health, critical=False)
    shared.health.add("jobs", shared.jobs.check_health, critical=False)
    shared.health.add("throttle", shared.throttles.check, critical=False)
    shared.health.add("datasets", shared.datasets.check, critical=False)
    for plugin, check in registry.collect("register_health_checks", HealthCheck, unique_name=lambda _, each: each.name):
        shared.health.install(plugin, check)


def register_commands(service: Tiercel) -> None:
    """Collect the commands of the plugins. Each plugin has a group, so only its own commands can have the same name."""
    service.registry.collect(
        "register_commands", Command, unique_name=lambda plugin, each: f"{plugin} {each.command.name}"
    )
    service.registry.ensure_unique_aliases()


def register_searches(service: Tiercel) -> None:
    """Collect what the plugins find for a text."""
    service.registry.collect("register_searches", Search)


def find_pages(service: Tiercel) -> None:
    """Find the folders with static files and templates of the plugins. Nothing is read yet."""
    shared, registry = service.shared, service.registry
    service.assets = Assets(registry.folders("static"))
    service.shells = Shells(lambda: list_pages(shared.routes), shared.authorizer, shared.applications)
    service.templates = Templates(registry.folders("templates"), service.assets.url, service.shells.make, service.log)


def mount_routes(service: Tiercel) -> None:
    """Mount the kernel's routes and those of the plugins; quarantine plugins whose routes cannot be mounted."""
    own = [
        *HealthRoutes(service.shared.health, startup=("startup",)).routes(),
        *MetricsRoutes(service.shared.metrics, service.settings.metrics).routes(),
        *service.tracking.routes(),
        *service.assets.routes(),
        *DocumentRoutes(service.describe).routes(),
        *SearchRoutes(lambda: service.registry.contributions(Search), service.shells.make, service.log).routes(),
    ]
    while True:
        routes = [*((KERNEL, route) for route in own), *service.registry.contributions(Route)]
        try:
            mounted = expand_routes(routes)
            service.falcon_app = _create_falcon_app(service, mounted)
        except PluginError as ex:
            # Mount the routes of the other plugins, on a new app.
            service.registry.quarantine(ex.plugin, ex.hook, ex)
        else:
            service.shared.routes = mounted
            return


def _create_falcon_app(service: Tiercel, routes: tuple[MountedRoute, ...]) -> App:
    http = service.settings.http
    # On the way out they run in reverse.
    middleware: list[Any] = [
        ForwardingMiddleware(TrustedProxies(http.trusted_proxies)),
        service.response_headers,
        CompressionMiddleware(),
    ]
    app: App = falcon.App(request_type=Request, response_type=FalconResponse, middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = True
    app.set_error_serializer(lambda *_: None)
    handlers = ErrorHandlers(
        service.log,
        service.templates,
        service.shared.authorizer.sign_in_link,
        debug=service.settings.debug,
        unified=http.unified_errors,
    )
    handlers.install(app)
    limits = BodyLimits(http.max_body_bytes, http.max_decoded_bytes, BodyBudget(http.bodies_max_bytes))
    shared = service.shared
    pipeline = RequestPipeline(
        shared.authorizer,
        service.origins,
        service.tracking,
        limits,
        shared.applications,
        shared.throttles,
        shared.usage,
        shared.audit,
        service.templates,
        http.request_timeout_s,
    )
    mount(app, routes, pipeline)
    return app


def install_applications(service: Tiercel) -> None:
    """Make the applications of the loaded plugins available, unless a route hides one."""
    applications = service.registry.contributions(Application)
    datasets = [dataset for _, dataset in service.registry.contributions(Dataset)]
    ensure_no_shadowing(service.shared.routes, [application.slug for _, application in applications])
    service.shared.applications.install(applications, datasets)


def install_datasets(service: Tiercel) -> None:
    """Make the datasets of the loaded plugins available."""
    service.shared.datasets.install(service.registry.contributions(Dataset))


def add_request_log(service: Tiercel) -> None:
    """Wrap the Falcon app in the request log, which sees the final status of every response."""
    log = service.log if service.settings.log.requests else None
    metrics = service.request_metrics if service.shared.metrics.is_on else None
    service.wsgi_app = AccessLog(
        service.falcon_app, log, service.shared.requests, service.tracking.finish, service.tracing, metrics
    )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Make objects that stay: to look through them again and again for garbage takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


BOOT_STEPS: tuple[Callable[[Tiercel], None], ...] = (
    verify_packages,
    configure_database,
    create_shared_services,
    load_plugins,
    decode_plugin_settings,
    # Each step calls one hook of every loaded plugin. A plugin that fails is quarantined: the next steps leave it out.
    register_applications,
    register_datasets,
    register_routes,
    register_jobs,
    register_health_checks,
    register_commands,
    register_searches,
    # Every plugin has registered or is quarantined: build the service.
    find_pages,
    mount_routes,
    install_applications,
    install_datasets,
    add_request_log,
)
