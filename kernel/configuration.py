"""Decode every source of settings into Structs, and remember which source won."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from kernel.errors import ConfigError
from kernel.fields import allowed, convert_one, nested_struct, struct_fields
from kernel.settings import Secret, Settings, dec_hook
from kernel.sources import PREFIX, EnvironmentSource, FileSource, dotenv, environment, toml

T = TypeVar("T", bound=msgspec.Struct)
KeyPath = tuple[str, ...]
KERNEL = "kernel"
MASK = "***"


class Entry(msgspec.Struct, frozen=True):
    """One key of the settings as it came out.

    Args:
        key: Dotted path, such as ``db.pool_max``.
        value: For people; secrets are masked.
        origin: The source that won: ``environment DATABASE_URL``, ``config/tiercel.toml``, ``default`` ...
    """

    key: str
    value: str
    origin: str


class Configuration:
    """All sources of settings. Decodes the kernel's keys at once and a plugin's table on demand.

    Args:
        environments: Variables, the most important source first.
        file: The TOML file.

    Raises:
        ConfigError: Keys or values of the kernel are wrong; each is named with its place and type.
    """

    def __init__(self, environments: tuple[EnvironmentSource, ...], file: FileSource) -> None:
        self._environments = environments
        self._file = file
        self._entries: dict[str, Entry] = {}
        self._known: set[str] = set()
        self._problems: list[str] = []
        self.settings = self._decode(Settings, ())
        self._check_url(self.settings.db.url)
        self._refuse()

    def table(self, name: str, kind: type[T]) -> T:
        """Decode the table of a plugin with the plugin's own Struct.

        Raises:
            ConfigError: Keys or values are wrong.
        """
        table = self._decode(kind, (name,))
        self._refuse()
        return table

    def entries(self) -> tuple[Entry, ...]:
        """Return every decoded key with its value and the source that won, in order of decoding."""
        return tuple(self._entries.values())

    def file_tables(self) -> tuple[str, ...]:
        """Return the names at the top of the file that are not the kernel's: tables of plugins."""
        return tuple(self._file.values.keys() - struct_fields(Settings).keys())

    def refuse_unknown(self, tables: Collection[str]) -> None:
        """Refuse keys that no Struct decoded, except in the given tables of plugins that are switched off.

        Raises:
            ConfigError: There are such keys; each is named with its place.
        """
        for name in set(self.file_tables()) - set(tables):
            self._problems.append(f"{self._file.place}: {name}: unknown key; no plugin of that name can be found")
        for source in self._environments:
            for variable in source.canonical():
                head = variable.removeprefix(PREFIX).lower().split("__")[0]
                if variable not in self._known and not (head in tables and "__" in variable):
                    self._problems.append(f"{source.place} {variable}: unknown setting")
        self._refuse()

    def _refuse(self) -> None:
        if self._problems:
            raise ConfigError(self._problems)

    def _decode(self, kind: type[T], prefix: KeyPath) -> T:
        self._unknown_in_file(kind, prefix)
        values: dict[str, Any] = {}
        for name, field in struct_fields(kind).items():
            path = (*prefix, name)
            inner = nested_struct(field.type)
            if inner is not None:
                values[field.name] = self._decode(inner, path)
                continue
            found = self._find(path, field.type)
            if found is None:
                if field.required:
                    self._problems.append(f"{'.'.join(path)}: is needed ({allowed(field.type)})")
                    continue
                value = field.default_factory() if callable(field.default_factory) else field.default
                origin = "default"
            else:
                raw, origin, strict = found
                try:
                    value = convert_one(raw, field.type, strict=strict, dec_hook=dec_hook)
                except ValueError as ex:
                    self._problems.append(f"{origin}: {'.'.join(path)}: {ex}")
                    continue
            values[field.name] = value
            self._entries[".".join(path)] = Entry(".".join(path), _shown(value), origin)
        # With problems on record nobody gets to see this object: _refuse raises first.
        return kind(**values) if not self._problems else cast("T", None)

    def _find(self, path: KeyPath, annotation: Any) -> tuple[Any, str, bool] | None:
        names = (PREFIX + "__".join(path).upper(), *_aliases(annotation))
        self._known.update(names)
        for source in self._environments:
            for name in names:
                if name in source.values:
                    return source.values[name], source.origin(name), False
        table: Any = self._file.values
        for part in path[:-1]:
            table = table.get(part, {})
            if not isinstance(table, Mapping):
                return None
        return (table[path[-1]], self._file.place, True) if path[-1] in table else None

    def _unknown_in_file(self, kind: type[msgspec.Struct], path: KeyPath) -> None:
        if not path:
            return  # the top level also holds tables of plugins; see refuse_unknown
        table: Any = self._file.values
        for part in path:
            table = table.get(part, {})
        where = f"{self._file.place}: {'.'.join(path)}"
        if not isinstance(table, Mapping):
            self._problems.append(f"{where}: Expected a table, got {table!r:.120}.")
            return
        for name in table.keys() - struct_fields(kind).keys():
            self._problems.append(f"{where}.{name}: unknown key; there are {', '.join(struct_fields(kind))}")

    def _check_url(self, url: Secret | None) -> None:
        if url is not None and url.reveal().startswith("sqlite"):
            origin = self._entries["db.url"].origin
            self._problems.append(f"{origin}: there is no SQLite here; leave db.url unset for the embedded PostgreSQL")


def _aliases(annotation: Any) -> tuple[str, ...]:
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "env" in meta.extra:
            return tuple(meta.extra["env"])
    return ()


def _shown(value: object) -> str:
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return str(value)


def load(
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Configuration:
    """Read the environment, ``.env`` and the TOML file, in that order of importance.

    Args:
        environ: The process's environment by default.
        directory: Where ``.env`` and ``config/`` are looked for; the working directory by default.

    Raises:
        ConfigError: A source cannot be read, or holds a wrong key or value.
    """
    here = directory or Path.cwd()
    process = environment(os.environ if environ is None else environ)
    local = dotenv(here)
    return Configuration((process, local), toml(process, local, here))
