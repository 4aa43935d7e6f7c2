"""Ingest, against a plain bulk endpoint of Django REST Framework on the same server and the same gunicorn settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg

from kernel.testing import create_database
from tests.bench.figures import Figure, in_turn
from tests.bench.load import bodies, post
from tests.bench.service import Service, bare, service
from tests.processes import ROOT, python_environment

BATCH = 1_000
CONNECTIONS = 4
# As many for both: indexes get slower as they grow.
EVENTS = 100_000
ROUNDS = 3


def figures(full: bool) -> Iterator[Figure]:
    """Measure batches of 1,000."""
    content = bodies(40, BATCH)
    with service() as running:
        conninfo = create_database(running.conninfo, "drf")
        environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.drf.settings", "BENCH_DRF_DATABASE": conninfo}
        _create_table(environment)
        with bare("tests.bench.drf.wsgi:application", **environment) as port:
            _post_reference(port, content, conninfo)
            ratio, ours, reference = in_turn(
                lambda: _post(running, content), lambda: _post_reference(port, content, conninfo), ROUNDS
            )
    detail = f"{ours:,.0f} events/s, {reference:,.0f} through Django REST Framework"
    yield Figure("ingest, batches of 1,000, against Django REST Framework", ratio, 30, detail=detail)


def _create_table(environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity=0"],
        cwd=ROOT,
        env={**python_environment(), **environment},
        check=True,
    )


def _post(running: Service, content: list[bytes]) -> float:
    running.empty()
    return post(running.port, content, BATCH, connections=CONNECTIONS, events=EVENTS)


def _post_reference(port: int, content: list[bytes], conninfo: str) -> float:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE api_request")
    return post(port, content, BATCH, connections=CONNECTIONS, events=EVENTS)
