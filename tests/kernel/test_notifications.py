"""Notifications between processes, and polling for those that get lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest

from kernel.notifications import NotificationListener, notify
from tests.kernel.fakes import CapturedLog
from tests.outage import outage
from tests.processes import eventually

# A name that must be quoted.
CHANNEL, OTHER = "test#One", "test_two"
Listen = Callable[..., NotificationListener]


@pytest.fixture
def captured() -> CapturedLog:
    """A log that remembers."""
    return CapturedLog()


@pytest.fixture
def listen(database: str, captured: CapturedLog) -> Iterator[Listen]:
    """Make a listener that stops after the test: ``listen(poll_interval_s=0.2)``."""
    made: list[NotificationListener] = []

    def make(poll_interval_s: float = 60.0) -> NotificationListener:
        made.append(NotificationListener(database, name="test", poll_interval_s=poll_interval_s, log=captured.log))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def send(database: str, *payloads: str, channel: str = CHANNEL) -> None:
    """Send notifications in one transaction."""
    with psycopg.connect(database) as connection:
        for payload in payloads:
            notify(connection, channel, payload)


def test_payloads_that_were_sent_together_are_received_together_in_order(database: str, listen: Listen) -> None:
    received: list[Sequence[str]] = []
    polls: list[None] = []
    listener = listen()
    listener.subscribe(CHANNEL, received.append, poll=lambda: polls.append(None))
    listener.start()
    assert eventually(lambda: len(polls) == 1)

    send(database, "a", "b", "c")

    assert eventually(lambda: [payload for each in received for payload in each] == ["a", "b", "c"])
    assert len(polls) == 1


def test_each_channel_has_its_own_subscriber(database: str, listen: Listen) -> None:
    received: dict[str, list[str]] = {CHANNEL: [], OTHER: []}
    ready: list[None] = []
    listener = listen()
    listener.subscribe(CHANNEL, received[CHANNEL].extend)
    listener.subscribe(OTHER, received[OTHER].extend, poll=lambda: ready.append(None))
    listener.start()
    assert eventually(lambda: bool(ready))

    send(database, "one")
    send(database, "two", channel=OTHER)

    assert eventually(lambda: received == {CHANNEL: ["one"], OTHER: ["two"]})


def test_subscribers_poll_once_an_interval(listen: Listen) -> None:
    polls: list[None] = []
    listener = listen(poll_interval_s=0.15)
    listener.subscribe(CHANNEL, lambda payloads: None, poll=lambda: polls.append(None))
    listener.start()

    assert eventually(lambda: len(polls) >= 3)


def test_after_an_outage_it_reconnects_and_polls(database: str, listen: Listen, captured: CapturedLog) -> None:
    received: list[str] = []
    polls: list[None] = []
    failures: list[Exception] = []
    listener = listen()
    listener.subscribe(CHANNEL, received.extend, poll=lambda: polls.append(None), on_failure=failures.append)
    listener.start()
    assert eventually(lambda: len(polls) == 1)

    with outage(database):
        assert eventually(lambda: len(failures) >= 2)
    assert eventually(lambda: len(polls) == 2)
    send(database, "back")

    assert eventually(lambda: received == ["back"])
    assert len(captured.events("notifications_lost")) == 1


def test_a_subscriber_that_raises_does_not_stop_the_others(
    database: str, listen: Listen, captured: CapturedLog
) -> None:
    received: list[str] = []
    failures: list[Exception] = []
    ready: list[None] = []

    def fail(payloads: Sequence[str]) -> None:
        raise ValueError(payloads[0])

    listener = listen()
    listener.subscribe(CHANNEL, fail, on_failure=failures.append)
    listener.subscribe(OTHER, received.extend, poll=lambda: ready.append(None))
    listener.start()
    assert eventually(lambda: bool(ready))

    send(database, "wrong")
    send(database, "right", channel=OTHER)

    assert eventually(lambda: received == ["right"])
    assert [str(failure) for failure in failures] == ["wrong"]
    assert [entry["channel"] for entry in captured.events("notification_failed")] == [CHANNEL]


def test_it_can_be_stopped_and_started_again(database: str, listen: Listen) -> None:
    received: list[str] = []
    polls: list[None] = []
    listener = listen()
    listener.subscribe(CHANNEL, received.extend, poll=lambda: polls.append(None))
    listener.start()
    assert eventually(lambda: len(polls) == 1)
    listener.stop()
    listener.start()
    assert eventually(lambda: len(polls) == 2)

    send(database, "again")

    assert eventually(lambda: received == ["again"])


def test_a_listener_that_waits_stops_at_once_and_without_a_warning(
    database: str, listen: Listen, captured: CapturedLog
) -> None:
    polls: list[None] = []
    listener = listen()
    listener.subscribe(CHANNEL, lambda payloads: None, poll=lambda: polls.append(None))
    listener.start()
    assert eventually(lambda: len(polls) == 1)
    time.sleep(0.1)
    started_at = time.monotonic()

    listener.stop()

    assert time.monotonic() - started_at < 0.5
    assert captured.events("notifications_lost") == []
