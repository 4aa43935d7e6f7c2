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


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="[LABEL | PATH | OPTION]...", nargs=-1, type=click.UNPROCESSED)
def test(arguments: tuple[str, ...]) -> None:
    """Run all tests of the working directory with pytest, or those of LABELs: PLUGIN[.tests][.CLASS[.METHOD]].

    Options and paths are passed on to pytest.
    """
    if importlib.util.find_spec("pytest") is None:
        raise TiercelError("tests are run by pytest, which is not installed: pip install pytest")
    selected = [part for argument in arguments for part in _select(argument, Path())]
    code = subprocess.run([sys.executable, "-m", "pytest", *selected], check=False).returncode
    if code == _NO_TESTS_COLLECTED:
        raise TiercelError("no test was found")
    sys.exit(code)


def _select(argument: str, folder: Path) -> Sequence[str]:
    """Return the arguments of pytest for one of ours."""
    if argument.startswith("-") or (folder / argument.partition("::")[0]).exists():
        return [argument]
    parts = argument.split(".")
    for count in range(len(parts), 0, -1):
        if paths := find_tests(parts[:count], folder):
            names = parts[count + 1 :] if parts[count : count + 1] == ["tests"] else parts[count:]
            return [*map(str, paths), *(("-k", " and ".join(names)) if names else ())]
    raise click.UsageError(
        f"there are no tests of {argument}; of {parts[0]} they would be in "
        f"{', '.join(_places(parts[:1]))}; or name a path"
    )


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
