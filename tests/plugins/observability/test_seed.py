"""Demo data: ``tiercel observability seed``, and what ``tiercel up`` does with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import median
from typing import Any

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from kernel.app import Tiercel
from kernel.cli.serve import create_demo_data
from kernel.testing import Client, make_configuration
from plugins.observability.models import EventIn
from plugins.observability.seed import DEMO_DAYS, DEMO_EVENTS, generate_traffic
from tests.conftest import Serve
from tests.plugins.observability.events import create, stored_count

END = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)


def made(count: int = DEMO_EVENTS, days: int = DEMO_DAYS, random_seed: int = 1) -> list[EventIn]:
    """Make demo events."""
    return list(generate_traffic(count, END, days, Random(random_seed)))


def run_seed(client: Client, *arguments: str) -> Any:
    """Run the command in this process; return what it prints as JSON."""
    command = client.command("observability", "seed")
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout)


@pytest.mark.parametrize(("count", "days"), [(0, 1), (1, 1), (7, 3), (5000, 30)])
def test_the_requested_number_of_events_is_in_order_over_all_days(count: int, days: int) -> None:
    times = [event.time for event in made(count, days)]

    assert len(times) == count
    assert times == sorted(times)
    assert all(END - timedelta(days=days) <= time <= END for time in times)


def test_the_day_has_a_rhythm() -> None:
    by_hour = Counter(event.time.hour for event in made())

    assert sum(by_hour[hour] for hour in range(14, 18)) > 2 * sum(by_hour[hour] for hour in range(2, 6))


def test_one_endpoint_is_slow() -> None:
    latencies: defaultdict[str, list[float]] = defaultdict(list)
    for event in made():
        assert event.latency_ms is not None
        latencies[event.endpoint].append(event.latency_ms)

    slowest, second, *_ = sorted((median(values) for values in latencies.values()), reverse=True)

    assert slowest > 3 * second


@pytest.mark.parametrize(("count", "days"), [(3_000, 1), (DEMO_EVENTS, DEMO_DAYS), (100_000, 30)])
def test_an_incident_shows_in_two_hours_and_no_others(count: int, days: int) -> None:
    hits: Counter[int] = Counter()
    errors: Counter[int] = Counter()
    for event in made(count, days):
        hour = (END - event.time) // timedelta(hours=1)
        hits[hour] += 1
        errors[hour] += event.status_code >= 500

    first, second, third = (hour for hour, _ in errors.most_common(3))

    assert abs(first - second) == 1
    assert min(errors[first], errors[second]) > 2 * errors[third]
    assert min(errors[hour] / hits[hour] for hour in (first, second)) > 0.05


def test_the_same_random_seed_generates_the_same_events() -> None:
    assert made(100, random_seed=7) == made(100, random_seed=7) != made(100, random_seed=8)


def test_the_command_stores_the_requested_number_of_events(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False, "ingest_batch_size": 100})

    assert run_seed(client, "--events", "250", "--days", "2") == {"inserted": 250}
    assert stored_count(client) == 250


def test_if_empty_adds_nothing_to_existing_events(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    create(client)

    assert run_seed(client, "--if-empty") == {"inserted": 0}
    assert stored_count(client) == 1


def test_up_fills_an_empty_service_once(database: str) -> None:
    service = Tiercel(make_configuration(db={"url": database}, log={"level": "error"}))
    service.prepare()

    for _ in range(2):
        create_demo_data(service)

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM observability.event").fetchone() == (DEMO_EVENTS,)
