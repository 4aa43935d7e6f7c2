"""The reporter: accepts events from any thread, and delivers them from a thread of its own.

    report -> memory ------------------> delivery       without a spool
    report -> memory -> spool ---------> delivery       spool_write="batch": the collector moves them each interval
    report -> spool -------------------> delivery       spool_write="event"

``report`` never waits for the network. Delivery is at least once, and the service stores each ``event_id`` once.
Back-off is a property of the destination: while it lasts, a batch stays where it is, under the same key.
"""

from __future__ import annotations

import atexit
import enum
import os
import random
import sys
import threading
import time as clock
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tiercel_client.delivery import DeliveryError, Destination, Tally, add_bounded
from tiercel_client.events import EventEncoder
from tiercel_client.settings import Settings
from tiercel_client.spool import Segment, Spool

# How long a thread sleeps that nothing but a wake-up concerns.
_LONG_S = 3600.0
_BACKOFF_DOUBLINGS_MAX = 20


class Accepted(enum.IntEnum):
    """What ``report`` did with an event; only ``NO`` is false.

    ``MEMORY``: it is delivered unless the process is killed before, or ends while the service is away. ``SPOOL``: it is
    delivered, and stored exactly once, whatever happens to the process.
    """

    NO = 0
    MEMORY = 1
    SPOOL = 2


@dataclass
class Counters:
    """What became of events, since the process began.

    Without a spool, ``accepted`` is ``sent``, what was ``dropped`` after it was accepted, and what still waits. With
    one, processes also send what others have accepted, which they count as ``recovered``.

    Args:
        accepted: Events that ``report`` took.
        spooled: Events of these that were written to the spool.
        recovered: Events that this process found in the spool, written by another one.
        sent: Events in requests that the service answered for good.
        stored: Events of these that were new.
        duplicate: Events of these that were stored before, by an attempt whose answer was lost.
        rejected: Events of these that the service refused, by reason.
        dropped: Events that were given up, by reason: ``queue_full``, ``closed`` and ``invalid`` before they were
            accepted; ``exit``, ``damaged``, or the status with which their request was refused.
        untagged: Events that lost their tags, which were no JSON or too long.
        hook_errors: Exceptions of hooks.
        failures: Attempts that failed, by reason; the batches are sent again.
    """

    accepted: int = 0
    spooled: int = 0
    recovered: int = 0
    sent: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    untagged: int = 0
    hook_errors: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class _Batch:
    """The head of the queue while it is delivered: it keeps its key over retries."""

    def __init__(self, key: str, lines: list[bytes]) -> None:
        self.key = key
        self.lines = lines


