"""The plugins of a process: find and load them, call their hooks, collect what they return, quarantine those that fail.

pluggy alone would call all implementations of a hook at once, and not say which of them failed. Here each plugin is
called alone, in configured order, and every error names plugin and hook.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec
import pluggy

from kernel import hookspecs
from kernel.config import Configuration
from kernel.contracts import Command, Contract
from kernel.conversion import struct_fields
from kernel.errors import BootError, ConfigError, DuplicateError, PluginError
from kernel.logging import Logger
from kernel.masking import mask_text
from kernel.package_names import own_version
from kernel.services import PluginState, PluginStatus, Services, SharedServices
from kernel.settings import Settings
from kernel.suggestions import did_you_mean, nearest_name

C = TypeVar("C", bound=Contract)
# A contribution, with the name of the plugin that returned it from a hook.
Owned = tuple[str, C]

ENTRY_POINT_GROUP = "tiercel"
# Packages of the source tree whose modules are plugins under their bare names.
PLUGIN_PACKAGES = ("plugins", "contrib")
# The kernel's own commands, and where each is defined: from here the command line loads them. A plugin has a group of
# commands with its own name next to them, so these names are reserved.
KERNEL_COMMANDS = {
    "up": "kernel.cli.serve:up",
    "serve": "kernel.cli.serve:serve",
    "worker": "kernel.cli.worker:worker",
    "migrate": "kernel.cli.admin:migrate",
    "check": "kernel.cli.admin:check",
    "doctor": "kernel.cli.doctor:doctor",
    "plugins": "kernel.cli.admin:plugins",
    "routes": "kernel.cli.admin:routes",
    "apps": "kernel.cli.apps:apps",
    "list_apps": "kernel.cli.apps:list_apps",
    "test_multi_app": "kernel.cli.apps:test_multi_app",
    "data": "kernel.cli.data:data",
    "cache": "kernel.cli.admin:cache",
    "db": "kernel.cli.db:db",
    "backup": "kernel.cli.backup:backup",
    "restore": "kernel.cli.backup:restore",
    "upgrade": "kernel.cli.db:upgrade",
    "jobs": "kernel.cli.jobs:jobs",
    "openapi": "kernel.cli.openapi:openapi",
    "smoke": "kernel.cli.openapi:smoke",
    "shell": "kernel.cli.admin:shell",
    "logs": "kernel.cli.logs:logs",
    "test": "kernel.cli.testing:test",
    # As other services call them; hidden in the help.
    "runserver": "kernel.cli.serve:runserver",
    "run": "kernel.cli.serve:run",
    "mig": "kernel.cli.admin:mig",
}


class Plugin(msgspec.Struct, frozen=True):
    """An imported plugin.

    Args:
        name: The last part of its name in the configuration.
        module: The module with its hook implementations.
        origin: The module's name, with the distribution that provides it.
        version: Version of that distribution; None if it is this one, or not known.
    """

    name: str
    module: ModuleType
    origin: str
    version: str | None = None

    @property
    def migrations(self) -> Path | None:
        """The folder with its migrations; None if it has none."""
        return self.folder("migrations")

    @property
    def code_version(self) -> str | None:
        """The version of its code; None if it is not known."""
        is_own = self.module.__name__.partition(".")[0] in PLUGIN_PACKAGES
        return own_version() if is_own else self.version

    def folder(self, name: str) -> Path | None:
        """Return a folder of its package; None if it has none of that name."""
        if not hasattr(self.module, "__path__"):
            return None
        folder = Path(self.module.__path__[0]) / name
        return folder if folder.is_dir() else None


class Registry:
    """The plugins that the configuration enables, and what they contribute.

    The boot calls ``load``, ``decode_settings``, and ``collect`` for each ``register_`` hook. A plugin that fails is
    quarantined, and the following calls leave it out.

    Args:
        configuration: Names the plugins, and holds their tables.
        shared: What the plugins share.
        log: Gets the plugins that fail.
    """

    def __init__(self, configuration: Configuration, shared: SharedServices, log: Logger) -> None:
        self._configuration = configuration
        self._shared = shared
        self._log = log
        self._required = frozenset(short_name(name) for name in configuration.settings.required)
        self._disabled = frozenset(short_name(name) for name in configuration.settings.disabled)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._contributions: dict[type[Contract], list[Owned[Any]]] = {}
        # Looking for them reads a file of every installed distribution.
        self._entry_points = entry_points(group=ENTRY_POINT_GROUP)
        self.statuses = shared.plugins
        self.plugins: dict[str, Plugin] = {}
        self.services: dict[str, Services] = {}

    # --- boot -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Import the enabled plugins, in configured order.

        Raises:
            BootError: A required plugin failed or is not enabled, a hook is misspelt, or a name is taken.
        """
        for configured in self._configuration.settings.plugins:
            name = short_name(configured)
            self._ensure_free_name(name, configured)
            state: PluginState = "disabled" if name in self._disabled else "loaded"
            self.statuses[name] = PluginStatus(name, configured, state, required=name in self._required)
            if state == "loaded":
                self._import(name, configured)
        for name in self._required - self.statuses.keys():
            raise ConfigError([f"required: plugin {name!r} is not among plugins{did_you_mean(name, self.statuses)}"])
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as ex:
            # A function that is marked as a hook, and has the name of none.
            raise BootError(f"{self._manager.get_name(ex.plugin)}: {str(ex).partition(chr(10))[0]}") from ex

    def unmatched_disabled(self) -> Mapping[str, str | None]:
        """Return the names in ``disabled`` that no plugin in ``plugins`` has, each with the nearest that one has."""
        unmatched = sorted(self._disabled - self.statuses.keys())
        return {name: nearest_name(name, self.statuses) for name in unmatched}

    def decode_settings(self) -> None:
        """Decode the table of each plugin, and create its services.

        Raises:
            ConfigError: Tables are wrong, or belong to no plugin; names every problem of all plugins.
            PluginError: ``register_settings`` of a required plugin failed.
        """
        problems: list[str] = []
        decoded: set[str] = set()
        for name in self.plugins:
            settings: msgspec.Struct | None = None
            try:
                kinds = [_as_struct(result) for result in self._call_hook(name, "register_settings")]
            except Exception as ex:
                self.quarantine(name, "register_settings", ex)
                continue
            for kind in kinds:
                decoded.add(name)
                try:
                    settings = self._configuration.table(name, kind)
                except ConfigError as ex:
                    problems += ex.problems
            self.services[name] = Services(name, settings, self._shared)
        self._configuration.ensure_known_keys(decoded | self._tolerated_tables(), problems)

    def collect(
        self,
        hook: str,
        kind: type[C],
        *,
        unique_name: Callable[[str, C], str] | None = None,
        validate: Callable[[C], None] | None = None,
    ) -> Sequence[Owned[C]]:
        """Call a ``register_`` hook of each loaded plugin, and keep what it returns as its contributions.

        Args:
            hook: Name of the hook.
            kind: The Struct that the hook must return.
            unique_name: Returns a name that no two contributions may share, of a plugin and its contribution.
            validate: Raises if a contribution is invalid.

        Returns:
            The contributions of the plugins that did not fail, each with the name of its plugin.

        Raises:
            DuplicateError: Two contributions have the same name.
            PluginError: A required plugin failed.
        """
        owned: list[Owned[C]] = []
        owners: dict[str, str] = {}
        for plugin in self.loaded:
            try:
                items = self._call_register_hook(plugin, hook, kind, validate)
            except Exception as ex:
                self.quarantine(plugin, hook, ex)
                continue
            for item in items:
                if unique_name is not None:
                    name = unique_name(plugin, item)
                    if name in owners:
                        what = hook.removeprefix("register_").removesuffix("s").replace("_", " ")
                        raise DuplicateError(what, name, (owners[name], plugin))
                    owners[name] = plugin
                owned.append((plugin, item))
            status = self.statuses[plugin]
            counts = {**status.contributions, hook.removeprefix("register_"): len(items)}
            self.statuses[plugin] = msgspec.structs.replace(status, contributions=counts)
        self._contributions[kind] = list(owned)
        return owned

    def contributions(self, kind: type[C]) -> tuple[Owned[C], ...]:
        """Return the contributions of a kind that loaded plugins made, each with the name of its plugin.

        Args:
            kind: Such as ``Route``.
        """
        loaded = set(self.loaded)
        return tuple((plugin, item) for plugin, item in self._contributions.get(kind, ()) if plugin in loaded)

    def folders(self, name: str) -> dict[str, Path]:
        """Return the folders of a name that loaded plugins have, by plugin."""
        found = {plugin: self.plugins[plugin].folder(name) for plugin in self.loaded}
        return {plugin: folder for plugin, folder in found.items() if folder is not None}

    def ensure_unique_aliases(self) -> None:
        """Ensure that no alias of a command is the name of a command, of a plugin, or another alias.

        Raises:
            DuplicateError: One is; names both owners.
        """
        owners = {**dict.fromkeys(KERNEL_COMMANDS, "kernel"), **{name: name for name in self.statuses}}
        for plugin, command in self.contributions(Command):
            if command.alias is not None:
                if command.alias in owners:
                    raise DuplicateError("command", command.alias, (owners[command.alias], plugin))
                owners[command.alias] = plugin

    # --- a process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Call ``startup`` of each loaded plugin, in configured order; quarantine those that fail."""
        for name in self.loaded:
            try:
                self._call_hook(name, "startup", services=self.services[name])
            except Exception as ex:
                self.quarantine(name, "startup", ex)

    def stop(self) -> None:
        """Call ``shutdown`` of each loaded plugin, in reverse order; log those that fail."""
        for name in reversed(self.loaded):
            try:
                self._call_hook(name, "shutdown", services=self.services[name])
            except Exception:
                self._log.exception("plugin_shutdown_failed", plugin=name)

    # --- failures ---------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> Sequence[str]:
        """The names of the plugins that are neither disabled nor quarantined, in configured order."""
        return [name for name, status in self.statuses.items() if status.state == "loaded"]

    def quarantine(self, name: str, hook: str, error: BaseException) -> None:
        """Leave a plugin out from now on: its contributions are gone, and its mounted routes answer 503.

        Args:
            name: Name of the plugin.
            hook: Where it failed: a hook, ``import`` or ``migrations``.
            error: How it failed.

        Raises:
            DuplicateError: The error is one: it is not the fault of this plugin alone.
            PluginError: The plugin is required.
        """
        if isinstance(error, DuplicateError):
            raise error
        reason = error.reason if isinstance(error, PluginError) else str(error) or type(error).__name__
        if not isinstance(error, BootError):
            reason = f"{type(error).__name__}: {reason}"
        reason = mask_text(reason)
        if name in self._required:
            raise PluginError(name, hook, reason) from error
        self._log.error("plugin_quarantined", plugin=name, hook=hook, reason=reason, exc_info=error)
        reason = f"{name}.{hook}: {reason}"
        self.statuses[name] = msgspec.structs.replace(
            self.statuses[name], state="quarantined", reason=reason, contributions={}
        )
        self._shared.authorizer.quarantine(name, reason)
        self._shared.health.uninstall(name)
        self._shared.jobs.registry.unregister(name)

    def check_health(self) -> str:
        """Return how many plugins are loaded.

        Raises:
            BootError: Some are quarantined; contains the reasons.
        """
        reasons = [str(status.reason) for status in self.statuses.values() if status.state == "quarantined"]
        if reasons:
            raise BootError("; ".join(reasons))
        return f"{len(self.plugins)} loaded"

    # --- one plugin -------------------------------------------------------------------------------------------------

    def _ensure_free_name(self, name: str, configured: str) -> None:
        if name in self.statuses:
            raise DuplicateError("plugin", name, (self.statuses[name].origin, configured))
        if name in struct_fields(Settings):
            raise DuplicateError("settings table", name, ("kernel", configured))
        if name in KERNEL_COMMANDS:
            raise DuplicateError("command", name, ("kernel", configured))

    def _import(self, name: str, configured: str) -> None:
        try:
            plugin = import_plugin(configured, self._entry_points)
        except Exception as ex:
            self.quarantine(name, "import", ex)
            return
        status = self.statuses[name]
        self.statuses[name] = msgspec.structs.replace(status, origin=plugin.origin, version=plugin.version)
        try:
            self._manager.register(plugin.module, name)
        except pluggy.PluginValidationError as ex:
            # An argument that the hook does not have: as wrong as a misspelt hook.
            raise BootError(f"{name}: {ex}") from ex
        hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(plugin.module) or ()))
        self.statuses[name] = msgspec.structs.replace(self.statuses[name], hooks=hooks)
        self.plugins[name] = plugin

    def _tolerated_tables(self) -> set[str]:
        """Return the names of tables that may be in the configuration although no loaded plugin decodes them."""
        quarantined = {name for name, status in self.statuses.items() if status.state == "quarantined"}
        others = self._configuration.plugin_tables() - self.plugins.keys()
        not_enabled = {name for name in others if is_plugin(name, self._entry_points)}
        return quarantined | not_enabled | self._disabled

    def _call_register_hook(
        self, plugin: str, hook: str, kind: type[C], validate: Callable[[C], None] | None
    ) -> Sequence[C]:
        results = self._call_hook(plugin, hook, services=self.services[plugin])
        # Generators run here, so that their errors are those of this plugin.
        items = [item for result in results for item in _as_iterable(result)]
        for item in items:
            if not isinstance(item, kind):
                raise TypeError(f"returned {type(item).__name__}, not {kind.__name__}")
            if validate is not None:
                validate(item)
        return items

    def _call_hook(self, plugin: str, hook: str, **arguments: Any) -> Sequence[Any]:
        """Call a hook of one plugin alone; return its result in a list, which is empty if it does not implement it."""
        others = [other.module for name, other in self.plugins.items() if name != plugin]
        return list(self._manager.subset_hook_caller(hook, others)(**arguments))


