"""Where settings come from: the environment, ``.env`` and one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from dotenv import dotenv_values
from psycopg.conninfo import make_conninfo

from kernel.errors import ConfigError

PREFIX = "TIERCEL_"
CONFIG_VARIABLE = "TIERCEL_CONFIG"
DEFAULT_CONFIG = Path("config/tiercel.toml")
# Not settings: where the file of settings is, and what only the project's own tests read.
NOT_SETTINGS = (CONFIG_VARIABLE, "TIERCEL_TEST_")

_POSTGRES_PARTS = {
    "POSTGRES_HOST": "host",
    "POSTGRES_PORT": "port",
    "POSTGRES_DB": "dbname",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "password",
    "DB_SSLMODE": "sslmode",
}


class EnvironmentSource(msgspec.Struct, frozen=True):
    """Variables of the process or of ``.env``, with those made up from several under the name they stand for.

    Args:
        place: ``environment`` or the path of the file, for people.
        values: Text by variable name.
        shown: For a made-up variable, the variables it was made from.
    """

    place: str
    values: Mapping[str, str]
    shown: Mapping[str, str] = {}

    def origin(self, name: str) -> str:
        """Say for people where a variable stands."""
        return f"{self.place} {self.shown.get(name, name)}"

    def canonical(self) -> list[str]:
        """Return the names that can only be meant for Tiercel."""
        return [name for name in self.values if name.startswith(PREFIX) and not name.startswith(NOT_SETTINGS)]


class FileSource(msgspec.Struct, frozen=True):
    """The tables of the TOML file."""

    place: str
    values: Mapping[str, Any]


def environment(values: Mapping[str, str], place: str = "environment") -> EnvironmentSource:
    """Wrap environment variables and make up the ones that older deployments spread over several.

    ``POSTGRES_HOST`` and its siblings become a connection string, ``WEB_PORT`` an address to bind.
    """
    made: dict[str, str] = {}
    shown: dict[str, str] = {}
    if values.get("POSTGRES_HOST") or values.get("POSTGRES_DB"):
        used = [name for name in _POSTGRES_PARTS if values.get(name)]
        made["DATABASE_URL"] = make_conninfo("", **{_POSTGRES_PARTS[name]: values[name] for name in used})
        shown["DATABASE_URL"] = ", ".join(used)
    if values.get("WEB_PORT"):
        made["TIERCEL_BIND"] = f"127.0.0.1:{values['WEB_PORT']}"
        shown["TIERCEL_BIND"] = "WEB_PORT"
    # An empty variable counts as unset, also beside those that stand for it.
    made = {name: value for name, value in made.items() if not values.get(name)}
    return EnvironmentSource(place, {**values, **made}, {name: shown[name] for name in made})


def dotenv(directory: Path) -> EnvironmentSource:
    """Read ``.env`` of a directory; nothing if there is none."""
    path = directory / ".env"
    if not path.is_file():
        return EnvironmentSource(str(path), {})
    pairs = dotenv_values(path, interpolate=False)
    return environment({name: value for name, value in pairs.items() if value is not None}, ".env")


def toml(environ: EnvironmentSource, local: EnvironmentSource, directory: Path) -> FileSource:
    """Read the file that ``TIERCEL_CONFIG`` names, or ``config/tiercel.toml`` if it is there.

    Raises:
        ConfigError: The named file is missing, unreadable or no TOML.
    """
    named = environ.values.get(CONFIG_VARIABLE) or local.values.get(CONFIG_VARIABLE)
    path = directory / (named or DEFAULT_CONFIG)
    if not named and not path.is_file():
        return FileSource(str(DEFAULT_CONFIG), {})
    shown = named or str(DEFAULT_CONFIG)
    try:
        return FileSource(shown, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as ex:
        raise ConfigError([f"{shown}: cannot be read: {ex}"]) from ex
    except tomllib.TOMLDecodeError as ex:
        raise ConfigError([f"{shown}: is no TOML: {ex}"]) from ex
