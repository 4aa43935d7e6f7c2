"""Demo data: the traffic of a made-up small shop, with a daily rhythm, one slow endpoint and one incident."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from random import Random

import msgspec

from kernel.cli import progress
from plugins.observability.access import SYSTEM, Owner
from plugins.observability.ingest.normalize import normalize
from plugins.observability.ingest.service import IngestService
from plugins.observability.models import EventIn

# Small enough that `tiercel up` is ready in seconds.
DEMO_EVENTS = 20_000
DEMO_DAYS = 7
SENDER = "seed"

HOUR = timedelta(hours=1)
# The incident: payments fail, their callers get slow and retry. Of short traffic, the incident is in the middle.
INCIDENT_HOURS_BEFORE_END = 30
INCIDENT_HOURS = 2
INCIDENT_SERVICE = "payments"
INCIDENT_CALLER = "checkout"
INCIDENT_FAILURES = 0.6
INCIDENT_SLOWDOWN = 8.0
INCIDENT_RETRIES = 20
# From four in the morning to four in the afternoon traffic grows to four times as much.
_QUIETEST_HOUR = 4
_RHYTHM = 0.6
_TAGS = tuple(
    msgspec.Raw(msgspec.json.encode({"env": "prod", "region": region, "version": version}))
    for region in ("eu-west", "us-east")
    for version in ("1.4.2", "1.5.0")
)


class Endpoint(msgspec.Struct, frozen=True):
    """One kind of request.

    Args:
        service: The service that answers.
        path: Its route.
        method: HTTP method.
        weight: Its share of the traffic.
        median_ms: Median latency.
        sigma: Standard deviation of the logarithm of the latency; 0.5 is usual, 1 has a long tail.
        client_errors: Share of responses with a 4xx.
        server_errors: Share of responses with a 5xx.
    """

    service: str
    path: str
    method: str
    weight: float
    median_ms: float
    sigma: float = 0.5
    client_errors: float = 0.01
    server_errors: float = 0.001


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("web", "/", "GET", 20, 18),
    Endpoint("web", "/products", "GET", 16, 35),
    Endpoint("web", "/products/{id}", "GET", 24, 28, client_errors=0.03),
    Endpoint("search", "/api/v1/search", "GET", 12, 85, 0.7),
    Endpoint("catalogue", "/api/v1/products/{id}", "GET", 26, 12),
    Endpoint("accounts", "/api/v1/login", "POST", 3, 140, client_errors=0.12),
    Endpoint("checkout", "/api/v1/carts/{id}", "PUT", 7, 40),
    Endpoint("checkout", "/api/v1/orders", "POST", 2, 210, 0.6, server_errors=0.004),
    Endpoint("payments", "/api/v1/charges", "POST", 2, 320, 0.6, client_errors=0.02),
    Endpoint("billing", "/api/v1/invoices", "GET", 3, 60),
    # The slow one.
    Endpoint("billing", "/api/v1/reports/monthly", "GET", 0.4, 2400, 0.9, server_errors=0.02),
)


def seed(
    ingest: IngestService,
    *,
    count: int,
    days: int,
    end: datetime,
    random: Random,
    batch_size: int,
    owner: Owner = SYSTEM.owner,
) -> int:
    """Store demo data; return how many events.

    Args:
        ingest: Stores events.
        count: How many to generate.
        days: How far back they reach.
        end: When they end, UTC.
        random: The same state generates the same events.
        batch_size: Events in one transaction.
        owner: Whose events they are.
    """
    events = generate_traffic(count, end, days, random)
    inserted = 0
    with progress("events", total=count) as bar:
        while events_of_batch := list(islice(events, batch_size)):
            batch, _ = normalize(range(len(events_of_batch)), events_of_batch, end)
            inserted += ingest.store(batch, sender=SENDER, owner=owner).inserted
            bar.advance(len(events_of_batch))
    return inserted


def generate_traffic(count: int, end: datetime, days: int, random: Random) -> Iterator[EventIn]:
    """Generate events in order of time.

    Args:
        count: How many.
        end: When the last hour ends, UTC.
        days: How far back they reach.
        random: The same state generates the same events.
    """
    start = end - timedelta(days=days)
    hours = days * 24
    weights = [_rhythm(start + HOUR * hour) for hour in range(hours)]
    incident = hours - min(INCIDENT_HOURS_BEFORE_END, hours // 2)
    done = 0
    passed = 0.0
    total = sum(weights)
    for hour, weight in enumerate(weights):
        passed += weight
        due = round(count * passed / total)
        during_incident = incident <= hour < incident + INCIDENT_HOURS
        yield from _one_hour(start + HOUR * hour, due - done, random, during_incident=during_incident)
        done = due


def _rhythm(time: datetime) -> float:
    return 1 - _RHYTHM * math.cos((time.hour - _QUIETEST_HOUR) / 24 * 2 * math.pi)


def _one_hour(start: datetime, count: int, random: Random, *, during_incident: bool) -> Iterator[EventIn]:
    offsets_s = sorted(random.uniform(0, 3600) for _ in range(count))
    weights = [kind.weight * (_retries(kind) if during_incident else 1) for kind in ENDPOINTS]
    for offset_s, kind in zip(offsets_s, random.choices(ENDPOINTS, weights, k=count), strict=True):
        yield _event(start + timedelta(seconds=offset_s), kind, random, during_incident=during_incident)


def _retries(kind: Endpoint) -> int:
    return INCIDENT_RETRIES if kind.service == INCIDENT_SERVICE else 1


def _event(time: datetime, kind: Endpoint, random: Random, *, during_incident: bool) -> EventIn:
    latency_ms = kind.median_ms * random.lognormvariate(0, kind.sigma)
    status_code = _status_code(kind, random.random())
    if during_incident and kind.service == INCIDENT_SERVICE:
        latency_ms *= INCIDENT_SLOWDOWN
        status_code = 503 if random.random() < INCIDENT_FAILURES else status_code
    elif during_incident and kind.service == INCIDENT_CALLER:
        latency_ms *= INCIDENT_SLOWDOWN / 2
    return EventIn(
        time=time,
        service=kind.service,
        endpoint=kind.path,
        method=kind.method,
        status_code=status_code,
        latency_ms=round(latency_ms),
        trace_id=f"{random.getrandbits(128):032x}",
        user_ref=f"user-{random.randrange(500):03}",
        tags=random.choice(_TAGS),
    )


def _status_code(kind: Endpoint, chance: float) -> int:
    if chance < kind.server_errors:
        return 500
    if chance < kind.server_errors + kind.client_errors:
        return 404 if kind.method == "GET" else 400
    return 201 if kind.method == "POST" else 200
