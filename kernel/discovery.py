"""Find a plugin by the name it has in the configuration."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import msgspec

from kernel.errors import BootError, DuplicateError

GROUP = "tiercel"
IN_TREE = ("plugins", "contrib")


class Plugin(msgspec.Struct, frozen=True):
    """An imported plugin.

    Args:
        name: The last part of what the configuration calls it.
        module: Holds its hook implementations.
        origin: The module, and the distribution that offers it.
        version: Of that distribution.
    """

    name: str
    module: ModuleType
    origin: str
    version: str | None = None

    @property
    def migrations(self) -> Path | None:
        """The folder of its migrations, if it has one."""
        if not hasattr(self.module, "__path__"):
            return None
        folder = Path(self.module.__path__[0]) / "migrations"
        return folder if folder.is_dir() else None


def short_name(configured: str) -> str:
    """Return the name of a plugin: the last part of a dotted path, or the word itself."""
    return configured.rpartition(".")[2]


def find(configured: str) -> Plugin:
    """Import a plugin.

    Args:
        configured: ``observability`` (in the tree, or an entry point of the group ``tiercel``) or ``acme.plugin``.

    Raises:
        BootError: There is no such plugin.
        DuplicateError: The tree and an installed distribution both have one.
        Exception: Whatever importing it raises.
    """
    candidates: dict[str, EntryPoint | str] = dict.fromkeys(_modules(configured), configured)
    candidates |= {_entry_point_origin(found): found for found in entry_points(group=GROUP, name=configured)}
    if not candidates:
        places = " or ".join(f"{package}/{configured}" for package in IN_TREE)
        raise BootError(f"plugin {configured!r} cannot be found: no {places}, no entry point {GROUP!r}, no module")
    if len(candidates) > 1:
        first, second, *_ = candidates
        raise DuplicateError("plugin", configured, (first, second))
    ((origin, found),) = candidates.items()
    if isinstance(found, EntryPoint):
        return Plugin(short_name(configured), found.load(), origin, found.dist.version if found.dist else None)
    return Plugin(short_name(configured), importlib.import_module(origin), origin)


def can_find(configured: str) -> bool:
    """Tell whether there is a plugin of that name, without importing it."""
    return bool(_modules(configured) or entry_points(group=GROUP, name=configured))


def _modules(configured: str) -> list[str]:
    names = [configured] if "." in configured else [f"{package}.{configured}" for package in IN_TREE]
    return [name for name in names if _exists(name)]


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _entry_point_origin(found: EntryPoint) -> str:
    return f"{found.value} ({found.dist.name})" if found.dist else found.value
