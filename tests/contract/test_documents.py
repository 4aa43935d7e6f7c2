"""The documentation and the configuration file say what the code does."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs import generate
from kernel import errors, hookspecs
from kernel.config import DATABASE_FAMILIES, WITHOUT_EFFECT, Configuration, load, read_shipped_file
from kernel.conversion import nested_struct, struct_fields
from kernel.settings import Secret, Settings
from tests.contract.tree import DOCS, README, ROOT, documents
from tests.processes import python_environment

TOML = ROOT / "config/tiercel.toml"
README_LINES_MAX = 150
# A key that is commented out, unlike prose.
_COMMENTED = re.compile(r"^# ?(?=[a-z_]+ = )", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "tiercel_spec")}
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))


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


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = _HEADING.findall(_FENCED.sub("", path.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- the configuration file -----------------------------------------------------------------------------------------


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


def test_the_configuration_file_names_every_further_variable() -> None:
    toml = TOML.read_text()

    assert [name for name in aliases() if not re.search(rf"^# TIERCEL_.*\b{name}\b", toml, re.MULTILINE)] == []


def test_every_variable_of_other_services_is_documented() -> None:
    page = (DOCS / "operations" / "production.md").read_text()
    parts = {name for family in DATABASE_FAMILIES for name in family}

    assert sorted(name for name in WITHOUT_EFFECT if f"`{name}`" not in page) == []
    assert sorted(name for name in parts if not re.search(rf"^# .*\b{name}\b", TOML.read_text(), re.MULTILINE)) == []


def test_no_default_is_a_secret() -> None:
    assert not [key for key, value in every_default().items() if isinstance(value, Secret)]


# --- the reference --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return {path.name: path.read_text() for path in (DOCS / "reference").glob("*.md")}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the project would have if it were generated now, by a process that has run no test."""
    folder = tmp_path_factory.mktemp("generated")
    ran = subprocess.run(
        [sys.executable, "-m", "docs.generate", folder],
        cwd=ROOT, env=python_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    return folder


@pytest.mark.parametrize("folder", [generate.REFERENCE, generate.POSTMAN], ids=["reference", "collection"])
def test_what_is_generated_is_what_the_code_says(generated: Path, folder: Path) -> None:
    files = sorted(path.name for path in (generated / folder).iterdir())

    assert files == sorted(path.name for path in (ROOT / folder).iterdir() if path.suffix in {".md", ".json"})
    for name in files:
        now, kept = ((root / folder / name).read_text() for root in (generated, ROOT))
        assert now.splitlines() == kept.splitlines(), f"{name}: run make docs"


def test_every_setting_is_in_the_reference_with_its_further_variables(reference: dict[str, str]) -> None:
    settings = reference["settings.md"]

    assert [key for key in every_default() if f"| `{key}` |" not in settings] == []
    assert [name for name in aliases() if f"`{name}`" not in settings] == []


def test_every_setting_and_its_meaning_is_in_the_reference(reference: dict[str, str]) -> None:
    rows = [line for line in reference["settings.md"].splitlines() if line.startswith("| `")]

    assert [row for row in rows if not row.split(" | ")[-1].strip(" |")] == []


def test_every_hook_is_in_the_reference_with_its_arguments(reference: dict[str, str]) -> None:
    shown = [f"`{name}({', '.join(inspect.signature(hook).parameters)})`" for name, hook in HOOKS.items()]

    assert len(shown) == 10
    assert [each for each in shown if each not in reference["hooks.md"]] == []


def test_every_hook_has_a_test() -> None:
    tests = importlib.import_module("tests.kernel.test_hooks")

    assert [name for name in HOOKS if not callable(getattr(tests, f"test_hook_{name}", None))] == []


def test_every_error_code_is_in_the_reference(reference: dict[str, str]) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)]

    assert len(kinds) > 10
    assert [kind.code for kind in kinds if f"`{kind.code}`" not in reference["errors.md"]] == []


# --- pages ----------------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {README}
    while new:
        reached |= new
        linked = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in new
            for link in _LINK.findall(_FENCED.sub("", page.read_text()))
            if "://" not in link and link.partition("#")[0].endswith(".md")
        }
        new = linked - reached

    assert sorted(set(documents()) - reached) == []


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in documents():
        for link in _LINK.findall(_FENCED.sub("", page.read_text())):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
                broken.append(f"{page.relative_to(ROOT)}: {link}")

    assert broken == []


def test_every_name_in_the_architecture_is_in_the_code() -> None:
    text = (DOCS / "architecture.md").read_text()
    names = re.findall(r"`((?:kernel|plugins)/[\w/]+)\.py: ([\w.]+)`", text)
    files = re.findall(r"`((?:kernel|plugins|config)/[\w/]+\.(?:py|toml))`", text)
    missing = [name for name in files if not (ROOT / name).exists()]
    for path, name in names:
        thing: Any = importlib.import_module(path.replace("/", "."))
        for part in name.split("."):
            thing = getattr(thing, part, None)
        if thing is None:
            missing.append(f"{path}.py: {name}")

    assert len(names) > 40
    assert missing == []
