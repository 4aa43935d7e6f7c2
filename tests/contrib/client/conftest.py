"""Fixtures of the client's tests: one service, and an HTTP server in front of it that can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.contrib.client.front import Front
from tiercel_client import Reporter

MakeReporter = Callable[..., Reporter]
# Pauses that a test can wait for.
FAST = {"flush_interval_s": 0.02, "backoff_min_s": 0.02, "backoff_max_s": 0.05, "halt_s": 0.1, "timeout_s": 5.0}


@pytest.fixture(scope="module")
def store(module_serve: Serve) -> Client:
    """A service that the tests of a module share; each sends as another ``service``."""
    return module_serve(observability={"log_own_requests": False})


@pytest.fixture
def front(store: Client) -> Iterator[Front]:
    with Front(store).serving() as served:
        yield served


@pytest.fixture
def reporter(front: Front, request: pytest.FixtureRequest) -> Iterator[MakeReporter]:
    """Make reporters of a service of this test's name; they are closed at its end."""
    made: list[Reporter] = []

    def make(**options: Any) -> Reporter:
        made.append(
            Reporter(**{"url": front.url, "key": "tk_test", "service": request.node.name[:100], **FAST, **options})
        )
        return made[-1]

    yield make
    for each in made:
        with suppress(OSError):
            each.close(0.5)


def stored(client: Client, service: str) -> list[dict[str, Any]]:
    """Return the stored events of a service, oldest first."""
    answer = client.get(f"/api/requests/?service={service}&ordering=time&page_size=1000&count=none")
    found: list[dict[str, Any]] = answer.json()["results"]
    return found
