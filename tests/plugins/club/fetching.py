"""Factories of sources on a fake API, and shorthands to fetch them."""

from __future__ import annotations

import asyncio
from typing import Any

from plugins.club.fetch.results import Fetched, FetchResult, SourceFailure
from plugins.club.fetch.sources import fetch_all
from plugins.club.settings import ClubSettings, Source
from tests.plugins.club.fakes import FakeApi

# Short for tests, but long enough for a busy machine.
LIMITS = {"timeout_s": 5.0, "total_timeout_s": 15.0, "retries": 2, "retry_wait_s": 0.01, "max_bytes": 1_000_000}


def source(api: FakeApi, path: str = "/metrics", **more: Any) -> Source:
    """Make a source of key figures at a path of a fake API."""
    return Source(**{"url": api.url + path, "dataset": "hero-metrics", **more})


def members(api: FakeApi, path: str = "/members", **more: Any) -> Source:
    """Make a source of members of the feature ``flow``."""
    return source(api, path, **{"dataset": "most-present", "feature": "flow", **more})


def fetch(sources: dict[str, Source], limits: dict[str, Any] | None = None, **more: Any) -> dict[str, FetchResult]:
    """Fetch sources; the environment is empty unless given."""
    settings = ClubSettings(**{**LIMITS, **(limits or {})})
    return asyncio.run(fetch_all(sources, settings, **{"environ": {}, **more}))


def fetch_one(wanted: Source, limits: dict[str, Any] | None = None, **more: Any) -> FetchResult:
    """Fetch a single source."""
    return fetch({"one": wanted}, limits, **more)["one"]


def fetched(wanted: Source, limits: dict[str, Any] | None = None, **more: Any) -> Fetched:
    """Fetch a single source that must succeed."""
    outcome = fetch_one(wanted, limits, **more)
    assert isinstance(outcome, Fetched), outcome
    return outcome


def failed(wanted: Source, limits: dict[str, Any] | None = None, **more: Any) -> SourceFailure:
    """Fetch a single source that must fail."""
    outcome = fetch_one(wanted, limits, **more)
    assert isinstance(outcome, SourceFailure), outcome
    return outcome


def keys(outcome: FetchResult) -> list[str]:
    """Return the keys of the items."""
    assert isinstance(outcome, Fetched), outcome
    return [item.key for item in outcome.items]
