"""A typed route of the kernel, against a bare route of Falcon on the same gunicorn settings."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk
from tests.bench.service import bare, service

ROUNDS = 7
SMALL_PLUGIN = "tests.bench.small"


def figures(full: bool) -> Iterator[Figure]:
    """Measure a route that returns a small dict."""
    with (
        service(TIERCEL_PLUGINS=f"system,observability,{SMALL_PLUGIN}") as running,
        bare("tests.bench.bare:app") as port,
    ):
        wrk(running.port, "/small", seconds=1)
        wrk(port, "/small", seconds=1)
        ratio, typed, plain = in_turn(lambda: wrk(running.port, "/small"), lambda: wrk(port, "/small"), ROUNDS)
    detail = f"{typed:,.0f} requests/s typed, {plain:,.0f} bare"
    yield Figure("typed route against bare Falcon", ratio, 0.8, detail=detail)
