"""What asks the fake Notion, without an export around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kernel import Database
from kernel.settings import Secret
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.budget import RequestBudget
from plugins.trace.settings import TraceSettings
from tests.notion.server import FakeNotion
from tests.plugins.trace.exports import PATIENCE


class GaveUpError(Exception):
    """Whoever waited was told to stop."""


class Waits:
    """Waits for no time at all, and remembers for how long it should have.

    Args:
        most_s: Whoever is asked to wait longer gives up.
    """

    def __init__(self, most_s: float = 1.0) -> None:
        self.most_s = most_s
        self.asked_s: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Wait."""
        if seconds:
            self.asked_s.append(seconds)
        if seconds > self.most_s:
            raise GaveUpError


def make_budget(db: Database, token: str, wait: Callable[[float], None], **given: Any) -> RequestBudget:
    """Make the budget of a token, with a pace that holds nobody up unless another is given."""
    values = {"per_minute": 600_000, "burst": 1000, "wait_max_s": 300.0, **given}
    return RequestBudget(db, Secret(token), wait=wait, **values)


@contextmanager
def asking(
    db: Database,
    notion: FakeNotion,
    wait: Callable[[float], None] | None = None,
    pace: Mapping[str, int] | None = None,
    **given: Any,
) -> Iterator[NotionApi]:
    """Make what asks Notion, as impatient as a test may be.

    Args:
        db: Has the budget.
        notion: Whom to ask.
        wait: Sleeps; for no time by default.
        pace: Of the budget.
        **given: Further settings.
    """
    wait = wait or Waits()
    values = {**PATIENCE, "api_url": notion.url, "token": Secret(notion.token), **given}
    settings = TraceSettings(**values)
    budget = make_budget(db, notion.token, wait, wait_max_s=settings.retry_wait_max_s, **(pace or {}))
    api = NotionApi(settings, budget, wait, lambda reason: None)
    try:
        yield api
    finally:
        api.close()
