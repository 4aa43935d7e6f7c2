"""The README and the configuration file tell what the code does."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel import errors, hookspecs
from kernel.config import Configuration, load, read_shipped_file
from kernel.conversion import nested_struct, struct_fields
from kernel.settings import Secret, Settings
from tests.contract.tree import ROOT

TOML = ROOT / "config/tiercel.toml"
# A key that is commented out, unlike prose.
_COMMENTED = re.compile(r"^# ?(?=[a-z_]+ = )", re.MULTILINE)

HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "tiercel_spec")}
CODES = sorted(
    {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)}
)
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def plugin_settings() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """List the tables of the plugins in the tree."""
    for name in PLUGINS:
        module = importlib.import_module(f"plugins.{name}")
        if hasattr(module, "register_settings"):
            yield name, module.register_settings()


def defaults(kind: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, Any]]:
    """List the keys below a table with their defaults, as TOML has them."""
    for name, field in struct_fields(kind).items():
        inner = nested_struct(field.type)
        if inner is not None:
            yield from defaults(inner, f"{path}{name}.")
        else:
            made = field.default_factory() if callable(field.default_factory) else field.default
            value = list(made) if isinstance(made, tuple) else made
            yield path + name, str(value) if isinstance(value, Path) else value


def flat(table: dict[str, Any], known: set[str], path: str = "") -> dict[str, Any]:
    """Return the keys of a file by dotted path; a table that is a value stays one."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and path + name not in known:
            found |= flat(value, known, f"{path}{name}.")
        else:
            found[path + name] = value
    return found


def every_default() -> dict[str, Any]:
    """Return every key of kernel and plugins with its default."""
    found = dict(defaults(Settings))
    for name, kind in plugin_settings():
        found |= defaults(kind, f"{name}.")
    return found


def aliases() -> list[str]:
    """Return every further variable that sets a key of kernel or plugins."""
    tables = [*(field.type for field in struct_fields(Settings).values()), Settings, *dict(plugin_settings()).values()]
    structs = [kind for table in tables if (kind := nested_struct(table)) is not None]
    metas = [getattr(field.type, "__metadata__", ()) for kind in structs for field in struct_fields(kind).values()]
    return sorted({name for meta in metas for each in meta if each.extra for name in each.extra.get("env", ())})


def test_the_configuration_file_names_every_key_and_no_other() -> None:
    expected = every_default()

    written = flat(tomllib.loads(_COMMENTED.sub("", TOML.read_text())), set(expected))

    assert sorted(written) == sorted(expected)


def test_the_configuration_file_shows_the_default_of_every_key_that_has_one() -> None:
    # Of these keys the file itself is the default.
    defaults = {**every_default(), **read_shipped_file().values}
    expected = {key: value for key, value in defaults.items() if value is not None}

    written = flat(tomllib.loads(_COMMENTED.sub("", TOML.read_text())), set(expected))

    assert {key: value for key, value in written.items() if key in expected} == expected


def test_the_configuration_file_sets_nothing_but_the_plugins(tmp_path: Path) -> None:
    configuration: Configuration = load({"TIERCEL_CONFIG": str(TOML)}, tmp_path)
    for name, kind in plugin_settings():
        configuration.table(name, kind)

    assert [entry.key for entry in configuration.entries() if entry.origin != "default"] == ["plugins", "required"]


@pytest.mark.parametrize("alias", aliases())
def test_a_further_variable_of_a_setting_is_documented(alias: str, readme: str) -> None:
    assert f"`{alias}`" in readme
    assert re.search(rf"^# TIERCEL_.*\b{alias}\b", TOML.read_text(), re.MULTILINE)


def test_no_default_is_a_secret() -> None:
    assert not [key for key, value in every_default().items() if isinstance(value, Secret)]


def test_all_nine_hooks_are_looked_at() -> None:
    assert len(HOOKS) == 9


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_test(name: str) -> None:
    tests = importlib.import_module("tests.kernel.test_hooks")

    assert callable(getattr(tests, f"test_hook_{name}"))


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_with_its_arguments(name: str, readme: str) -> None:
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)

    assert f"`{name}({arguments})`" in readme


@pytest.mark.parametrize("code", CODES)
def test_the_code_of_an_error_is_documented(code: str, readme: str) -> None:
    assert f"`{code}`" in readme


@pytest.mark.parametrize("key", every_default())
def test_a_setting_is_documented(key: str, readme: str) -> None:
    assert key.rpartition(".")[2] in readme
