"""Services to test: one that the tests of a module share, and one on each database engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kernel.db.embedded import EmbeddedServer
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.conftest import Serve
from tests.plugins.observability.engines import (
    TestedEngine,
    apache_engine,
    embedded_engine,
    engine,
    oldest_engine,
    timescale_engine,
    timescale_server_engine,
)
from tests.plugins.observability.inserting import copy_by_statements

__all__ = ["apache_engine", "embedded_engine", "engine", "oldest_engine", "timescale_engine", "timescale_server_engine"]


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer, template: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A service on a database of this module's own, for tests that do not mind what is there."""
    name = request.module.__name__.rpartition(".")[2]
    url = create_database(server.conninfo, name, template)
    configuration = make_configuration(
        db={"url": url}, log={"level": "error", "requests": False}, observability={"log_own_requests": False}
    )
    with running(configuration) as client:
        yield client
    drop_database(server.conninfo, name)


@pytest.fixture
def engine_serve(engine: TestedEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """As ``serve``, on a fresh database of each engine in turn."""
    if engine.one_session:
        copy_by_statements(monkeypatch)
    with ExitStack() as stack:
        url = stack.enter_context(engine.database())

        def start(clock: Any = None, **values: Any) -> Client:
            values.setdefault("log", {"level": "error", "requests": False})
            values.setdefault("observability", {"log_own_requests": False})
            db = {**engine.settings(url), **values.pop("db", {})}
            return stack.enter_context(running(make_configuration(db=db, **values), clock))

        yield start


@pytest.fixture
def engine_client(engine_serve: Serve) -> Client:
    """A service on a fresh database of each engine in turn."""
    return engine_serve()
