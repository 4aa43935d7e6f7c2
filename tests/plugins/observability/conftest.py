"""Fixtures: databases and services on the engines that a test is marked with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kernel.testing import Client, make_configuration, running
from tests.conftest import Serve
from tests.plugins.observability.engines import (
    DEFAULT_ENGINES,
    RUNS_ALL_ENGINES,
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test with many cases, run each on the embedded server, and every third on the other engine."""
    if RUNS_ALL_ENGINES:
        return
    on_embedded = {_test_of(item) for item in items if _engine_of(item) in DEFAULT_ENGINES}
    seen: Counter[tuple[str, object]] = Counter()
    left_out = set()
    for item in items:
        test, engine = _test_of(item), _engine_of(item)
        if test not in on_embedded or engine in (None, *DEFAULT_ENGINES, "timescale_server_engine"):
            continue
        if seen[test, engine] % 3:
            left_out.add(item)
        seen[test, engine] += 1
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _test_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _engine_of(item: pytest.Item) -> object:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return parameters.get("engine")


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
