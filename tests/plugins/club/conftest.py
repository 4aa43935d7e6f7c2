"""Fake APIs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.club.fakes import FakeApi, running_api


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A community API."""
    with running_api() as started:
        yield started


@pytest.fixture
def other_api() -> Iterator[FakeApi]:
    """A second community API, on another port."""
    with running_api() as started:
        yield started
