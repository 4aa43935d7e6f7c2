"""Configuration: read the environment, ``.env`` and the TOML files, and decode them into Structs of settings.

A key has the value of the first of these sources that sets it: an environment variable, a variable in ``.env``, the
user's TOML file, the ``tiercel.toml`` that ships with the package (which lists the plugins), the default of its Struct.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import psycopg
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.conversion import base_type, convert_value, describe_type, is_sequence, nested_struct, struct_fields
from kernel.errors import ConfigError
from kernel.settings import Secret, Settings, dec_hook

T = TypeVar("T", bound=msgspec.Struct)
KeyPath = tuple[str, ...]

PREFIX = "TIERCEL_"
CONFIG_VARIABLE = "TIERCEL_CONFIG"
CONFIG_FILE = Path("config/tiercel.toml")
MASK = "***"
DEFAULT_ORIGIN = "default"
# With the prefix, but no settings: the path of the TOML file, and what configures the project's own tests.
_NOT_SETTINGS = (CONFIG_VARIABLE, "TIERCEL_TEST_")

_PACKAGE = Path(__file__).parent
# A wheel carries a copy of config/ inside the package; a source checkout has it next to the package.
_SHIPPED_FOLDERS = (_PACKAGE / "_config", _PACKAGE.parent / "config")
# The keys that the shipped file sets. All others are commented out there: their Structs have the defaults.
_SHIPPED_KEYS = ("plugins", "required")

_POSTGRES_VARIABLES = {
    "POSTGRES_HOST": "host",
    "POSTGRES_PORT": "port",
    "POSTGRES_DB": "dbname",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "password",
    "DB_SSLMODE": "sslmode",
}


# --- sources --------------------------------------------------------------------------------------------------------


class EnvironmentSource(msgspec.Struct, frozen=True):
    """Variables of the process or of ``.env``, and those that are composed of several others.

    Args:
        place: ``environment``, or the path of the file.
        values: Text by variable name.
        composed_of: For a composed variable, the names of the variables that were set.
    """

    place: str
    values: Mapping[str, str]
    composed_of: Mapping[str, str] = {}

    def origin(self, name: str) -> str:
        """Return where the value of a variable comes from, for people."""
        return f"{self.place} {self.composed_of.get(name, name)}"

    def own_names(self) -> list[str]:
        """Return the names that can only be meant for Tiercel."""
        return [name for name in self.values if name.startswith(PREFIX) and not name.startswith(_NOT_SETTINGS)]


class FileSource(msgspec.Struct, frozen=True):
    """Values of a TOML file.

    Args:
        place: The path of the file as people write it.
        values: Its keys and tables.
    """

    place: str
    values: Mapping[str, Any]

    def find(self, path: KeyPath) -> Any:
        """Return the value at a path of keys; None if the file does not set it."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value


def read_environment(values: Mapping[str, str], place: str = "environment") -> EnvironmentSource:
    """Make a source of environment variables.

    Where older deployments spread a setting over several variables, it is composed of them: ``POSTGRES_HOST`` and its
    siblings make ``DATABASE_URL``, ``WEB_PORT`` makes ``TIERCEL_BIND``.
    """
    composed: dict[str, str] = {}
    composed_of: dict[str, str] = {}
    if values.get("POSTGRES_HOST") or values.get("POSTGRES_DB"):
        names = [name for name in _POSTGRES_VARIABLES if values.get(name)]
        composed["DATABASE_URL"] = make_conninfo("", **{_POSTGRES_VARIABLES[name]: values[name] for name in names})
        composed_of["DATABASE_URL"] = ", ".join(names)
    if values.get("WEB_PORT"):
        composed["TIERCEL_BIND"] = f"127.0.0.1:{values['WEB_PORT']}"
        composed_of["TIERCEL_BIND"] = "WEB_PORT"
    # A variable that is set wins over the composed one; an empty one counts as unset.
    composed = {name: value for name, value in composed.items() if not values.get(name)}
    return EnvironmentSource(place, {**values, **composed}, {name: composed_of[name] for name in composed})


def read_dotenv(directory: Path) -> EnvironmentSource:
    """Read the ``.env`` of a directory; an empty source if there is none."""
    path = directory / ".env"
    if not path.is_file():
        return EnvironmentSource(str(path), {})
    pairs = dotenv_values(path, interpolate=False)
    return read_environment({name: value for name, value in pairs.items() if value is not None}, ".env")


def read_user_file(environments: Sequence[EnvironmentSource], directory: Path) -> FileSource:
    """Read the TOML file that ``TIERCEL_CONFIG`` names, or ``config/tiercel.toml`` of a directory if it exists.

    Raises:
        ConfigError: The named file is missing, or the file cannot be read or parsed.
    """
    named = next((name for source in environments if (name := source.values.get(CONFIG_VARIABLE))), None)
    path = directory / (named or CONFIG_FILE)
    if not named and not path.is_file():
        return FileSource(str(CONFIG_FILE), {})
    return _read_toml(path, place=named or str(CONFIG_FILE))


