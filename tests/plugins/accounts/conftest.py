"""A service that authenticates, and keys to use it with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.testing import Client
from tests.conftest import Serve, service_starter


@pytest.fixture(scope="module")
def client(module_database: str) -> Iterator[Client]:
    """A service in mode ``required``, shared by the tests of a file."""
    with service_starter({"url": module_database}) as start:
        yield start(auth="required")


@pytest.fixture
def own_client(serve: Serve) -> Client:
    """A service in mode ``required`` with a database of its own."""
    return serve(auth="required")
