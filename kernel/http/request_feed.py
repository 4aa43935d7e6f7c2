"""Hand records of served requests to plugins, in batches, without a request ever waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from kernel.errors import UnavailableError
from kernel.http.access_log import RequestRecord
from kernel.logging import Logger

Subscriber = Callable[[Sequence[RequestRecord]], None]
QUEUE_MAX = 20_000
BATCH_MAX = 1_000
INTERVAL_S = 1.0


class FeedStats(msgspec.Struct, frozen=True):
    """Figures since the process started."""

    delivered: int
    dropped: int
    waiting: int


class _Subscription:
    def __init__(self, name: str, deliver: Subscriber, log: Logger) -> None:
        self.name = name
        self._deliver = deliver
        self._log = log
        self._queue: deque[RequestRecord] = deque()
        self._delivering = threading.Lock()
        self.delivered = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, record: RequestRecord) -> None:
        # Full means that the subscriber fails or is slow: the newest go, so that what waits stays in order.
        if len(self._queue) >= QUEUE_MAX:
            self.dropped += 1
        else:
            self._queue.append(record)

    def flush(self) -> None:
        """Deliver what waits. While the database is away a batch stays; any other failure costs it."""
        with self._delivering:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            batch = [self._queue[index] for index in range(min(BATCH_MAX, len(self._queue)))]
            try:
                self._deliver(batch)
            except UnavailableError as ex:
                self._log.warning("request_feed_waits", subscriber=self.name, reason=ex.detail, waiting=self.waiting)
                return
            except Exception:
                self._log.exception("request_feed_failed", subscriber=self.name, dropped=len(batch))
                self.dropped += len(batch)
            else:
                self.delivered += len(batch)
            for _ in batch:
                self._queue.popleft()


class RequestFeed:
    """Collects records and delivers them from a thread of its own.

    Args:
        log: For subscribers that fail.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._subscriptions: list[_Subscription] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def subscribe(self, name: str, deliver: Subscriber) -> None:
        """Ask for every record from now on. Call it from ``startup``.

        Args:
            name: For logs and statistics.
            deliver: Takes up to 1,000 records, in the order they were served. After
                ``UnavailableError`` the same records come again.
        """
        self._subscriptions.append(_Subscription(name, deliver, self._log))

    def put(self, record: RequestRecord) -> None:
        """Take one record; never blocks."""
        for subscription in self._subscriptions:
            subscription.put(record)

    def start(self) -> None:
        """Start delivering. After the fork: threads do not survive one."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="request-feed", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Deliver what waits and stop."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join(timeout_s)
            self._thread = None
        self._subscriptions.clear()

    def flush(self) -> None:
        """Deliver what waits, now."""
        for subscription in self._subscriptions:
            subscription.flush()

    def stats(self) -> dict[str, FeedStats]:
        """Return figures by subscriber."""
        return {sub.name: FeedStats(sub.delivered, sub.dropped, sub.waiting) for sub in self._subscriptions}

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self.flush()
        self.flush()
