"""Imports without a package that what is imported would import, but that nothing here needs of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def without_package(name: str) -> Iterator[None]:
    """Let imports find no package of a name until the block ends, unless it has been imported already.

    Args:
        name: Of a package on which what is imported does not depend.
    """
    if name in sys.modules:
        yield
        return
    # An import of it fails then: https://docs.python.org/3/reference/import.html#the-module-cache
    sys.modules[name] = cast("ModuleType", None)
    try:
        yield
    finally:
        del sys.modules[name]
