"""Decode every source of settings into Structs, and remember which source won."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from kernel.conversion import allowed, base_type, convert_one, is_sequence, nested_struct, struct_fields
from kernel.errors import ConfigError
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
        self._written_secrets: list[str] = []
        self.settings = self._decode(Settings, ())
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

    def written_secrets(self) -> tuple[str, ...]:
        """Return the keys of secrets that stand in the TOML file, each with its place."""
        return tuple(f"{key} in {self._file.place}" for key in self._written_secrets)

    def plugin_tables(self) -> set[str]:
        """Return the names of tables that are not the kernel's, in the file or in variables like ``TIERCEL_X__KEY``."""
        variables = [variable for source in self._environments for variable in source.canonical()]
        return self._file_tables() | ({_table_of(name) for name in variables} - {""} - struct_fields(Settings).keys())

    def refuse_unknown(self, tables: Collection[str], problems: Collection[str] = ()) -> None:
        """Refuse keys that no Struct decoded, except in the given tables of plugins that are switched off.

        Args:
            tables: Names of tables that are known or tolerated.
            problems: What else is wrong, so that one error names everything.

        Raises:
            ConfigError: There are such keys or problems; each is named with its place.
        """
        self._problems += problems
        for name in sorted(self._file_tables() - set(tables)):
            self._problems.append(f"{self._file.place}: {name}: unknown key; no plugin takes a table of that name")
        for source in self._environments:
            for variable in source.canonical():
                if variable not in self._known and _table_of(variable) not in tables:
                    self._problems.append(f"{source.place} {variable}: unknown setting")
        self._refuse()

    def _file_tables(self) -> set[str]:
        return set(self._file.values) - struct_fields(Settings).keys()

    def _refuse(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            raise ConfigError(problems)

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
                    value = _converted(raw, field.type, strict=strict)
                except ValueError as ex:
                    self._problems.append(f"{origin}: {'.'.join(path)}: {ex}")
                    continue
                if isinstance(value, Secret):
                    self._look_at_secret(".".join(path), value, origin)
            values[field.name] = value
            self._entries[".".join(path)] = Entry(".".join(path), _shown(value), origin)
        # With problems on record nobody gets to see this object: _refuse raises first.
        return self._make(kind, values, prefix) if not self._problems else cast("T", None)

    def _make(self, kind: type[T], values: Mapping[str, Any], prefix: KeyPath) -> T:
        """Make a table; one that checks itself in ``__post_init__`` begins its message with the key it is about."""
        try:
            return kind(**values)
        except ValueError as ex:
            key, _, reason = str(ex).partition(": ")
            path = ".".join((*prefix, key))
            entry = self._entries.get(path)
            self._problems.append(f"{entry.origin}: {path}: {reason}" if entry else f"{'.'.join(prefix)}: {ex}")
            return cast("T", None)

    def _find(self, path: KeyPath, annotation: Any) -> tuple[Any, str, bool] | None:
        names = (PREFIX + "__".join(path).upper(), *_aliases(annotation))
        self._known.update(names)
        for source in self._environments:
            for name in names:
                # Compose files and templates of .env set to nothing what they mean to leave alone.
                if source.values.get(name) or (name in source.values and is_sequence(annotation)):
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
            # What is no table is named where it stands, once.
            table = table.get(part, {}) if isinstance(table, Mapping) else {}
        where = f"{self._file.place}: {'.'.join(path)}"
        if not isinstance(table, Mapping):
            self._problems.append(f"{where}: Expected a table, got {table!r:.120}.")
            return
        for name in table.keys() - struct_fields(kind).keys():
            self._problems.append(f"{where}.{name}: unknown key; there are {', '.join(struct_fields(kind))}")

    def _look_at_secret(self, key: str, value: Secret, origin: str) -> None:
        is_secret = self._check_url(value, origin) if key == "db.url" else True
        if is_secret and origin == self._file.place:
            self._written_secrets.append(key)

    def _check_url(self, url: Secret, origin: str) -> bool:
        """Refuse what is no URL; else tell whether a password is in it."""
        if url.reveal().startswith("sqlite"):
            self._problems.append(f"{origin}: there is no SQLite here; leave db.url unset for the embedded PostgreSQL")
            return False
        try:
            return "password" in conninfo_to_dict(url.reveal())
        except psycopg.ProgrammingError:
            # psycopg's message repeats the text, password and all.
            self._problems.append(f"{origin}: db.url: Expected postgresql://user:password@host:port/database.")
            return False


def _converted(raw: Any, annotation: Any, *, strict: bool) -> Any:
    try:
        return convert_one(raw, annotation, strict=strict, dec_hook=dec_hook)
    except ValueError:
        if base_type(annotation) is Secret:
            # The usual message repeats the value.
            raise ValueError(f"Expected str, got {type(raw).__name__}.") from None
        if isinstance(raw, dict):
            # So may a table hold secrets: say where in it, and not what.
            reason = _misfit(raw, annotation, strict=strict)
            raise ValueError(f"{reason}.") from None  # noqa: TRY004 - the value of a setting is wrong, not an argument
        raise


def _misfit(raw: Mapping[str, Any], annotation: Any, *, strict: bool) -> str:
    try:
        msgspec.convert(raw, annotation, strict=strict, dec_hook=dec_hook)
    except msgspec.ValidationError as ex:
        return str(ex).replace("`", "")
    return "Expected another table"


def _table_of(variable: str) -> str:
    head, parts, _ = variable.removeprefix(PREFIX).lower().partition("__")
    return head if parts else ""


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
