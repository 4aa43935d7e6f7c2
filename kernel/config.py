"""Configuration: read the environment, ``.env`` and the TOML files, and decode them into Structs of settings.

A key has the value of the first of these sources that sets it: an environment variable, a variable in ``.env``, the
user's TOML file, the ``tiercel.toml`` that ships with the package (which lists the plugins), the default of its Struct.
"""

from __future__ import annotations

import os
import re
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
from kernel.masking import mask, mask_text
from kernel.settings import Secret, Settings, dec_hook
from kernel.suggestions import did_you_mean, nearest_name, suggest

T = TypeVar("T", bound=msgspec.Struct)
KeyPath = tuple[str, ...]

PREFIX = "TIERCEL_"
CONFIG_VARIABLE = "TIERCEL_CONFIG"
CONFIG_FILE = Path("config/tiercel.toml")
DEFAULT_ORIGIN = "default"
# Where commands read a password from that nobody can be asked for.
PASSWORD_VARIABLE = "TIERCEL_PASSWORD"  # noqa: S105 - its name
# With the prefix, but no settings: the path of the TOML file, a password, and what configures the project's own tests.
_NOT_SETTINGS = (CONFIG_VARIABLE, PASSWORD_VARIABLE, "TIERCEL_TEST_")

_PACKAGE = Path(__file__).parent
# A wheel carries a copy of config/ inside the package; a source checkout has it next to the package.
_SHIPPED_FOLDERS = (_PACKAGE / "_config", _PACKAGE.parent / "config")
# The keys that the shipped file sets. All others are commented out there: their Structs have the defaults.
_SHIPPED_KEYS = ("plugins", "required")

# A database server in several variables, and the parameter of libpq that each sets. One family is used whole: parts of
# two of them would make up a third database, and send it the password of another.
DATABASE_FAMILIES: Sequence[Mapping[str, str]] = (
    {
        "POSTGRES_HOST": "host",
        "POSTGRES_PORT": "port",
        "POSTGRES_DB": "dbname",
        "POSTGRES_USER": "user",
        "POSTGRES_PASSWORD": "password",
        "DB_SSLMODE": "sslmode",
        "POSTGRES_SSLMODE": "sslmode",
    },
    {
        "DB_HOST": "host",
        "DB_PORT": "port",
        "DB_NAME": "dbname",
        "DB_USER": "user",
        "DB_PASSWORD": "password",
        "DB_SSLMODE": "sslmode",
    },
)
_DATABASE_URL = "DATABASE_URL"
_BIND = "TIERCEL_BIND"
_WEB_PORT = "WEB_PORT"
# By variable, the one that is composed of it.
_COMPOSED = {**{name: _DATABASE_URL for family in DATABASE_FAMILIES for name in family}, _WEB_PORT: _BIND}

_NO_SQLITE = "SQLite is not supported; unless another database is configured, the embedded PostgreSQL is used"
_NO_REDIS = "caches are in memory and the queue of jobs is in the database; throttle.backend may name a Redis"
# Variables that other services of this kind have, or documents about them name, and why they do nothing here.
WITHOUT_EFFECT: Mapping[str, str] = {
    "API_BASE_URL": "links in responses begin with the scheme and the host of the request",
    "CELERY_BROKER_URL": _NO_REDIS,
    "CELERY_RESULT_BACKEND": _NO_REDIS,
    "DJANGO_SETTINGS_MODULE": "settings are read from the environment, .env and config/tiercel.toml",
    "FORCE_SQLITE": _NO_SQLITE,
    "POSTGRES_TEST_DB": "tests make databases of their own",
    "REDIS_URL": _NO_REDIS,
}
# How similar two variables must be for one to be taken for the other: names of other programs must not be.
_SIMILAR_VARIABLES = 0.85


# --- sources --------------------------------------------------------------------------------------------------------


class EnvironmentSource(msgspec.Struct, frozen=True):
    """Variables of the process or of ``.env``, and those that are composed of several others.

    Args:
        place: ``environment`` or ``.env``.
        values: Text by variable, composed ones included.
        composed_of: For a composed variable, the variables that were set, with the place of each.
        unusable: For a variable whose value cannot be used, and is not in ``values``: why.
    """

    place: str
    values: Mapping[str, str]
    composed_of: Mapping[str, Mapping[str, str]] = {}
    unusable: Mapping[str, str] = {}

    def parts(self, name: str) -> Mapping[str, str]:
        """Return the variables that make up a variable, itself unless it is composed, with their places."""
        return self.composed_of.get(name, {name: self.place})

    def origin(self, name: str) -> str:
        """Return where the value of a variable comes from, for people."""
        by_place: dict[str, list[str]] = {}
        for part, place in self.parts(name).items():
            by_place.setdefault(place, []).append(part)
        return ", ".join(f"{place} {', '.join(names)}" for place, names in by_place.items())

    def own_names(self) -> list[str]:
        """Return the names that can only be meant for Tiercel."""
        return [name for name in self.values if name.startswith(PREFIX) and not name.startswith(_NOT_SETTINGS)]

    def set_names(self) -> list[str]:
        """Return the names that are set to something; an empty variable counts as unset."""
        composed = self.composed_of.keys()
        return [*(name for name, value in self.values.items() if value and name not in composed), *self.unusable]


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


