"""Events for tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from kernel.testing import Client, Result

NOON = datetime(2025, 12, 14, 12, tzinfo=UTC)
ROOT = "/api/requests/"
# Tags that are valid JSON, and that no server can store: a number with more digits after the point than jsonb has.
UNSTORABLE_TAGS = '{"a":0.' + "1" * 20_000 + "}"


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


def unique_service() -> str:
    """Return a service that no other event has, for tests that share a database."""
    return f"service-{uuid4()}"


def make_events(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Make events a second apart."""
    return [
        make_event(time=(NOON + timedelta(seconds=number)).isoformat(), latency_ms=number, **fields)
        for number in range(count)
    ]


def raw_event(**fields: str) -> bytes:
    """Make an event as JSON, some fields given as JSON text, for what no encoder would write."""
    texts = {name: json.dumps(value) for name, value in make_event().items()} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}").encode()


def short_id(value: object) -> str:
    """Return an id for a parameter of a test that may be long."""
    return repr(value)[:32]


def post_ingest(client: Client, payload: Any, query: str = "") -> Result:
    """Post a batch."""
    return client.post(f"{ROOT}ingest/{query}", payload)


def post_bytes(client: Client, content: bytes, query: str = "") -> Result:
    """Post an encoded batch unchanged."""
    return client.post(f"{ROOT}ingest/{query}", content=content)


def create(client: Client, **fields: Any) -> str:
    """Create one event; return its URL."""
    created = client.post(ROOT, make_event(**fields))
    assert created.status == 201, created.content
    return f"{ROOT}{created.json()['id']}/"


def listed(client: Client, query: str = "") -> list[dict[str, Any]]:
    """Return the events of the first page of a list."""
    answer = client.get(f"{ROOT}?{query}")
    assert answer.status == 200, answer.content
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def stored_count(client: Client) -> int:
    """Count all events."""
    count: int = client.get(f"{ROOT}?page_size=1").json()["count"]
    return count


def id_time_ms(event_id: str) -> int:
    """Return the Unix time in ms that an id begins with."""
    return UUID(event_id).int >> 80


def unix_ms(text: str) -> int:
    """Return the Unix time in ms of an ISO 8601 time."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