def short_name(configured: str) -> str:
    """Return the name of a plugin: the last part of a dotted path, or the whole if it has no dots."""
    return configured.rpartition(".")[2]


def import_plugin(configured: str, installed: EntryPoints) -> Plugin:
    """Find and import a plugin.

    Args:
        configured: A bare name, such as ``shop``, of a module in the source tree or of an entry point; or the dotted
            path of a module, such as ``acme.shop``.
        installed: The entry points of installed distributions.

    Raises:
        BootError: There is no such plugin.
        DuplicateError: There are several, in the source tree and in installed distributions.
        Exception: Whatever importing the module raises.
    """
    candidates: dict[str, EntryPoint | str] = {module: module for module in _find_modules(configured)}
    candidates |= {_origin(found): found for found in installed.select(name=configured)}
    if not candidates:
        places = " or ".join(f"{package}/{configured}" for package in PLUGIN_PACKAGES)
        raise BootError(
            f"plugin {configured!r} cannot be found: no {places}, no entry point {ENTRY_POINT_GROUP!r}, no module"
        )
    if len(candidates) > 1:
        first, second, *_ = candidates
        raise DuplicateError("plugin", configured, (first, second))
    ((origin, found),) = candidates.items()
    if isinstance(found, EntryPoint):
        return Plugin(short_name(configured), found.load(), origin, found.dist.version if found.dist else None)
    return Plugin(short_name(configured), importlib.import_module(found), origin)


def is_plugin(configured: str, installed: EntryPoints) -> bool:
    """Tell whether a plugin can be found, without importing it. Takes the arguments of ``import_plugin``."""
    return bool(_find_modules(configured) or installed.select(name=configured))


def _find_modules(configured: str) -> list[str]:
    names = [configured] if "." in configured else [f"{package}.{configured}" for package in PLUGIN_PACKAGES]
    return [name for name in names if _module_exists(name)]


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _origin(found: EntryPoint) -> str:
    return f"{found.value} ({found.dist.name})" if found.dist else found.value


def _as_struct(result: Any) -> type[msgspec.Struct]:
    if not (isinstance(result, type) and issubclass(result, msgspec.Struct)):
        raise TypeError(f"returned {result!r:.80}, not a Struct")
    return result


def _as_iterable(result: Any) -> Iterable[Any]:
    if not isinstance(result, Iterable):
        raise TypeError(f"returned {type(result).__name__}, not a list")
    return result
