"""Factories: events over some days, services that have them, and requests for their analytics."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kernel.testing import Client, Result
from plugins.observability.container import Container, make_container
from tests.plugins.observability.events import ROOT, make_event, post_ingest

# Of random events.
FIRST_DAY = datetime(2025, 12, 12, tzinfo=UTC)
# Of hourly events.
START = datetime(2025, 12, 10, tzinfo=UTC)
WINDOW = "start=2025-12-10&end=2025-12-13"
HOURS = 96


def container_of(client: Client) -> Container:
    """Return the objects of the plugin in a service."""
    return client.service.registry.services["observability"].once(make_container)


def random_events(count: int, days: int = 3, seed: int = 1) -> list[dict[str, Any]]:
    """Make events of two services, two endpoints and two methods over some days."""
    chance = random.Random(seed)
    return [
        make_event(
            time=(FIRST_DAY + timedelta(seconds=chance.randrange(days * 86_400))).isoformat(),
            service=chance.choice(["billing", "skyflow"]),
            endpoint=chance.choice(["/a", "/b"]),
            method=chance.choice(["GET", "POST"]),
            status_code=chance.choice([200, 200, 404, 500]),
            latency_ms=chance.choice([0, chance.randrange(2000)]),
        )
        for _ in range(count)
    ]


def hourly_event(hour: int, **fields: Any) -> dict[str, Any]:
    """Make the event of an hour since ``START``."""
    time = (START + timedelta(hours=hour, minutes=30)).isoformat()
    given = {"service": "ab"[hour % 2], "endpoint": f"/{hour % 3}", "latency_ms": 10 * hour, **fields}
    return make_event(time=time, status_code=500 if hour % 5 == 0 else 404 if hour % 7 == 0 else 200, **given)


def ingest(client: Client, events: Sequence[dict[str, Any]]) -> None:
    """Store events."""
    answer = post_ingest(client, events)
    assert answer.status == 200, answer.content
    assert answer.json()["inserted"] == len(events)


def ingest_hourly_events(client: Client) -> None:
    """Store an event an hour over four days, and refresh the rollups."""
    ingest(client, [hourly_event(hour) for hour in range(HOURS)])
    container_of(client).rollups.refresh()


def ask(client: Client, path: str) -> Result:
    """Request analytics; the response must be 200."""
    answer = client.get(f"{ROOT}{path}")
    assert answer.status == 200, answer.content
    return answer
