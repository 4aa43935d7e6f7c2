"""Fixtures: databases and services on the engines that a test is marked with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kernel.testing import Client, make_configuration, running
from tests.conftest import Serve
from tests.plugins.observability.engines import (
    DEFAULT_ENGINES,
    TIMESCALE_URL,
    TestedEngine,
    apache_engine,
    choose_engines,
    embedded_engine,
    engine,
    oldest_engine,
    pgbouncer_engine,
    timescale_engine,
    timescale_server_engine,
)

__all__ = [
    "apache_engine",
    "embedded_engine",
    "engine",
    "oldest_engine",
    "pgbouncer_engine",
    "timescale_engine",
    "timescale_server_engine",
]
# Not skipped: nothing may be where CI runs.
collect_ignore = [] if TIMESCALE_URL else ["test_timescale_server.py"]
QUIET = {"log": {"level": "error", "requests": False}, "observability": {"log_own_requests": False}}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has a database on the engines that it is marked with; without a mark on the embedded one."""
    if "engine" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("engines")
        engines = choose_engines(metafunc.definition.nodeid, mark.args) if mark else DEFAULT_ENGINES
        metafunc.parametrize("engine", engines, indirect=True, scope="session")


@pytest.fixture
def database(engine: TestedEngine) -> Iterator[str]:
    """How to connect to a fresh, migrated database."""
    with engine.database() as url:
        yield url


@pytest.fixture(scope="module")
def module_database(engine: TestedEngine) -> Iterator[str]:
    """As ``database``, but one for all tests of a file."""
    with engine.database() as url:
        yield url


@pytest.fixture(scope="module")
def shared(engine: TestedEngine, module_database: str) -> Iterator[Client]:
    """A service that all tests of a file share, for those that do not mind what is there."""
    with running(make_configuration(db=engine.settings(module_database), **QUIET)) as client:
        yield client


@pytest.fixture
def db_settings(engine: TestedEngine, database: str) -> Mapping[str, Any]:
    """The table ``db`` of a configuration that uses the test's database."""
    return engine.settings(database)


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """As everywhere, but without events of the service's own requests, unless they are asked for."""

    def start(clock: Any = None, **values: Any) -> Client:
        observability = {"log_own_requests": False, **values.pop("observability", {})}
        return serve(clock, observability=observability, **values)

    return start


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service on the test's database."""
    return serve(**QUIET)
