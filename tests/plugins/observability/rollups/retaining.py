"""Services that keep events for some days only, and what to ask of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from click.testing import CliRunner, Result

from kernel.testing import Client
from plugins.observability.parts import Parts, make_parts
from plugins.observability.retention.sweeping import Removed
from tests.conftest import Serve
from tests.plugins.observability.events import make_event, post_ingest

PLUGIN = "observability"
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def today() -> datetime:
    """Return the start of the day, UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def keeping(**days: int) -> dict[str, Any]:
    """Return settings that keep levels for so many days."""
    return {"log_own_requests": False, **days}


def parts_of(client: Client) -> Parts:
    """Return the parts of the service's plugin."""
    return client.service.registry.services[PLUGIN].once(make_parts)


def store_at(client: Client, *times: datetime, **fields: Any) -> None:
    """Store an event at each time, the latencies different."""
    events = [make_event(time=time.isoformat(), **{"latency_ms": 7 * at, **fields}) for at, time in enumerate(times)]
    answer = post_ingest(client, events)
    assert answer.json()["inserted"] == len(times), answer.content


def kpis(client: Client, query: str = "start=1970-01-01") -> dict[str, Any]:
    """Return key figures up to tomorrow, those left out that say how they were come by."""
    end = "" if "end=" in query else f"&end={(today() + DAY).date()}"
    answer = client.get(f"/api/requests/kpis/?{query}{end}".replace("+", "%2B"))
    assert answer.status == 200, answer.content
    return {name: value for name, value in answer.json().items() if name not in ("source", "fresh_until")}


def one_value(database: str, query: str) -> Any:
    """Return the only value of a query."""
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def run_command(client: Client, name: str, *arguments: str) -> Result:
    """Run a command of the plugin inside the service."""
    return CliRunner().invoke(client.command(PLUGIN, name), arguments)


def apply(client: Client) -> Removed:
    """Apply retention."""
    return parts_of(client).retention.apply()


def fill(client: Client, days: int = 6) -> None:
    """Store four events on each of the last days, today's included."""
    store_at(client, *(today() - number * DAY + at * HOUR / 4 for number in range(days) for at in (0, 1, 30, 95)))


def full(serve: Serve) -> Client:
    """Start a service that keeps everything, and fill it."""
    client = serve(observability=keeping())
    fill(client)
    return client