def read_environments(places: Mapping[str, Mapping[str, str]]) -> tuple[EnvironmentSource, ...]:
    """Make sources of environment variables.

    Where other deployments spread a setting over several variables, it is composed of them: ``POSTGRES_HOST`` and its
    siblings, or ``DB_HOST`` and its siblings, make ``DATABASE_URL``; ``WEB_PORT`` makes ``TIERCEL_BIND``.

    Args:
        places: Text by variable, by the place that sets it, in order of precedence.
    """
    # Parts may be spread over the places: the password in the environment, and the rest in .env.
    parts = {
        name: (place, values[name])
        for place, values in reversed(list(places.items()))
        for name in values
        if values[name]
    }
    return tuple(_read_environment(place, values, parts) for place, values in places.items())


def _read_environment(place: str, values: Mapping[str, str], parts: Mapping[str, tuple[str, str]]) -> EnvironmentSource:
    composed: dict[str, str] = {}
    composed_of: dict[str, Mapping[str, str]] = {}
    unusable: dict[str, str] = {}
    if values.get(_DATABASE_URL, "").startswith("sqlite"):
        # As templates of .env for development have it. In TIERCEL_DATABASE_URL, which is meant for this service, it is
        # an error.
        unusable[_DATABASE_URL] = _NO_SQLITE
        values = {name: value for name, value in values.items() if name != _DATABASE_URL}
    family = _choose_database_family(values)
    if family is not None:
        names = [name for name in family if name in parts]
        composed[_DATABASE_URL] = make_conninfo("", **{family[name]: parts[name][1] for name in names})
        composed_of[_DATABASE_URL] = {name: parts[name][0] for name in names}
    if values.get(_WEB_PORT):
        composed[_BIND] = f"127.0.0.1:{values[_WEB_PORT]}"
        composed_of[_BIND] = {_WEB_PORT: place}
    # A variable that is set wins over the composed one; an empty one counts as unset.
    composed = {name: value for name, value in composed.items() if not values.get(name)}
    return EnvironmentSource(place, {**values, **composed}, {name: composed_of[name] for name in composed}, unusable)


