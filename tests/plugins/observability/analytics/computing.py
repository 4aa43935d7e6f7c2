"""What the analytics should answer, computed in plain Python over the events that were sent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kernel.testing import Client
from plugins.observability.parts import Parts, make_parts
from tests.plugins.observability.events import make_event, post_ingest

FIRST_DAY = datetime(2025, 12, 12, tzinfo=UTC)


def parts_of(client: Client) -> Parts:
    """Return the parts of the plugin in a service."""
    return client.service.registry.services["observability"].once(make_parts)


def random_events(count: int, days: int = 3, seed: int = 1) -> list[dict[str, Any]]:
    """Make events of two services over some days."""
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


def ingest(client: Client, events: Sequence[dict[str, Any]]) -> None:
    """Store events."""
    taken = post_ingest(client, events)
    assert taken.status == 200, taken.content
    assert taken.json()["inserted"] == len(events)


def percentile_cont(values: Sequence[int], percentile: float) -> float:
    """Compute a percentile as SQL defines it."""
    ordered = sorted(values)
    rank = percentile / 100 * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def time_of(event: dict[str, Any]) -> datetime:
    """Return when an event happened."""
    return datetime.fromisoformat(event["time"])
