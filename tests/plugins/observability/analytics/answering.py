"""Events over four days, and questions about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kernel.testing import Client, Result
from tests.plugins.observability.analytics.computing import ingest, parts_of
from tests.plugins.observability.events import ROOT, make_event

START = datetime(2025, 12, 10, tzinfo=UTC)
WINDOW = "start=2025-12-10&end=2025-12-13"


def make_hourly(hour: int, **fields: Any) -> dict[str, Any]:
    """Make an event of an hour since the start."""
    time = (START + timedelta(hours=hour, minutes=30)).isoformat()
    given = {"service": "ab"[hour % 2], "endpoint": f"/{hour % 3}", "latency_ms": 10 * hour, **fields}
    return make_event(time=time, status_code=500 if hour % 5 == 0 else 404 if hour % 7 == 0 else 200, **given)


def fill(client: Client) -> None:
    """Store an event an hour, which rollups know."""
    ingest(client, [make_hourly(number) for number in range(96)])
    parts_of(client).rollups.refresh()


def ask(client: Client, path: str) -> Result:
    """Ask a question that has an answer."""
    answer = client.get(f"{ROOT}{path}")
    assert answer.status == 200, answer.content
    return answer
