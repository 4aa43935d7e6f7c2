"""A service that the tests of one module share, for those that leave nothing behind or do not mind what is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.db.embedded import EmbeddedServer
from kernel.testing import Client, create_database, drop_database, make_configuration, running


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer, template: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A service on a database of this module's own."""
    name = request.module.__name__.rpartition(".")[2]
    url = create_database(server.conninfo, name, template)
    configuration = make_configuration(
        db={"url": url}, log={"level": "error", "requests": False}, observability={"log_own_requests": False}
    )
    with running(configuration) as client:
        yield client
    drop_database(server.conninfo, name)
