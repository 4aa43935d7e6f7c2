"""What schemathesis does not know: lines of JSON, and that two names of the same parameter are not given both."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.hook
def map_query(_context: schemathesis.HookContext, query: dict[str, Any] | None) -> dict[str, Any] | None:
    for name, alias in (("start", "time_after"), ("end", "time_before")):
        if query and name in query:
            query.pop(alias, None)
    return query


@schemathesis.serializer("application/x-ndjson")
def write_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()
