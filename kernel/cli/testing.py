"""``tiercel test``: run pytest on all tests, or on those of a plugin, a class or a method."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from kernel.errors import TiercelError

# Where the tests of a module are, relative to the working directory: of `acme.hello`, {path} is acme/hello, {folder}
# acme, and {name} hello. The first three are next to it; packages of plugins may be left out of its name.
_PLACES = (
    "{path}/tests",
    "{path}/tests.py",
    "{folder}/test_{name}.py",
    "plugins/{path}/tests",
    "plugins/{path}/tests.py",
    "contrib/{path}/tests",
    "contrib/{path}/tests.py",
    "tests/{path}",
    "tests/plugins/{path}",
    "tests/contrib/{path}",
    "tests/{name}",
    "tests/test_{name}.py",
)
_NO_TESTS_COLLECTED = 5


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("labels", metavar="[LABEL]... [OPTION OF PYTEST]...", nargs=-1, type=click.UNPROCESSED)
def test(labels: tuple[str, ...]) -> None:
    """Run all tests of the working directory with pytest, or those that LABELs select.

    A LABEL is a path, or PLUGIN[.tests][.CLASS[.METHOD]]. Everything from the first option on is passed to pytest.
    """
    if importlib.util.find_spec("pytest") is None:
        raise TiercelError("tests are run by pytest, which is not installed: pip install pytest")
    count = next((index for index, label in enumerate(labels) if label.startswith("-")), len(labels))
    arguments = [*_select(labels[:count], Path()), *labels[count:]]
    code = subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    if code == _NO_TESTS_COLLECTED:
        raise TiercelError("no test was found")
    sys.exit(code)


def _select(labels: Sequence[str], folder: Path) -> Sequence[str]:
    """Return the arguments of pytest for some labels."""
    paths: list[str] = []
    for label in labels:
        found, names = _find_label(label, folder)
        paths += found
        if names:
            if len(labels) > 1:
                raise click.UsageError(f"{label} selects a class: pass it alone")
            return [*paths, "-k", " and ".join(names)]
    return paths


def _find_label(label: str, folder: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Return the paths of a label, and the names of the class and method that it selects in them."""
    if (folder / label.partition("::")[0]).exists():
        return [label], ()
    parts = label.split(".")
    for count in range(len(parts), 0, -1):
        if paths := find_tests(parts[:count], folder):
            names = parts[count + 1 :] if parts[count : count + 1] == ["tests"] else parts[count:]
            return [*map(str, paths)], names
    places = ", ".join(_places(parts[:1]))
    raise click.UsageError(f"{label}: of {parts[0]} there are no tests in {places}")


def find_tests(module: Sequence[str], folder: Path) -> Sequence[Path]:
    """Return the files and folders with the tests of a module, or itself if it is one.

    Args:
        module: The parts of its name, such as ``("acme", "hello")`` or ``("trace", "tests")``.
        folder: The working directory.
    """
    path = Path(*module)
    if module[-1] == "tests" or module[-1].startswith("test_"):
        places = [str(path.with_suffix(".py")), str(path)]
    else:
        places = _places(module)
    return [Path(place) for place in dict.fromkeys(places) if (folder / place).exists()]


def _places(module: Sequence[str]) -> list[str]:
    path = Path(*module)
    return [Path(place.format(path=path, folder=path.parent, name=path.name)).as_posix() for place in _PLACES]
