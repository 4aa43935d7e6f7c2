"""Factories: services with retention, events at times relative to today, and requests for their analytics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from click.testing import CliRunner, Result

from kernel.testing import Client
from plugins.observability.retention.apply import RetentionReport
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.events import make_event, post_ingest

PLUGIN = "observability"
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def today() -> datetime:
    """Return the start of the day, UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def keeping(**days: int) -> dict[str, Any]:
    """Return settings of the plugin with some limits, such as ``raw_days=2``."""
    return {"log_own_requests": False, **days}


def store_at(client: Client, *times: datetime, **fields: Any) -> None:
    """Store an event at each time, the latencies different."""
    events = [make_event(time=time.isoformat(), **{"latency_ms": 7 * at, **fields}) for at, time in enumerate(times)]
    answer = post_ingest(client, events)
    assert answer.json()["inserted"] == len(times), answer.content


def kpis(client: Client, query: str = "start=1970-01-01") -> dict[str, Any]:
    """Return KPIs up to tomorrow, without ``source`` and ``fresh_until``."""
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


def apply(client: Client) -> RetentionReport:
    """Apply retention."""
    return container_of(client).retention.apply()


def store_six_days(client: Client) -> None:
    """Store four events on each of the last six days, today included."""
    store_at(client, *(today() - number * DAY + at * HOUR / 4 for number in range(6) for at in (0, 1, 30, 95)))


def serve_six_days(serve: Serve) -> Client:
    """Start a service that keeps everything, with four events on each of the last six days."""
    client = serve(observability=keeping())
    store_six_days(client)
    return client