@cache
def read_shipped_file() -> FileSource:
    """Read from the ``tiercel.toml`` that ships with the package which plugins are enabled and required by default.

    Raises:
        ConfigError: The installation is damaged: the file is missing, or cannot be parsed.
    """
    path = shipped_folder() / CONFIG_FILE.name
    values = _read_toml(path, place=str(path)).values
    return FileSource(DEFAULT_ORIGIN, {key: values[key] for key in _SHIPPED_KEYS if key in values})


def shipped_folder() -> Path:
    """Return the folder of the configuration files that ship with the package."""
    return next((folder for folder in _SHIPPED_FOLDERS if folder.is_dir()), _SHIPPED_FOLDERS[-1])


def _read_toml(path: Path, place: str) -> FileSource:
    try:
        return FileSource(place, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as ex:
        raise ConfigError([f"{place}: cannot be read: {ex}"]) from ex
    except tomllib.TOMLDecodeError as ex:
        raise ConfigError([f"{place}: is not valid TOML: {ex}"]) from ex


# --- decoding -------------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """The effective value of a key.

    Args:
        key: Dotted path, such as ``db.pool_max``.
        value: For people; secrets are masked.
        origin: The source that set it: ``environment DATABASE_URL``, ``config/tiercel.toml``, ``default`` ...
    """

    key: str
    value: str
    origin: str


class _Found(msgspec.Struct, frozen=True):
    """A value that a source has for a key. Text of the environment is converted leniently, values of TOML strictly."""

    raw: Any
    origin: str
    strict: bool


class Configuration:
    """All sources of settings. Decodes the kernel's settings at once, and the table of a plugin on demand.

    Args:
        environments: Sources of variables, in order of precedence.
        file: The user's TOML file.
        defaults: The keys that the shipped TOML file sets.

    Raises:
        ConfigError: Keys or values of the kernel's settings are wrong; each is named with its place and expected type.
    """

    def __init__(
        self, environments: Sequence[EnvironmentSource], file: FileSource, defaults: FileSource | None = None
    ) -> None:
        self._environments = environments
        self._file = file
        self._defaults = defaults or FileSource(DEFAULT_ORIGIN, {})
        self._entries: dict[str, Entry] = {}
        self._known_variables: set[str] = set()
        self._problems: list[str] = []
        self._written_secrets: list[str] = []
        self.settings = self._decode(Settings, ())
        self._raise_problems()

    def table(self, name: str, kind: type[T]) -> T:
        """Decode the table of a plugin into the plugin's own Struct.

        Raises:
            ConfigError: Keys or values are wrong.
        """
        table = self._decode(kind, (name,))
        self._raise_problems()
        return table

    def entries(self) -> tuple[Entry, ...]:
        """Return every decoded key with its value and origin, in order of decoding."""
        return tuple(self._entries.values())

    def written_secrets(self) -> tuple[str, ...]:
        """Return the secrets that the TOML file contains, as ``key in file``."""
        return tuple(f"{key} in {self._file.place}" for key in self._written_secrets)

    def plugin_tables(self) -> set[str]:
        """Return the names of tables that are not the kernel's, in the file or in variables like ``TIERCEL_X__KEY``."""
        variables = [variable for source in self._environments for variable in source.own_names()]
        in_environment = {_table_of(variable) for variable in variables} - {""} - struct_fields(Settings).keys()
        return self._tables_in_file() | in_environment

    def ensure_known_keys(self, tables: Collection[str], problems: Collection[str] = ()) -> None:
        """Ensure that every key was decoded or belongs to one of some tables.

        Args:
            tables: Names of tables that plugins decoded, or that belong to plugins which are not loaded.
            problems: Further problems, so that one error names all of them.

        Raises:
            ConfigError: There are unknown keys or further problems; each is named with its place.
        """
        self._problems += problems
        for name in sorted(self._tables_in_file() - set(tables)):
            self._problems.append(f"{self._file.place}: {name}: unknown key; no plugin has a table of this name")
        for source in self._environments:
            for variable in source.own_names():
                if variable not in self._known_variables and _table_of(variable) not in tables:
                    self._problems.append(f"{source.place} {variable}: unknown setting")
        self._raise_problems()

    def _tables_in_file(self) -> set[str]:
        return set(self._file.values) - struct_fields(Settings).keys()

    def _raise_problems(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            raise ConfigError(problems)

    def _decode(self, kind: type[T], prefix: KeyPath) -> T:
        self._collect_unknown_in_file(kind, prefix)
        values: dict[str, Any] = {}
        for name, field in struct_fields(kind).items():
            path = (*prefix, name)
            key = ".".join(path)
            inner = nested_struct(field.type)
            if inner is not None:
                values[field.name] = self._decode(inner, path)
                continue
            found = self._find(path, field.type)
            if found is not None:
                origin = found.origin
                try:
                    value = _convert(found, field.type)
                except ValueError as ex:
                    self._problems.append(f"{origin}: {key}: {ex}")
                    continue
                if isinstance(value, Secret):
                    self._note_secret(key, value, origin)
            elif field.required:
                self._problems.append(f"{key}: is required ({describe_type(field.type)})")
                continue
            else:
                origin = DEFAULT_ORIGIN
                value = field.default_factory() if callable(field.default_factory) else field.default
            values[field.name] = value
            self._entries[key] = Entry(key, _display(value), origin)
        # If there are problems, the caller raises them instead of returning this object.
        return self._construct(kind, values, prefix) if not self._problems else cast("T", None)

    def _construct(self, kind: type[T], values: Mapping[str, Any], prefix: KeyPath) -> T:
        """Create a settings Struct. A ``ValueError`` of its ``__post_init__`` starts with the invalid key."""
        try:
            return kind(**values)
        except ValueError as ex:
            key, _, reason = str(ex).partition(": ")
            path = ".".join((*prefix, key))
            entry = self._entries.get(path)
            self._problems.append(f"{entry.origin}: {path}: {reason}" if entry else f"{'.'.join(prefix)}: {ex}")
            return cast("T", None)

    def _find(self, path: KeyPath, annotation: Any) -> _Found | None:
        names = (PREFIX + "__".join(path).upper(), *_alias_variables(annotation))
        self._known_variables.update(names)
        for source in self._environments:
            for name in names:
                # Compose files and templates of .env set variables to nothing that they mean to leave unset; only a
                # list can be empty.
                if source.values.get(name) or (name in source.values and is_sequence(annotation)):
                    return _Found(source.values[name], source.origin(name), strict=False)
        for file in (self._file, self._defaults):
            raw = file.find(path)
            if raw is not None:
                return _Found(raw, file.place, strict=True)
        return None

    def _collect_unknown_in_file(self, kind: type[msgspec.Struct], path: KeyPath) -> None:
        if not path:
            return  # the top level also holds the tables of plugins; see ensure_known_keys
        table = self._file.find(path)
        if table is None:
            return
        where = f"{self._file.place}: {'.'.join(path)}"
        if not isinstance(table, Mapping):
            self._problems.append(f"{where}: Expected a table, got {table!r:.120}.")
            return
        for name in table.keys() - struct_fields(kind).keys():
            self._problems.append(f"{where}.{name}: unknown key; there are {', '.join(struct_fields(kind))}")

    def _note_secret(self, key: str, value: Secret, origin: str) -> None:
        is_secret = self._has_password(value, origin) if key == "db.url" else True
        if is_secret and origin == self._file.place:
            self._written_secrets.append(key)

    def _has_password(self, url: Secret, origin: str) -> bool:
        if url.reveal().startswith("sqlite"):
            self._problems.append(f"{origin}: SQLite is not supported; leave db.url unset for the embedded PostgreSQL")
            return False
        try:
            return "password" in conninfo_to_dict(url.reveal())
        except psycopg.ProgrammingError:
            # psycopg's message contains the whole text, password included.
            self._problems.append(f"{origin}: db.url: Expected postgresql://user:password@host:port/database.")
            return False


def load(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Configuration:
    """Load the configuration of a service.

    Args:
        environ: Environment variables; those of the process by default.
        directory: Where to look for ``.env`` and ``config/``; the working directory by default.

    Raises:
        ConfigError: A source cannot be read, or holds a wrong key or value.
    """
    folder = directory or Path.cwd()
    environments = (read_environment(os.environ if environ is None else environ), read_dotenv(folder))
    return Configuration(environments, read_user_file(environments, folder), read_shipped_file())


def _convert(found: _Found, annotation: Any) -> Any:
    try:
        return convert_value(found.raw, annotation, strict=found.strict, dec_hook=dec_hook)
    except ValueError:
        if base_type(annotation) is Secret:
            # The usual message contains the value.
            raise ValueError(f"Expected str, got {type(found.raw).__name__}.") from None
        if isinstance(found.raw, dict):
            # A table may contain secrets: name the place inside it, and not the value.
            reason = _describe_misfit(found, annotation)
            raise ValueError(f"{reason}.") from None  # noqa: TRY004 - the value of a setting is wrong, not an argument
        raise


def _describe_misfit(found: _Found, annotation: Any) -> str:
    try:
        msgspec.convert(found.raw, annotation, strict=found.strict, dec_hook=dec_hook)
    except msgspec.ValidationError as ex:
        return str(ex).replace("`", "")
    return "Expected another table"


def _table_of(variable: str) -> str:
    head, separator, _ = variable.removeprefix(PREFIX).lower().partition("__")
    return head if separator else ""


def _alias_variables(annotation: Any) -> tuple[str, ...]:
    """Return the further variables that ``env(...)`` names for a key."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "env" in meta.extra:
            return tuple(meta.extra["env"])
    return ()


def _display(value: object) -> str:
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return str(value)
