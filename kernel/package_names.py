"""The packages of this distribution are ``kernel``, ``plugins`` and ``contrib``: names that others may have as well.

Python imports a package from the first entry of ``sys.path`` that has it, and pip lets one distribution overwrite the
files of another. Neither says a word, and what fails afterwards does not name the cause. This module does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path

from kernel.errors import BootError

DISTRIBUTION = "tiercel"
PACKAGE_NAMES = ("kernel", "plugins", "contrib")
_OWN_DIRECTORY = Path(__file__).resolve().parent.parent


@cache
def own_version() -> str:
    """Return the version of this distribution."""
    return version(DISTRIBUTION)


def ensure_own_packages() -> None:
    """Ensure that imports find the packages of this distribution, and not others of the same names.

    Raises:
        BootError: They find another one; says where it is.
    """
    for name in PACKAGE_NAMES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise BootError(f"the package {name!r} is missing in {_OWN_DIRECTORY}: install {DISTRIBUTION} anew")
        found = Path(spec.origin).resolve().parent
        if found != _OWN_DIRECTORY / name:
            raise BootError(
                f"the package {name!r} of {DISTRIBUTION} is hidden by {found}, which comes first in sys.path:"
                " rename that, or take its directory out of PYTHONPATH, or start in another directory"
            )


def describe_other_owners(working_directory: Path) -> tuple[str, ...]:
    """Say who else has packages of these names, a sentence each.

    Args:
        working_directory: Where the service was started; gunicorn and ``python -m`` import from it first.
    """
    return (*_other_distributions(), *_other_directories(working_directory))


def _other_distributions() -> Iterator[str]:
    described: set[str] = set()
    for distribution in distributions():
        # The text is searched as it is: parsing it, for every file of every distribution, takes half a second.
        record = "\n" + (distribution.read_text("RECORD") or "")
        names = [name for name in PACKAGE_NAMES if f"\n{name}/" in record]
        if names and distribution.name != DISTRIBUTION and distribution.name not in described:
            described.add(distribution.name)
            yield (
                f"the distribution {distribution.name} {distribution.version} also installs {' and '.join(names)}:"
                f" install it into another environment, and {DISTRIBUTION} anew"
            )


def _other_directories(working_directory: Path) -> Iterator[str]:
    for directory in dict.fromkeys(entry.resolve() for entry in (*map(Path, sys.path), working_directory)):
        # Without __init__.py, it hides no package that has one, wherever that is.
        names = [name for name in PACKAGE_NAMES if (directory / name / "__init__.py").is_file()]
        if names and directory != _OWN_DIRECTORY:
            yield (
                f"{directory} has packages {' and '.join(names)} too: they hide those of {DISTRIBUTION} where that"
                " directory comes first in sys.path, as gunicorn and python -m put the working directory"
            )
