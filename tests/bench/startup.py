"""Time from ``tiercel up`` on an installed clone to the first 200 on ``/readyz``, demo data included."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.figures import Figure
from tests.bench.service import service


def figures(full: bool) -> Iterator[Figure]:
    """Measure the first start: the database is initialised, migrated and filled."""
    with service("up") as running:
        yield Figure("first start until ready", running.ready_s, 5.0, "at most", "s")
