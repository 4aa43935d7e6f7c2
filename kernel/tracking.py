"""Where the time of one request goes: for developers who ask for it (``kernel.http.resource_tracking``), and for spans.

Whatever can take long looks for a tracker, and finds none: that costs a look-up, as with ``kernel.deadline``. While the
service sends spans, the tracker of every request and job is one of ``kernel.tracing``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import msgspec

# admission: from arrival until the request was let in. pool: waiting for connections. sql: waiting for the database.
# filters: of applications. view: making the items of a dataset route. encoding: to JSON. compression: of the body.
# total: since arrival.
Phase = Literal["admission", "pool", "sql", "filters", "view", "encoding", "compression", "total"]
# Further ones are counted.
STATEMENTS_MAX = 200
SQL_MAX = 4000
_NS_PER_MS = 1e6


class TrackedStatement(msgspec.Struct):
    """A statement of a request.

    Args:
        sql: Its text, with placeholders. Values are not recorded.
        at_ms: When it was sent, since the request arrived.
        duration_ms: How long the request waited for the database.
        rows: How many rows it returned or changed; None if that is not known.
    """

    sql: str
    at_ms: float
    duration_ms: float = 0.0
    rows: int | None = None


class OutgoingRequest(msgspec.Struct):
    """A request that this service sends to another one.

    Args:
        headers: Headers to send with it.
        status: Of the response, to be set once it is there.
    """

    headers: Mapping[str, str] = {}
    status: int | None = None


class ResourceTracker:
    """Records what one request takes, in the thread that serves it.

    Args:
        started_ns: When the request arrived, of ``time.perf_counter_ns``.

    Attributes:
        is_reported: Whether the client is told.
        traceparent: The span that what the request starts belongs to, as the header of that name has it; None for none.
    """

    is_reported = True
    traceparent: str | None = None

    def __init__(self, started_ns: int) -> None:
        self.id = uuid.uuid4()
        self.statements: list[TrackedStatement] = []
        self.statement_count = 0
        self._started_ns = started_ns
        self._durations_ms: dict[Phase, float] = {"admission": self._elapsed_ms()}
        self._current: TrackedStatement | None = None
        # Of phases in the current one.
        self._nested_ms = 0.0

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the time that the block takes to a phase, without that of phases in it."""
        started_ns = time.perf_counter_ns()
        outer_ms, self._nested_ms = self._nested_ms, 0.0
        try:
            yield
        finally:
            duration_ms = (time.perf_counter_ns() - started_ns) / _NS_PER_MS
            self._durations_ms[phase] = self._durations_ms.get(phase, 0.0) + duration_ms - self._nested_ms
            self._nested_ms = outer_ms + duration_ms
            if phase == "sql" and self._current is not None:
                self._current.duration_ms += duration_ms

    @contextmanager
    def statement(self, sql: str) -> Iterator[TrackedStatement]:
        """Record a statement: all waiting for the database in the block is for it."""
        outer, self._current = self._current, TrackedStatement(sql[:SQL_MAX], self._elapsed_ms())
        self.statement_count += 1
        if len(self.statements) < STATEMENTS_MAX:
            self.statements.append(self._current)
        try:
            yield self._current
        finally:
            self._current = outer

    @contextmanager
    def outgoing_request(self, _method: str, _url: str) -> Iterator[OutgoingRequest]:
        """Trace a request to another service."""
        yield OutgoingRequest()

    def durations_ms(self) -> dict[Phase, float]:
        """Return how long each phase took so far, and ``total``, since the request arrived. They do not overlap."""
        return {**self._durations_ms, "total": self._elapsed_ms()}

    def server_timing(self) -> str:
        """Return the value of ``Server-Timing`` (https://www.w3.org/TR/server-timing/)."""
        description: dict[Phase, str] = {"sql": f';desc="{self.statement_count} statements"'}
        return ", ".join(
            f"{name};dur={duration_ms:.3f}{description.get(name, '')}"
            for name, duration_ms in self.durations_ms().items()
        )

    def _elapsed_ms(self) -> float:
        return (time.perf_counter_ns() - self._started_ns) / _NS_PER_MS


_CURRENT: ContextVar[ResourceTracker | None] = ContextVar("tracker", default=None)


def current_tracker() -> ResourceTracker | None:
    """Return the tracker of the request that this thread serves; None if it is not tracked."""
    return _CURRENT.get()


_UNTRACKED: AbstractContextManager[None] = nullcontext()


def measure(phase: Phase) -> AbstractContextManager[None]:
    """Add the time that a block takes to a phase of the request, if that is tracked."""
    tracker = _CURRENT.get()
    return _UNTRACKED if tracker is None else tracker.measure(phase)


@contextmanager
def outgoing_request(method: str, url: str) -> Iterator[OutgoingRequest]:
    """Trace a request to another service, where this one sends spans.

    Example::

        with outgoing_request("GET", url) as outgoing:
            response = client.get(url, headers=outgoing.headers)
            outgoing.status = response.status_code

    Args:
        method: In upper case.
        url: Absolute. Credentials and query are left out of the span.
    """
    tracker = _CURRENT.get()
    if tracker is None:
        yield OutgoingRequest()
        return
    with tracker.outgoing_request(method, url) as outgoing:
        yield outgoing


def set_current_tracker(tracker: ResourceTracker | None) -> None:
    """Set the tracker of this thread until the next call."""
    if _CURRENT.get() is not tracker:
        _CURRENT.set(tracker)