class Reporter:
    """Sends events of a service. It is safe to use from any thread, and after a fork.

    Threads start with the first event of a process. A process that ends without running ``atexit`` handlers, such as a
    child of ``multiprocessing``, calls ``close`` itself.

    Args:
        url: Of the service; as all settings, from a variable ``TIERCEL_CLIENT_...`` if it is not given.
        key: An API key that may send events.
        service: The name under which requests are reported.
        options: Further settings by name; see ``Settings``.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, service: str | None = None, **options: Any
    ) -> None:
        self.settings = Settings.read(url=url, key=key, service=service, **options)
        self._encoder = EventEncoder(self.settings.service, self.settings.event_max_bytes)
        self._warned_at = -_LONG_S
        self._destination: Destination | None = None
        self._spool: Spool | None = None
        self._segment: Segment | None = None
        self._reset()
        if self.settings.url:
            _reporters.add(self)
        elif url is None:
            self._warn("TIERCEL_CLIENT_URL is not set: nothing is reported")

    def _reset(self) -> None:
        """Begin anew, as after a fork: events, locks and threads of the parent are the parent's."""
        settings = self.settings
        self._lock = threading.Lock()
        self._flushed = threading.Condition(self._lock)
        self._move_lock = threading.Lock()
        self._wake_delivery = threading.Event()
        self._wake_collector = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._first_at = 0.0
        self._head: _Batch | None = None
        self._is_head_in_flight = False
        self._counters = Counters()
        self._flush_wanted = self._flush_done = 0
        self._not_before = 0.0
        self._close_by = 0.0
        self._is_told_when = False
        self._failures_in_row = 0
        self._closing = threading.Event()
        if not settings.url:
            self._closing.set()
        self._segment = None
        if settings.url:
            self._destination = Destination(settings)
            if settings.spool_dir:
                self._spool = Spool(
                    settings.spool_dir,
                    (settings.url, settings.site, settings.service),
                    max_bytes=settings.spool_max_bytes,
                    segment_max_bytes=settings.batch_max_bytes,
                    segment_max_events=settings.batch_max_events,
                    fsync=settings.spool_fsync,
                )
        self._spools_each = self._spool is not None and settings.spool_write == "event"
        self._collects = self._spool is not None and not self._spools_each
        # Who moves events out of memory.
        self._wake_mover = self._wake_collector if self._collects else self._wake_delivery

    def forget_parent(self) -> None:
        """Leave all that was inherited through a fork to the parent: its events, its connection, its locks of files."""
        if self._segment is not None:
            self._segment.abandon()
        if self._spool is not None:
            self._spool.abandon()
        if self._destination is not None:
            self._destination.close()
        self._encoder.renew()
        self._reset()

    # --- events -----------------------------------------------------------------------------------------------------

    def report(
        self,
        *,
        endpoint: str,
        method: str,
        status_code: int,
        latency_ms: float | None,
        time: datetime | float | None = None,
        trace_id: str | None = None,
        user_ref: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Accepted:
        """Report a request. This waits for no network; it neither fails nor raises for what is reported.

        Args:
            endpoint: The route's template, such as ``/orders/{id}``.
            method: HTTP method; one that is not registered becomes ``_OTHER``.
            status_code: HTTP status.
            latency_ms: How long it took, in ms; None if that was not measured.
            time: When it began: UTC unless it has an offset, or Unix time in seconds; now by default.
            trace_id: The trace it belongs to.
            user_ref: The user who sent it.
            tags: Further facts, that JSON can hold.

        Returns:
            Where the event is.
        """
        time = clock.time() if time is None else time
        try:
            line, is_tagged = self._encoder.encode(
                time, endpoint, method, status_code, latency_ms, trace_id, user_ref, tags
            )
        except Exception:
            with self._lock:
                self._counters.dropped["invalid"] += 1
            return Accepted.NO
        if not is_tagged:
            with self._lock:
                self._counters.untagged += 1
        if not self._threads:
            self._start()
        if self._spools_each and not self._closing.is_set():
            spool = self._spool
            if spool is not None and spool.append((line,)):
                with self._lock:
                    self._counters.accepted += 1
                    self._counters.spooled += 1
                return Accepted.SPOOL
        return self._queue(line)

    def _queue(self, line: bytes) -> Accepted:
        settings = self.settings
        with self._lock:
            if self._closing.is_set():
                self._counters.dropped["closed"] += 1
                return Accepted.NO
            count = len(self._lines) + 1
            if count > settings.queue_max_events or self._bytes + len(line) > settings.queue_max_bytes:
                self._counters.dropped["queue_full"] += 1
                return Accepted.NO
            self._lines.append(line)
            self._bytes += len(line)
            self._counters.accepted += 1
            if count == 1:
                self._first_at = clock.monotonic()
        if count == 1 or count % settings.batch_max_events == 0:
            self._wake_mover.set()
        return Accepted.MEMORY

    def count_hook_error(self) -> None:
        """Count an exception of a hook."""
        with self._lock:
            self._counters.hook_errors += 1

    def counters(self) -> Counters:
        """Return a copy of the counters."""
        with self._lock:
            found = self._counters
            return replace(
                found,
                rejected=Counter(found.rejected),
                dropped=Counter(found.dropped),
                failures=Counter(found.failures),
            )

    # --- threads ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._threads or self._closing.is_set():
                return
            runs = [self._deliver_forever, self._collect_forever] if self._collects else [self._deliver_forever]
            threads = [threading.Thread(target=run, name="tiercel-client", daemon=True) for run in runs]
            # A process that ends starts no threads; ``close`` delivers without one.
            with suppress(RuntimeError):
                for thread in threads:
                    thread.start()
                    self._threads.append(thread)

    def _collect_forever(self) -> None:
        interval_s = self.settings.flush_interval_s
        # ``close`` moves what is left then.
        while not self._closing.is_set():
            self._wake_collector.wait(_LONG_S)
            self._wake_collector.clear()
            if len(self._lines) < self.settings.batch_max_events:
                # The first of a batch waits for others.
                self._wake_collector.wait(interval_s)
            while self._lines and not self._closing.is_set() and not self._move_to_spool():
                self._closing.wait(min(interval_s, 1.0))

    def _move_to_spool(self) -> bool:
        """Move what is in memory into the spool; return whether all of it is there."""
        spool = self._spool
        if spool is None:
            return False
        with self._move_lock:
            while True:
                with self._lock:
                    if self._is_head_in_flight:
                        return False
                    lines = self._first_lines()
                if not lines:
                    return True
                if not spool.append(lines):
                    return False
                with self._lock:
                    self._discard(len(lines))
                    self._counters.spooled += len(lines)
                    self._head = None

    def _first_lines(self) -> list[bytes]:
        """Return as much of the queue as a batch may have. The lock is held."""
        lines: list[bytes] = []
        size = 0
        for line in self._lines:
            size += len(line) + 1
            if len(lines) == self.settings.batch_max_events or (lines and size > self.settings.batch_max_bytes):
                break
            lines.append(line)
        return lines

    def _discard(self, number: int) -> None:
        """Remove the first events of the queue. The lock is held."""
        for _ in range(number):
            self._bytes -= len(self._lines.popleft())
        self._first_at = clock.monotonic()

    def _deliver_forever(self) -> None:
        while True:
            self._wake_delivery.clear()
            try:
                wait_s = self._deliver_next()
            except Exception as ex:
                wait_s = self._fail(DeliveryError(f"{type(ex).__name__}: {ex}"))
            if wait_s is None:
                break
            if wait_s > 0:
                self._wake_delivery.wait(wait_s)
        if self._destination is not None:
            self._destination.close()

    def _deliver_next(self) -> float | None:
        """Make one attempt if it is time; return how long to wait for the next, None if there is none."""
        is_closing = self._closing.is_set()
        wanted = self._flush_wanted
        is_due = is_closing or wanted > self._flush_done
        if self._spool is not None:
            if is_due:
                self._move_to_spool()
            self._spool.seal(0.0 if is_due else self.settings.flush_interval_s)
        pause_s = self._not_before - clock.monotonic()
        if pause_s > 0:
            if not is_closing or self._has_time_for(pause_s):
                return pause_s
            # A process that ends tries once more, unless the service has said when.
            if self._is_told_when:
                return None
        batch = self._take(is_due=is_due)
        if batch is None:
            with self._flushed:
                self._flush_done = wanted
                self._flushed.notify_all()
            return None if is_closing else self._idle_s()
        destination = self._destination
        if destination is None:
            return None
        try:
            tally = destination.send(batch.key, batch.lines) if batch.lines else Tally()
        except DeliveryError as ex:
            self._leave(batch)
            wait_s = self._fail(ex)
            return wait_s if not is_closing or self._has_time_for(wait_s) else None
        except BaseException:
            self._leave(batch)
            raise
        self._settle(batch, tally)
        return 0.0

    def _has_time_for(self, pause_s: float) -> bool:
        """Tell whether a process that ends has reason and time to wait: what is in the spool is safe."""
        is_safe = self._spool is not None and not self._lines
        return not is_safe and clock.monotonic() + pause_s < self._close_by

    def _take(self, *, is_due: bool) -> _Batch | Segment | None:
        spool = self._spool
        if spool is not None:
            self._segment = spool.take()
            if self._segment is not None:
                return self._segment
            if spool.is_refusing:
                self._warn(f"the spool cannot be written: {spool.refusal}")
            elif self._collects:
                return None
        with self._lock:
            age_s = clock.monotonic() - self._first_at
            is_full = len(self._lines) >= self.settings.batch_max_events or self._bytes >= self.settings.batch_max_bytes
            if not self._lines or not (self._head or is_due or is_full or age_s >= self.settings.flush_interval_s):
                return None
            if self._head is None:
                self._head = _Batch(os.urandom(16).hex(), self._first_lines())
            self._is_head_in_flight = True
            return self._head

    def _idle_s(self) -> float:
        if self._spool is not None:
            return self.settings.flush_interval_s
        with self._lock:
            if not self._lines:
                return _LONG_S
            return max(self._first_at + self.settings.flush_interval_s - clock.monotonic(), 0.001)

    def _leave(self, batch: _Batch | Segment) -> None:
        """Leave a batch for a later attempt."""
        if isinstance(batch, Segment):
            batch.release()
            self._segment = None
            return
        with self._lock:
            if batch is self._head:
                self._is_head_in_flight = False

    def _fail(self, error: DeliveryError) -> float:
        """Count a failed attempt; return the pause until the next one."""
        settings = self.settings
        if error.is_halt:
            pause_s = max(settings.halt_s, error.retry_after_s or 0.0)
        elif error.retry_after_s is not None:
            # With jitter, as many senders may have been told the same.
            pause_s = error.retry_after_s + random.uniform(0, settings.backoff_min_s)  # noqa: S311 - no secret
        else:
            doublings = min(self._failures_in_row, _BACKOFF_DOUBLINGS_MAX)
            ceiling_s = min(settings.backoff_max_s, settings.backoff_min_s * 2**doublings)
            # Half of it at least, so that a pause is a pause.
            pause_s = random.uniform(ceiling_s / 2, ceiling_s)  # noqa: S311 - no secret
        self._failures_in_row += 1
        self._not_before = clock.monotonic() + pause_s
        self._is_told_when = error.retry_after_s is not None or error.is_halt
        with self._lock:
            add_bounded(self._counters.failures, error.reason, 1)
            waiting = len(self._lines)
            dropped = (
                self._counters.dropped.total() if hasattr(Counter, "total") else sum(self._counters.dropped.values())
            )
        where = self._destination.origin if self._destination is not None else ""
        self._warn(f"{where}: {error.reason}; {waiting} events wait in memory, {dropped} are dropped")
        return pause_s

    def _settle(self, batch: _Batch | Segment, tally: Tally) -> None:
        """Count what became of a batch, and forget it."""
        self._failures_in_row = 0
        self._not_before = 0.0
        damaged = 0
        if isinstance(batch, Segment):
            damaged = batch.damaged
            batch.remove()
            self._segment = None
        number = len(batch.lines)
        own = sum(self._encoder.is_own(line) for line in batch.lines) if isinstance(batch, Segment) else number
        refused = 0
        with self._lock:
            counters = self._counters
            counters.recovered += number - own + damaged
            counters.stored += tally.stored
            counters.duplicate += tally.duplicate
            for reason, count in tally.rejected.items():
                refused += count
                add_bounded(counters.rejected, reason, count)
            counters.sent += tally.stored + tally.duplicate + refused
            for reason, count in [*tally.dropped.items(), ("damaged", damaged)]:
                add_bounded(counters.dropped, reason, count)
            if batch is self._head:
                self._discard(number)
                self._head = None
                self._is_head_in_flight = False
        if refused or tally.dropped:
            reason = next(iter([*tally.dropped, *tally.rejected]))
            self._warn(f"{refused + sum(tally.dropped.values())} events were refused: {reason}")

    def _warn(self, message: str) -> None:
        """Write a line to standard error, if the last one is long enough ago."""
        now = clock.monotonic()
        if now - self._warned_at >= self.settings.warning_interval_s:
            self._warned_at = now
            # It may be closed, or None under pythonw.
            with suppress(AttributeError, OSError, ValueError):
                sys.stderr.write(f"tiercel_client: {message}\n")

    # --- end --------------------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what was accepted so far, and wait for the answers.

        Args:
            timeout_s: How long to wait.

        Returns:
            Whether nothing is left. A pause that the service asked for is kept, so that may take longer.
        """
        if not self.settings.url:
            return True
        if not self._threads:
            self._start()
        if self._closing.is_set():
            return not self._lines
        with self._flushed:
            self._flush_wanted += 1
            wanted = self._flush_wanted
            self._wake_delivery.set()
            return self._flushed.wait_for(lambda: self._flush_done >= wanted, timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Accept nothing more; send what is left, or leave it in the spool; what is in neither is dropped.

        Args:
            timeout_s: How long that may take; ``exit_timeout_s`` by default.

        Returns:
            Whether nothing was dropped.
        """
        if timeout_s is None:
            timeout_s = self.settings.exit_timeout_s
        with self._lock:
            self._close_by = clock.monotonic() + timeout_s
            self._closing.set()
            threads = list(self._threads)
        self._wake_delivery.set()
        self._wake_collector.set()
        if threads:
            threads[0].join(timeout_s)
        elif self._lines:
            self._deliver_forever()
        with self._lock:
            # A request that is still under way may yet be stored. What it has goes into the spool all the same: sent
            # again, it is stored once.
            self._head = None
            self._is_head_in_flight = False
        if self._spool is not None:
            self._move_to_spool()
            self._spool.seal()
        with self._lock:
            left = len(self._lines)
            add_bounded(self._counters.dropped, "exit", left)
            self._lines.clear()
            self._bytes = 0
        if left:
            self._warned_at = -_LONG_S
            self._warn(f"{left} events were not sent before the process ended")
        return not left


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


def _close_all() -> None:
    for reporter in list(_reporters):
        reporter.close()


def _forget_parent() -> None:
    for reporter in list(_reporters):
        reporter.forget_parent()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
