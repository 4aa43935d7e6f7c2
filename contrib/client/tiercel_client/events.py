"""Events as the service reads them: JSON, one object a line.

The members are those of ``docs/howto/ingest.md``. What the service would refuse for its form alone (a text that is too
long, tags that are no JSON) is put right here, so that no event is lost for it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from itertools import count
from typing import Any

# In characters; see docs/reference/limits.md of the service.
ENDPOINT_MAX = 255
REFERENCE_MAX = 128
_LATENCY_MAX_MS = 2**31 - 1
_SERIES_MAX = 1024
# RFC 9110, RFC 5789 and the QUERY method. Others are clients' inventions, and each of them would be a series.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
# What OpenTelemetry calls them: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
_OTHER_METHOD = "_OTHER"
# https://www.w3.org/TR/trace-context/#traceparent-header; a later version may append to it.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:$|-)")

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def parse_traceparent(header: str | None) -> str | None:
    """Return the trace id of a header ``traceparent``; None if there is none, or it is malformed."""
    found = _TRACEPARENT.match(header) if header else None
    return found[1] if found else None


class EventEncoder:
    """Encodes events of a service. Each gets an ``event_id``, by which the service knows it when it is sent again.

    What requests have in common is encoded once: this is done within each of them.

    Args:
        service: The service's name.
        event_max_bytes: A longer event loses its tags.
    """

    def __init__(self, service: str, event_max_bytes: int) -> None:
        self._service = service
        self._event_max_bytes = event_max_bytes
        self._encode_series = lru_cache(_SERIES_MAX)(self._encode_new_series)
        self._second = (0, "")
        self.renew()

    def renew(self) -> None:
        """Begin with ids of another process: what was forked must not repeat those of its parent."""
        self._prefix = os.urandom(12).hex() + "-"
        self._own = self._prefix.encode("ascii")
        self._next: Callable[[], int] = count().__next__

    def is_own(self, line: bytes) -> bool:
        """Tell whether this process has encoded an event."""
        return self._own in line

    def encode(
        self,
        time: datetime | float,
        endpoint: str,
        method: str,
        status_code: int,
        latency_ms: float | None,
        trace_id: str | None,
        user_ref: str | None,
        tags: Mapping[str, Any] | None,
    ) -> tuple[bytes, bool]:
        """Return an event as a line without its end, and whether it has the tags that it was given.

        Args:
            time: UTC unless it has an offset; or Unix time, in seconds.
            endpoint: Route template.
            method: HTTP method.
            status_code: HTTP status.
            latency_ms: In ms; None if it was not measured.
            trace_id: The trace.
            user_ref: The user.
            tags: Values that JSON can hold.
        """
        written = time.isoformat() if isinstance(time, datetime) else self._format_time(time)
        latency = "null" if latency_ms is None else str(min(max(int(latency_ms + 0.5), 0), _LATENCY_MAX_MS))
        line = (
            f'{{"time":"{written}","event_id":"{self._prefix}{self._next():x}","latency_ms":{latency},'
            f"{self._encode_series(endpoint, method, status_code)}"
        )
        if trace_id:
            line += f',"trace_id":{_encode_text(str(trace_id), REFERENCE_MAX)}'
        if user_ref:
            line += f',"user_ref":{_encode_text(str(user_ref), REFERENCE_MAX)}'
        if tags:
            try:
                tagged = f'{line},"tags":{_encode({str(name): value for name, value in tags.items()})}}}'
            except (AttributeError, RecursionError, TypeError, ValueError):
                tagged = ""
            if tagged and len(tagged) <= self._event_max_bytes and "\\u0000" not in tagged:
                return tagged.encode("ascii"), True
        return f"{line}}}".encode("ascii"), not tags

    def _format_time(self, time: float) -> str:
        second, fraction = divmod(time, 1)
        known, written = self._second
        if second != known:
            written = datetime.fromtimestamp(second, timezone.utc).isoformat()[:-6]
            self._second = (int(second), written)
        return f"{written}.{int(fraction * 1_000_000):06}Z"

    def _encode_new_series(self, endpoint: str, method: str, status_code: int) -> str:
        method = method.upper()
        method = method if method in _METHODS else _OTHER_METHOD
        return (
            f'"service":{_encode(self._service)},"endpoint":{_encode_text(endpoint, ENDPOINT_MAX)},'
            f'"method":"{method}","status_code":{int(status_code)}'
        )


def _encode_text(text: str, length_max: int) -> str:
    return _encode(text[:length_max].replace("\0", ""))
