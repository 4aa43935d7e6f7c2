"""The migrations of the queue: files of the package procrastinate, applied by us into a schema of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kernel.db.migrations import Migration, kernel_migrations
from kernel.errors import BootError

PACKAGE = "procrastinate"


def base_migrations() -> tuple[Migration, ...]:
    """List the migrations that come before those of plugins: the queue's, then the kernel's own."""
    return (*queue_migrations(), *kernel_migrations())


def queue_migrations() -> tuple[Migration, ...]:
    """List procrastinate's migrations, in order."""
    # Found, not imported: nothing else of the package is needed, and importing it takes a while.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BootError(f"the package {PACKAGE} is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "sql" / "migrations"
    return tuple(Migration(PACKAGE, path, schema=PACKAGE) for path in sorted(folder.glob("*.sql")))