def _choose_database_family(values: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the family that names a host, or else one that names a database: ``POSTGRES_*`` before ``DB_*``."""
    for parameter in ("host", "dbname"):
        for family in DATABASE_FAMILIES:
            if any(values.get(name) for name, sets in family.items() if sets == parameter):
                return family
    return None


def _read_dotenv(directory: Path) -> Mapping[str, str]:
    path = directory / ".env"
    pairs = dotenv_values(path, interpolate=False) if path.is_file() else {}
    return {name: value for name, value in pairs.items() if value is not None}


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


class UnusedVariables(msgspec.Struct, frozen=True):
    """Variables that are set, and have no effect.

    Args:
        place: ``environment`` or ``.env``.
        variables: Their names.
        reason: Why.
    """

    place: str
    variables: tuple[str, ...]
    reason: str


class _Found(msgspec.Struct, frozen=True):
    """A value that a source has for a key. Text of the environment is converted leniently, values of TOML strictly."""

    raw: Any
    origin: str
    strict: bool
    variables: frozenset[str] = frozenset()


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
        # The key of each variable that sets one, and the variables that set a key.
        self._known_variables: dict[str, str] = {}
        self._used_variables: dict[str, frozenset[str]] = {}
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

    def with_variables(self, place: str, values: Mapping[str, str]) -> Configuration:
        """Return this configuration with further variables, which take precedence over every other source."""
        environments = (EnvironmentSource(place, values), *self._environments)
        return Configuration(environments, self._file, self._defaults)

    def unused_variables(self) -> tuple[UnusedVariables, ...]:
        """Return the variables that are set and have no effect, although they are meant for this service, or may be.

        Call it when the tables of the plugins are decoded: until then their variables are not known. Variables that
        begin with ``TIERCEL_`` and set nothing are errors instead: see ``ensure_known_keys``.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for source in self._environments:
            for name in source.set_names():
                reason = source.unusable.get(name) or WITHOUT_EFFECT.get(name) or self._unused_reason(name)
                if reason is not None:
                    found.setdefault((source.place, reason), []).append(name)
        return tuple(UnusedVariables(place, tuple(names), reason) for (place, reason), names in found.items())

    def _unused_reason(self, name: str) -> str | None:
        key = self._known_variables.get(_COMPOSED.get(name, name))
        if key is None:
            nearest = None if name.startswith(PREFIX) else self._nearest_variable(name)
            return f"there is no such variable{suggest(nearest)}" if nearest is not None else None
        used = self._used_variables.get(key, frozenset())
        # A variable of the environment is meant to replace the same one in .env.
        if name in used:
            return None
        if used:
            return f"{self._entries[key].origin} takes precedence"
        return "no host and no name of a database is set"

    def _nearest_variable(self, name: str) -> str | None:
        """Return the variable that a name of another spelling stands for: ``POSTGRES_PASS``, ``DATABSE_URL``."""
        known = self._known_variables.keys() | _COMPOSED.keys()
        head, _, rest = name.partition("_")
        siblings = {other.partition("_")[2]: other for other in known if other.startswith(f"{head}_")}
        near = nearest_name(rest, siblings) if rest and siblings else None
        if near is not None:
            return siblings[near]
        # A process may have hundreds of variables: compare in full only where a slip would leave an end intact.
        candidates = [other for other in known if other[:3] == name[:3] or other[-3:] == name[-3:]]
        return nearest_name(name, candidates, _SIMILAR_VARIABLES)

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
            wrong = f"{self._file.place}: {name}: unknown key; no plugin has a table of this name"
            self._problems.append(wrong + did_you_mean(name, {*tables, *struct_fields(Settings)}))
        for source in self._environments:
            for variable in source.own_names():
                if variable not in self._known_variables and _table_of(variable) not in tables:
                    hint = did_you_mean(variable, self._known_variables)
                    self._problems.append(f"{source.place} {variable}: unknown setting{hint}")
        self._raise_problems()

    def _tables_in_file(self) -> set[str]:
        return set(self._file.values) - struct_fields(Settings).keys()

    def _raise_problems(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            # Most quote the wrong value.
            raise ConfigError([mask_text(each) for each in problems])

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
                self._used_variables[key] = found.variables
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
            self._entries[key] = Entry(key, _display(value, name), origin)
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
        self._known_variables |= dict.fromkeys(names, ".".join(path))
        for source in self._environments:
            for name in names:
                # Compose files and templates of .env set variables to nothing that they mean to leave unset; only a
                # list can be empty.
                if source.values.get(name) or (name in source.values and is_sequence(annotation)):
                    used = frozenset(source.parts(name))
                    return _Found(source.values[name], source.origin(name), strict=False, variables=used)
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
            known = struct_fields(kind)
            self._problems.append(
                f"{where}.{name}: unknown key; there are {', '.join(known)}{did_you_mean(name, known)}"
            )

    def _note_secret(self, key: str, value: Secret, origin: str) -> None:
        is_secret = self._has_password(key, value, origin) if key in ("db.url", "db.direct_url") else True
        if is_secret and origin == self._file.place:
            self._written_secrets.append(key)

    def _has_password(self, key: str, url: Secret, origin: str) -> bool:
        if url.reveal().startswith("sqlite"):
            self._problems.append(f"{origin}: SQLite is not supported; leave {key} unset for the embedded PostgreSQL")
            return False
        try:
            parts = conninfo_to_dict(url.reveal())
        except psycopg.ProgrammingError:
            # psycopg's message contains the whole text, password included.
            self._problems.append(f"{origin}: {key}: Expected postgresql://user:password@host:port/database.")
            return False
        # A password with @ or / ends too early; what is left of it would be shown wherever the host is.
        hosts, ports = str(parts.get("host", "")), str(parts.get("port", ""))
        if "@" in hosts.removeprefix("@") or not re.fullmatch(r"[0-9,]*", ports):
            self._problems.append(
                f"{origin}: {key}: Expected a host and a numeric port after the password, in which %, @, : and / are"
                " written as %25, %40, %3A and %2F."
            )
        return "password" in parts


def load(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Configuration:
    """Load the configuration of a service.

    Args:
        environ: Environment variables; those of the process by default.
        directory: Where to look for ``.env`` and ``config/``; the working directory by default.

    Raises:
        ConfigError: A source cannot be read, or holds a wrong key or value.
    """
    folder = directory or Path.cwd()
    environment = os.environ if environ is None else environ
    environments = read_environments({"environment": environment, ".env": _read_dotenv(folder)})
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


def _display(value: object, name: str) -> str:
    shown = mask(value, name)
    return ", ".join(map(str, shown)) if isinstance(value, tuple) else str(shown)
