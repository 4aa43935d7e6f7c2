"""Store the spans of HTTP servers as events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from kernel.http import current_deadline
from plugins.observability.access import SYSTEM, Access
from plugins.observability.ingest.decode import DecodedBatch
from plugins.observability.ingest.service import IngestService
from plugins.observability.models import EventIn, IngestQuery, IngestResult, ItemError
from plugins.observability.otlp.decode import DecodedSpan, SpanError, decode_json
from plugins.observability.otlp.mapping import is_http, map_span, map_tags
from plugins.observability.path_templates import Templates


class SpanIngest:
    """Stores spans: those of HTTP servers, through the same service as all events. Others are counted, and ignored.

    Args:
        ingest: Stores events.
        templates: Applied to the paths of spans without a route.
        now: The clock.
    """

    def __init__(self, ingest: IngestService, templates: Templates, now: Callable[[], datetime]) -> None:
        self._ingest = ingest
        self._templates = templates
        self._now = now
        self._ignored = 0
        self._lock = threading.Lock()
        self.max_bytes = ingest.max_bytes

    def figures(self) -> dict[str, int]:
        """Return how many spans were ignored since the process started, because no HTTP server made them."""
        return {"spans_ignored": self._ignored}

    def ingest_spans(self, content: bytes, *, is_protobuf: bool, access: Access = SYSTEM) -> IngestResult:
        """Store the spans of an ``ExportTraceServiceRequest``, in one transaction.

        A span is identified by its ids, so that one that is sent again is stored once.

        Args:
            content: The request.
            is_protobuf: Whether it is encoded as Protocol Buffers rather than as JSON.
            access: Of the sender.

        Raises:
            MalformedError: It is no such request.
            TooLargeError: It has too many spans, or is made to take much memory.
            UnavailableError: The database is unavailable. Nothing is stored, or all of it if the commit failed.
            QuotaExceededError: The plan of the account does not allow it; nothing is stored.
        """
        limits = self._ingest.limits_of(IngestQuery())
        self._ingest.usage.add("bytes", len(content))
        decode = _protobuf_decoder() if is_protobuf else decode_json
        batch, ignored = self._map(decode(content, limits.max_events))
        with self._lock:
            self._ignored += ignored
        return self._ingest.ingest(batch, limits, access=access)

    def _map(self, spans: Iterator[DecodedSpan]) -> tuple[DecodedBatch, int]:
        """Return the events of spans, and how many spans are none."""
        indexes: list[int] = []
        events: list[EventIn] = []
        errors: list[ItemError] = []
        ignored = 0
        now = self._now()
        resource: Mapping[str, Any] | None = None
        resource_tags: Mapping[str, Any] = {}
        deadline = current_deadline()
        for index, span in enumerate(spans):
            deadline.check()
            if span is None or (not isinstance(span, SpanError) and not is_http(span)):
                ignored += 1
                continue
            if isinstance(span, SpanError):
                errors.append(ItemError(index, {"non_field_errors": [span.reason]}))
                continue
            if span.resource is not resource:
                resource, resource_tags = span.resource, map_tags(span.resource)
            event, messages = map_span(span, resource_tags, self._templates, now)
            if event is None:
                errors.append(ItemError(index, messages))
            else:
                indexes.append(index)
                events.append(event)
        return DecodedBatch(indexes, events, errors), ignored


def _protobuf_decoder() -> Callable[[bytes, int], Iterator[DecodedSpan]]:
    from plugins.observability.otlp.decode_protobuf import decode_protobuf

    return decode_protobuf
