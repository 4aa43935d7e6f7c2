"""What the middlewares have in common: which requests they observe, and how they report one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tiercel_client.endpoints import Endpoints
from tiercel_client.events import parse_traceparent
from tiercel_client.reporter import Reporter

UserHook = Callable[[Any], "str | None"]
TagsHook = Callable[[Any], "Mapping[str, Any] | None"]
# Paths of health probes, which come every few seconds and say nothing about users.
PROBES = ("/health", "/healthz", "/livez", "/ping", "/readyz", "/startupz")
ERROR = 500


class Observation:
    """One request under way.

    Args:
        observer: Reports it.
        trace_id: From its header ``traceparent``.
    """

    __slots__ = ("_observer", "_started", "_time", "is_reported", "status_code", "trace_id")

    def __init__(self, observer: Observer, trace_id: str | None) -> None:
        self._observer = observer
        self._time = time.time()
        self._started = time.perf_counter()
        self.trace_id = trace_id
        self.status_code = 0
        self.is_reported = False

    def finish(self, endpoint: str, method: str, status_code: int, request: Any) -> None:
        """Report the request, the first time this is called.

        Args:
            endpoint: Route template.
            method: HTTP method.
            status_code: HTTP status.
            request: What hooks are called with.
        """
        if self.is_reported:
            return
        self.is_reported = True
        latency_ms = (time.perf_counter() - self._started) * 1000
        observer = self._observer
        observer.reporter.report(
            endpoint=endpoint,
            method=method,
            status_code=status_code,
            latency_ms=latency_ms,
            time=self._time,
            trace_id=self.trace_id,
            user_ref=observer.call(observer.user, request),
            tags=observer.call(observer.tags, request),
        )


class Observer:
    """What a middleware was told.

    Args:
        reporter: Sends the events; one is made of ``settings`` by default.
        user: Returns the user of a request.
        tags: Returns further facts about a request.
        ignore: Paths that are not reported, and what is below them.
        settings: Of the reporter; see ``Settings``.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(
        self,
        reporter: Reporter | None,
        user: UserHook | None,
        tags: TagsHook | None,
        ignore: Collection[str],
        settings: Mapping[str, Any],
    ) -> None:
        self.reporter = Reporter(**settings) if reporter is None else reporter
        self.user = user
        self.tags = tags
        self.endpoints = Endpoints()
        self._ignored = frozenset(path.rstrip("/") for path in ignore)

    def ignores(self, path: str) -> bool:
        """Tell whether requests of a path are not reported."""
        return path.rstrip("/") in self._ignored

    def begin(self, traceparent: str | None) -> Observation:
        """Begin to observe a request."""
        return Observation(self, parse_traceparent(traceparent))

    def ensure_no_wait(self) -> None:
        """Check that a report never waits for a disk, which an event loop must not.

        Raises:
            ValueError: It would.
        """
        if self.reporter.settings.spool_dir and self.reporter.settings.spool_write == "event":
            raise ValueError("spool_write: 'event' writes to the disk within the event loop; use 'batch'")

    def call(self, hook: Callable[[Any], Any] | None, request: Any) -> Any:
        """Return what a hook returns; None if it fails, which is counted."""
        if hook is None:
            return None
        try:
            return hook(request)
        except Exception:
            self.reporter.count_hook_error()
            return None
