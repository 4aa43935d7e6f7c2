"""The boot, as a visible list of steps, and the WSGI application it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import falcon

from kernel.applications import Applications
from kernel.cache import Caches
from kernel.config import Configuration
from kernel.datasets.service import Datasets
from kernel.db.engine import Engine
from kernel.db.migrate import Migration, MigrationError, find_migrations, migrate, plan
from kernel.db.pool import Database, wait_for_server
from kernel.embedded.server import EmbeddedServer
from kernel.embedded.watchdog import EmbeddedWatch
from kernel.errors import BootError, PluginError
from kernel.http.access_log import AccessLog, RequestFeed, StartResponse
from kernel.http.auth import Authorizer, ensure_safe_bind
from kernel.http.compression import CompressionMiddleware
from kernel.http.errors import ErrorHandlers
from kernel.http.health import KERNEL, Health, HealthRoutes
from kernel.http.request import BodyLimits, Request
from kernel.http.response import FalconResponse
from kernel.http.routing import App, RequestPipeline, ensure_no_shadowing, expand_routes, mount
from kernel.jobs.schema import base_migrations
from kernel.jobs.service import Jobs
from kernel.logging import Logger, make_logger
from kernel.registry import Registry
from kernel.services import Clock, Inventory, Shared, SystemClock


class Tiercel:
    """One service: made without a database, prepared once a machine, started once a process.

    Args:
        configuration: From ``kernel.config.load``.
        clock: For tests.
        log: For tests.

    Raises:
        BootError: The configuration or a plugin is wrong.
    """

    def __init__(self, configuration: Configuration, clock: Clock | None = None, log: Logger | None = None) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.log = log or make_logger(self.settings.log)
        self.server = self._embedded_server()
        self._watch = EmbeddedWatch(self.server, self.log.warning) if self.server is not None else None
        self.shared = self._make_services(clock or SystemClock())
        self.registry = Registry(configuration, self.log)
        self.registry.provide(self.shared)
        self.shared.inventory.plugins = self.registry.statuses
        self._prepared = False
        self._started = False
        self._install_health_checks()
        self._application = self._mount_routes()

    # --- once a machine ---------------------------------------------------------------------------------------------

    def prepare(self) -> tuple[Migration, ...]:
        """Bring the database to where this version needs it: server, capabilities, migrations.

        Returns:
            The migrations that were applied.

        Raises:
            BootError: The server cannot be started or reached, or a required plugin's migration failed.
        """
        self._connect()
        try:
            applied = self._migrate()
        except BaseException:
            self.close()
            raise
        self._prepared = True
        return applied

    @contextmanager
    def database_ready(self) -> Iterator[Engine]:
        """Keep the database server running, without migrating it, for as long as the block lasts."""
        engine = self._connect()
        try:
            yield engine
        finally:
            self.close()

    @contextmanager
    def database_open(self) -> Iterator[None]:
        """Keep the database running, migrated and its pool open for as long as the block lasts. What commands need."""
        self.prepare()
        try:
            self.shared.db.open()
            yield
        finally:
            self.shared.db.close()
            self.close()

    def close(self) -> None:
        """Undo ``prepare``: stop the embedded server if nobody else uses it."""
        if self.server is not None:
            self.server.release()

    # --- once a process ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the pool and start the plugins. After the fork."""
        self.shared.stopping.clear()
        self.shared.db.open()
        if self._watch is not None:
            self._watch.start()
        self.shared.datasets.start()
        self.registry.start()
        self.shared.requests.start()
        self._started = True

    def announce_stop(self) -> None:
        """Say that ``stop`` comes once the requests of this moment are through."""
        self.shared.stopping.set()

    def stop(self) -> None:
        """Undo ``start``: the plugins in reverse, then the pool."""
        self.announce_stop()
        self._started = False
        self.shared.requests.stop()
        self.registry.stop()
        self.shared.datasets.stop()
        if self._watch is not None:
            self._watch.stop()
        self.shared.db.close()

    # --- a request --------------------------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request (PEP 3333)."""
        return self._application(environ, start_response)

    # --- steps ------------------------------------------------------------------------------------------------------

    def ensure_safe(self) -> None:
        """Refuse to listen where a wrong setting would leave the door open.

        Raises:
            BootError: Mode ``open`` beyond loopback, or ``required`` with nothing that authenticates.
        """
        ensure_safe_bind(self.settings)
        self.shared.authorizer.ensure_authenticator()

    def migrations(self) -> tuple[Migration, ...]:
        """List the migrations of the kernel and of every loaded plugin, in configured order."""
        found = list(base_migrations())
        for name, plugin in self.registry.plugins.items():
            if plugin.migrations is not None:
                found += find_migrations(name, plugin.migrations)
        return tuple(found)

    def pending_migrations(self) -> tuple[Migration, ...]:
        """List the migrations that are not applied yet. The database must be ready."""
        return plan(self.shared.db.conninfo, self.migrations())

    def check_plugins(self) -> str:
        """Say how many plugins are loaded.

        Raises:
            BootError: Some are quarantined; gives their reasons.
        """
        bad = [str(status.reason) for status in self.registry.statuses.values() if status.state == "quarantined"]
        if bad:
            raise BootError("; ".join(bad))
        return f"{len(self.registry.plugins)} loaded"

    def _connect(self) -> Engine:
        try:
            self.settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as ex:
            raise BootError(f"home cannot be made: {ex}") from ex
        if self.server is not None:
            self.server.acquire()
        try:
            return wait_for_server(self.shared.db, self.settings.db.startup_timeout_s)
        except BaseException:
            self.close()
            raise

    def _embedded_server(self) -> EmbeddedServer | None:
        db = self.settings.db
        if db.url is not None:
            return None
        return EmbeddedServer(self.settings.home, user=db.embedded_user, options=db.embedded_options)

    def _make_services(self, clock: Clock) -> Shared:
        db = self.settings.db
        conninfo = db.url.reveal() if db.url is not None else ""
        if self.server is not None:
            conninfo = self.server.conninfo
        database = Database(db, conninfo, embedded=self.server is not None)
        caches, applications = Caches(), Applications()
        return Shared(
            kernel=self.settings,
            db=database,
            cache=caches,
            log=self.log,
            clock=clock,
            requests=RequestFeed(self.log),
            health=Health(self.settings.health.timeout_s),
            authorizer=Authorizer(self.settings),
            inventory=Inventory(),
            applications=applications,
            jobs=Jobs(database, self.settings.jobs, self.log),
            datasets=Datasets(database, self.settings, applications, caches, self.log, clock.now),
            started_at=datetime.now(UTC),
        )

    def _install_health_checks(self) -> None:
        health = self.shared.health
        health.add("startup", self._check_startup)
        health.add("database", self._check_database)
        health.add("writes", self._check_writes, critical=False)
        health.add("plugins", self.check_plugins, critical=False)
        health.add("jobs", self.shared.jobs.check_health, critical=False)
        health.add("datasets", self.shared.datasets.check, critical=False)
        for owner, check in self.registry.health_checks:
            health.install(owner, check)

    def _mount_routes(self) -> AccessLog:
        while True:
            try:
                app = self._falcon_app()
                break
            except PluginError as ex:
                # A handler that does not fit its route. Without that plugin the others can be mounted.
                self.registry.quarantine(ex.plugin, ex.hook, ex)
        return AccessLog(app, self.log if self.settings.log.requests else None, self.shared.requests)

    def _falcon_app(self) -> App:
        probes = HealthRoutes(self.shared.health, startup=("startup",))
        routes = expand_routes([*((KERNEL, route) for route in probes.routes()), *self.registry.routes])
        self.shared.inventory.routes = routes
        app: App = falcon.App(request_type=Request, response_type=FalconResponse, middleware=[CompressionMiddleware()])
        app.req_options.strip_url_path_trailing_slash = True
        app.set_error_serializer(lambda *_: None)
        ErrorHandlers(self.log, debug=self.settings.debug).install(app)
        http = self.settings.http
        limits = BodyLimits(http.max_body_bytes, http.max_decoded_bytes)
        self._install_what_plugins_offer()
        ensure_no_shadowing(routes, self.shared.applications.slugs)
        mount(app, routes, RequestPipeline(self.shared.authorizer, limits, self.shared.applications))
        return app

    def _install_what_plugins_offer(self) -> None:
        self.shared.applications.install(application for _, application in self.registry.applications)
        self.shared.datasets.install(dataset for _, dataset in self.registry.datasets)

    def _migrate(self) -> tuple[Migration, ...]:
        conninfo = self.shared.db.conninfo
        applied = list(migrate(conninfo, base_migrations()))
        for name, plugin in self.registry.plugins.items():
            if plugin.migrations is None:
                continue
            try:
                applied += migrate(conninfo, find_migrations(name, plugin.migrations))
            except MigrationError as ex:
                self.registry.quarantine(name, "migrations", ex)
        return tuple(applied)

    def _check_startup(self) -> str:
        if not self._prepared or not self._started:
            raise BootError("the service is still starting")
        return "migrated and started"

    def _check_database(self) -> str:
        self.shared.db.ping()
        engine = self.shared.db.engine
        return f"{engine.name} {engine.version}"

    def _check_writes(self) -> None:
        # Not critical: what is stored can be read meanwhile.
        if self.shared.db.is_read_only():
            raise BootError("the database is read-only")
