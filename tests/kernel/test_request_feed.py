"""Subscribers hear of served requests in batches, and no request waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain

import pytest

from kernel.errors import UnavailableError
from kernel.http.access_log import RequestRecord
from kernel.http.request_feed import BATCH_MAX, QUEUE_MAX, FeedStats, RequestFeed
from tests.kernel.fakes import CapturedLog

NOON = datetime(2025, 12, 14, 12, tzinfo=UTC)


class Subscriber:
    """Remembers batches; raises what it is told, one a batch.

    Args:
        failures: Raised in turn before it takes anything.
    """

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.batches: list[list[int]] = []

    def __call__(self, records: Sequence[RequestRecord]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([record.status for record in records])


@pytest.fixture
def feed(captured: CapturedLog) -> RequestFeed:
    return RequestFeed(captured.log)


def put(feed: RequestFeed, numbers: Sequence[int]) -> None:
    """Put records whose status is a number to know them by."""
    for number in numbers:
        feed.put(RequestRecord(NOON, "id", "trace", "GET", "/x", "/x/", number, 0, 0.1))


def test_records_come_in_order_and_in_batches(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    put(feed, range(BATCH_MAX + 5))
    feed.flush()

    assert [len(batch) for batch in subscriber.batches] == [BATCH_MAX, 5]
    assert list(chain(*subscriber.batches)) == list(range(BATCH_MAX + 5))


def test_nothing_is_delivered_when_nothing_waits(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    feed.flush()

    assert not subscriber.batches


def test_every_subscriber_gets_every_record_also_beside_one_that_fails(feed: RequestFeed) -> None:
    first, second = Subscriber(RuntimeError("oops")), Subscriber()
    feed.subscribe("first", first)
    feed.subscribe("second", second)

    put(feed, [1, 2])
    feed.flush()

    assert (first.batches, second.batches) == ([], [[1, 2]])


def test_while_the_database_is_away_records_wait_in_order(feed: RequestFeed) -> None:
    subscriber = Subscriber(UnavailableError("away"))
    feed.subscribe("test", subscriber)
    put(feed, [1, 2])
    feed.flush()
    assert feed.stats() == {"test": FeedStats(delivered=0, dropped=0, waiting=2)}

    put(feed, [3])
    feed.flush()

    assert subscriber.batches == [[1, 2, 3]]
    assert feed.stats() == {"test": FeedStats(delivered=3, dropped=0, waiting=0)}


def test_a_batch_that_cannot_be_stored_is_dropped_and_logged(feed: RequestFeed, captured: CapturedLog) -> None:
    subscriber = Subscriber(ValueError("poison"))
    feed.subscribe("test", subscriber)
    put(feed, range(BATCH_MAX + 1))

    feed.flush()

    assert subscriber.batches == [[BATCH_MAX]]
    assert feed.stats() == {"test": FeedStats(delivered=1, dropped=BATCH_MAX, waiting=0)}
    (line,) = captured.events("request_feed_failed")
    assert (line["subscriber"], line["dropped"]) == ("test", BATCH_MAX)


def test_a_full_queue_drops_the_newest_and_counts_them(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    put(feed, range(QUEUE_MAX + 3))
    assert feed.stats() == {"test": FeedStats(delivered=0, dropped=3, waiting=QUEUE_MAX)}
    feed.flush()

    assert subscriber.batches[-1][-1] == QUEUE_MAX - 1


def test_putting_never_waits_for_a_subscriber(feed: RequestFeed) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(records: Sequence[RequestRecord]) -> None:
        entered.set()
        release.wait(10)

    feed.subscribe("test", hang)
    put(feed, [1])
    feed.start()
    assert entered.wait(5)

    started = time.monotonic()
    put(feed, range(100))
    took_s = time.monotonic() - started
    release.set()
    feed.stop()

    assert took_s < 1


def test_two_who_flush_deliver_nothing_twice(feed: RequestFeed) -> None:
    taken: list[int] = []
    inside = threading.Barrier(2, timeout=0.2)

    def deliver(records: Sequence[RequestRecord]) -> None:
        # Were another one let in at the same time, it would meet us here with the same batch.
        with pytest.raises(threading.BrokenBarrierError):
            inside.wait()
        taken.extend(record.status for record in records)

    feed.subscribe("test", deliver)
    put(feed, [1, 2])
    other = threading.Thread(target=feed.flush)
    other.start()
    feed.flush()
    other.join()

    assert taken == [1, 2]


def test_stopping_delivers_what_waits(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.start()
    feed.subscribe("test", subscriber)
    put(feed, [1])

    feed.stop()

    assert subscriber.batches == [[1]]
    assert not feed.stats()
