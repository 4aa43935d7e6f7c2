"""What accounts use of their plans: counted for all processes, by UTC day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from kernel.errors import QuotaExceededError, UnavailableError
from kernel.identity import OPEN, acting_as
from kernel.limits.usage import Usage
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import CapturedLog, make_identity
from tests.outage import outage
from tests.processes import eventually


class Clock:
    """An hour before midnight."""

    def __init__(self) -> None:
        self.time = datetime(2026, 5, 4, 23, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


LIMITED = make_identity("read", account=5, limits={"requests": 3})


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service, for its database."""
    return serve()


def make_usages(client: Client, captured: CapturedLog, count: int, clock: Clock) -> list[Usage]:
    """Make the counters of several processes."""
    return [Usage(client.service.db, captured.log, clock.now) for _ in range(count)]


def used(usage: Usage, account: int = 5, **more: Any) -> int:
    return usage.show(account, {}, **more).units["requests"].used


def test_what_a_plan_does_not_allow_is_refused(client: Client, captured: CapturedLog) -> None:
    (usage,) = make_usages(client, captured, 1, Clock())
    usage.add_for(LIMITED, "requests", 2)
    with pytest.raises(QuotaExceededError) as caught:
        usage.add_for(LIMITED, "requests", 2)
    # What was refused is not counted.
    usage.add_for(LIMITED, "requests", 1)
    usage.add_for(LIMITED, "events", 10**12)

    error = caught.value
    assert (error.status, error.code) == (429, "quota_exceeded")
    assert error.extra == {"unit": "requests", "limit": 3, "used": 2, "reset_s": 3600}
    assert error.headers["Retry-After"] == "3600"
    assert error.headers["ratelimit"] == '"requests";r=1;t=3600'
    assert used(usage) == 3


def test_processes_and_restarts_share_what_is_used(client: Client, captured: CapturedLog) -> None:
    one, other, later = make_usages(client, captured, 3, Clock())
    one.add_for(LIMITED, "requests", 2)
    other.add_for(LIMITED, "requests", 1)
    for usage in (one, other):
        usage.flush()

    # As of the flush, or read at the first request.
    for usage in (other, later):
        with pytest.raises(QuotaExceededError):
            usage.add_for(LIMITED, "requests", 1)
    # The first one has not flushed since: its bound of overshoot.
    one.add_for(LIMITED, "requests", 1)
    one.flush()
    with pytest.raises(QuotaExceededError):
        one.add_for(LIMITED, "requests", 1)
    assert used(later) == 4
    assert used(later, account=6) == 0


def test_the_next_day_begins_anew(client: Client, captured: CapturedLog) -> None:
    clock = Clock()
    (usage,) = make_usages(client, captured, 1, clock)
    usage.add_for(LIMITED, "requests", 3)
    clock.time += timedelta(hours=1)

    usage.add_for(LIMITED, "requests", 1)

    usage.flush()
    today = usage.show(5, {"requests": 3})
    assert (today.day, today.resets_at) == (date(2026, 5, 5), datetime(2026, 5, 6, tzinfo=UTC))
    assert (today.units["requests"].used, today.units["requests"].limit) == (1, 3)
    assert used(usage, day=date(2026, 5, 4)) == 3


def test_without_a_database_nothing_is_lost(client: Client, captured: CapturedLog, database: str) -> None:
    (usage,) = make_usages(client, captured, 1, Clock())
    with outage(database):
        usage.add_for(LIMITED, "requests", 2)
        for _ in range(2):
            usage.try_flush()
        with pytest.raises(UnavailableError):
            usage.flush()
        usage.add_for(LIMITED, "requests", 1)
        with pytest.raises(QuotaExceededError):
            usage.add_for(LIMITED, "requests", 1)

    def is_stored() -> bool:
        usage.try_flush()
        return bool(captured.events("usage_stored"))

    # The pool notices a little later that the database is back.
    assert eventually(is_stored)

    assert used(make_usages(client, captured, 1, Clock())[0]) == 3
    assert len(captured.events("usage_not_stored")) == 1
    assert len(captured.events("usage_stored")) == 1


def test_only_accounts_are_counted(client: Client, captured: CapturedLog) -> None:
    (usage,) = make_usages(client, captured, 1, Clock())
    usage.add("requests", 1)
    with acting_as(OPEN):
        usage.add("requests", 1)
    with acting_as(LIMITED):
        usage.add("requests", 1)

    assert (used(usage), used(usage, account=0)) == (1, 0)


def test_what_was_used_long_ago_is_removed(client: Client, captured: CapturedLog) -> None:
    clock = Clock()
    (usage,) = make_usages(client, captured, 1, clock)
    usage.add_for(LIMITED, "requests", 1)
    usage.flush()
    clock.time += timedelta(days=400)
    usage.remove_old()
    assert used(usage, day=date(2026, 5, 4)) == 1

    clock.time += timedelta(days=1)
    usage.remove_old()

    assert used(usage, day=date(2026, 5, 4)) == 0
