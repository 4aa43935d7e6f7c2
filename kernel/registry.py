"""Load plugins, call their hooks one plugin at a time, name the culprit, refuse duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import pluggy

from kernel import hookspecs
from kernel.applications import validate_slug
from kernel.config import Configuration
from kernel.contracts import Application, Command, Contract, Dataset, HealthCheck, Job, Route
from kernel.conversion import struct_fields
from kernel.datasets.definition import find_wrong_relation, validate_dataset
from kernel.discovery import Plugin, can_find, find, short_name
from kernel.errors import BootError, ConfigError, DuplicateError, PluginError
from kernel.http.routing import validate_route
from kernel.jobs.catalogue import Catalogue
from kernel.logging import Logger
from kernel.services import PluginStatus, Services, Shared
from kernel.settings import Settings

C = TypeVar("C", bound=Contract)
Owned = tuple[str, C]
# A plugin's commands live in a group of its name, beside these.
KERNEL_COMMANDS = frozenset(
    {
        "apps",
        "cache",
        "check",
        "data",
        "jobs",
        "list_apps",
        "migrate",
        "plugins",
        "routes",
        "serve",
        "shell",
        "test_multi_app",
        "up",
        "worker",
    }
)


class Registry:
    """The plugins of one process.

    Args:
        configuration: Names the plugins and holds their tables.
        log: Hears of quarantined plugins.

    Raises:
        BootError: A required plugin failed, a hook is misspelt, two plugins claim one name, or a table is wrong.
    """

    def __init__(self, configuration: Configuration, log: Logger) -> None:
        self._configuration = configuration
        self._required = frozenset(short_name(name) for name in configuration.settings.required)
        self._log = log
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.services: dict[str, Services] = {}
        self._collected: dict[str, list[Owned[Any]]] = {}
        self._tables: dict[str, msgspec.Struct | None] = {}
        self._shared: Shared | None = None
        self.plugins: dict[str, Plugin] = {}
        self.statuses: dict[str, PluginStatus] = {}
        self._load_all()
        self._register_settings()

    def provide(self, shared: Shared) -> None:
        """Give every plugin its services, then collect what it registers.

        Raises:
            BootError: As the class says.
        """
        self._shared = shared
        self.services = {name: Services(name, self._tables[name], shared) for name in self.plugins}
        self._collect("register_applications", Application, lambda item: item.slug)
        self._collect("register_datasets", Dataset, lambda item: item.name)
        while wrong := find_wrong_relation(self.datasets):
            self.quarantine(wrong[0], "register_datasets", wrong[1])
        self._collect("register_routes", Route)
        self._collect("register_jobs", Job, lambda item: item.name)
        self._install_jobs(shared.jobs.catalogue)
        self._collect("register_health_checks", HealthCheck, lambda item: item.name)
        # Commands live in a group of their plugin, so only that plugin can repeat a name.
        self._collect("register_commands", Command, lambda item: str(item.command.name), by_owner=True)
        self._refuse_aliases()

    @property
    def applications(self) -> tuple[Owned[Application], ...]:
        """Every application with the plugin that returned it."""
        return self._of("register_applications")

    @property
    def datasets(self) -> tuple[Owned[Dataset], ...]:
        """Every dataset with the plugin that returned it."""
        return self._of("register_datasets")

    @property
    def routes(self) -> tuple[Owned[Route], ...]:
        """Every route with the plugin that returned it."""
        return self._of("register_routes")

    @property
    def jobs(self) -> tuple[Owned[Job], ...]:
        """Every job with the plugin that returned it."""
        return self._of("register_jobs")

    @property
    def health_checks(self) -> tuple[Owned[HealthCheck], ...]:
        """Every health check with the plugin that returned it."""
        return self._of("register_health_checks")

    @property
    def commands(self) -> tuple[Owned[Command], ...]:
        """Every command with the plugin that returned it."""
        return self._of("register_commands")

    def start(self) -> None:
        """Call ``startup`` in configured order."""
        for name in self._loaded():
            self._call(name, "startup", services=self.services[name])

    def stop(self) -> None:
        """Call ``shutdown`` in reverse order. One that fails is logged and does not keep the others."""
        for name in reversed(self._loaded()):
            try:
                self._alone(name, "shutdown", services=self.services[name])
            except Exception:
                self._log.exception("plugin_shutdown_failed", plugin=name)

    def quarantine(self, name: str, hook: str, error: BaseException) -> None:
        """Leave a plugin out from now on, or stop if it is required.

        Raises:
            PluginError: The plugin is required.
        """
        reason = error.reason if isinstance(error, PluginError) else str(error) or type(error).__name__
        if not isinstance(error, BootError):
            reason = f"{type(error).__name__}: {reason}"
        if name in self._required:
            raise PluginError(name, hook, reason) from error
        self._log.error("plugin_quarantined", plugin=name, hook=hook, reason=reason, exc_info=error)
        full = f"{name}.{hook}: {reason}"
        self.statuses[name] = msgspec.structs.replace(self.statuses[name], state="quarantined", reason=full)
        if self._shared is not None:
            self._shared.authorizer.quarantine(name, full)
            self._shared.health.uninstall(name)
            self._shared.jobs.catalogue.withdraw(name)

    def _loaded(self) -> list[str]:
        return [name for name, status in self.statuses.items() if status.state == "loaded"]

    def _of(self, hook: str) -> tuple[Owned[Any], ...]:
        loaded = set(self._loaded())
        return tuple((owner, item) for owner, item in self._collected.get(hook, ()) if owner in loaded)

    def _load_all(self) -> None:
        settings = self._configuration.settings
        disabled = {short_name(name) for name in settings.disabled}
        for configured in settings.plugins:
            name = short_name(configured)
            if name in self.statuses:
                raise DuplicateError("plugin", name, (self.statuses[name].origin, configured))
            if name in struct_fields(Settings):
                raise DuplicateError("settings table", name, ("kernel", configured))
            if name in KERNEL_COMMANDS:
                raise DuplicateError("command", name, ("kernel", configured))
            required = name in self._required
            self.statuses[name] = PluginStatus(name, configured, "disabled", required)
            if name not in disabled:
                self._load(name, configured)
        for name in self._required - self.statuses.keys():
            raise ConfigError([f"required: plugin {name!r} is not among plugins"])
        self._refuse_misspelt()

    def _load(self, name: str, configured: str) -> None:
        self.statuses[name] = msgspec.structs.replace(self.statuses[name], state="loaded")
        try:
            plugin = find(configured)
        except DuplicateError:
            raise
        except Exception as ex:
            self.quarantine(name, "import", ex)
            return
        status = self.statuses[name]
        self.statuses[name] = msgspec.structs.replace(status, origin=plugin.origin, version=plugin.version)
        try:
            self._manager.register(plugin.module, name)
        except pluggy.PluginValidationError as ex:
            # An argument that the specification does not have: as wrong as a misspelt hook.
            raise BootError(f"{name}: {ex}") from ex
        self.plugins[name] = plugin

    def _refuse_misspelt(self) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as ex:
            culprit = self._manager.get_name(ex.plugin)
            raise BootError(f"{culprit}: {str(ex).partition(chr(10))[0]}") from ex

    def _register_settings(self) -> None:
        tables: set[str] = {short_name(name) for name in self._configuration.settings.disabled}
        problems: list[str] = []
        for name in self.plugins:
            self._tables[name] = None
            for kind in self._call(name, "register_settings"):
                tables.add(name)
                try:
                    self._tables[name] = self._configuration.table(name, kind)
                except ConfigError as ex:
                    problems += ex.problems
        tables |= {name for name in self._configuration.plugin_tables() if name not in self.plugins and can_find(name)}
        tables |= {name for name, status in self.statuses.items() if status.state == "quarantined"}
        self._configuration.refuse_unknown(tables, problems)

    def _collect(
        self, hook: str, kind: type[C], key: Callable[[C], str] | None = None, *, by_owner: bool = False
    ) -> None:
        collected: list[Owned[C]] = []
        seen: dict[str, str] = {}
        for name in self._loaded():
            for item in self._call(name, hook, kind, services=self.services[name]):
                if key is not None:
                    unique = f"{name} {key(item)}" if by_owner else key(item)
                    if unique in seen:
                        what = hook.removeprefix("register_").removesuffix("s").replace("_", " ")
                        raise DuplicateError(what, unique, (seen[unique], name))
                    seen[unique] = name
                collected.append((name, item))
        self._collected[hook] = list(collected)

    def _refuse_aliases(self) -> None:
        taken = {**dict.fromkeys(KERNEL_COMMANDS, "kernel"), **{name: name for name in self.statuses}}
        for owner, command in self.commands:
            if command.alias is not None:
                if command.alias in taken:
                    raise DuplicateError("command", command.alias, (taken[command.alias], owner))
                taken[command.alias] = owner

    def _install_jobs(self, catalogue: Catalogue) -> None:
        for owner, job in self.jobs:
            try:
                catalogue.install(owner, job)
            except ValueError as ex:
                self.quarantine(owner, "register_jobs", ex)
        # A job of a plugin that is left out at the moment may keep its schedule in the configuration.
        catalogue.refuse_unknown(self.statuses.keys() - set(self._loaded()))

    def _call(self, name: str, hook: str, kind: type[C] | None = None, **given: Any) -> list[Any]:
        try:
            answers = self._alone(name, hook, **given)
            if hook == "register_settings":
                return [_struct(answer) for answer in answers]
            if kind is None:
                return answers
            items = [item for answer in answers for item in _iterate(answer)]
            for item in items:
                if not isinstance(item, kind):
                    raise TypeError(f"returned {type(item).__name__}, not {kind.__name__}")  # noqa: TRY301
                _REFUSALS.get(kind, _take)(item)
        except DuplicateError:
            raise
        except Exception as ex:
            self.quarantine(name, hook, ex)
            return []
        return items

    def _alone(self, name: str, hook: str, **given: Any) -> list[Any]:
        others = [plugin.module for other, plugin in self.plugins.items() if other != name]
        caller = self._manager.subset_hook_caller(hook, others)
        return list(caller(**given))


def _take(_item: object) -> None:
    """Have nothing against what a hook returned."""


_REFUSALS: dict[type[Contract], Callable[[Any], None]] = {
    Application: validate_slug,
    Dataset: validate_dataset,
    Route: validate_route,
}


def _struct(answer: Any) -> type[msgspec.Struct]:
    if not (isinstance(answer, type) and issubclass(answer, msgspec.Struct)):
        raise TypeError(f"returned {answer!r:.80}, not a Struct")
    return answer


def _iterate(answer: Any) -> Iterable[Any]:
    if not isinstance(answer, Iterable):
        raise TypeError(f"returned {type(answer).__name__}, not a list")
    return answer
