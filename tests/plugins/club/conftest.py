"""Fake APIs, and what fetches from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.club.fake_api import FakeApi, running_api


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A community API."""
    with running_api() as started:
        yield started


@pytest.fixture
def other_api() -> Iterator[FakeApi]:
    """Another one, at another address."""
    with running_api() as started:
        yield started
