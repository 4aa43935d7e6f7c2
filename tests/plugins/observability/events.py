"""Events for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kernel.testing import Answer, Client

NOON = datetime(2025, 12, 14, 12, tzinfo=UTC)


def make_event(**fields: Any) -> dict[str, Any]:
    """Make a valid event, some fields changed. A field given as ``...`` is left out."""
    event = {
        "time": "2025-12-14T12:00:00Z",
        "service": "billing",
        "endpoint": "/api/v1/invoices",
        "method": "GET",
        "status_code": 200,
        "latency_ms": 123,
        "trace_id": "trace-001",
        "user_ref": "user-001",
        "tags": {"env": "prod"},
        **fields,
    }
    return {name: value for name, value in event.items() if value is not ...}


def make_events(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Make events a second apart."""
    return [
        make_event(time=(NOON + timedelta(seconds=number)).isoformat(), latency_ms=number, **fields)
        for number in range(count)
    ]


def post_ingest(client: Client, payload: Any, query: str = "") -> Answer:
    """Post a batch."""
    return client.post(f"/api/requests/ingest/{query}", payload)
