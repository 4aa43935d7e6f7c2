"""Ingest over REST, against bare COPY of rows that are encoded already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import psycopg

from plugins.observability.ids import random_tails
from plugins.observability.ingest.decoding import decode_batch
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.rows import copy_data
from plugins.observability.queries import QUERIES
from tests.bench.figures import Figure, in_turn
from tests.bench.load import bodies, post, side_by_side
from tests.bench.service import Service, service

EVENTS = 400_000
ROUNDS = 5
CONNECTIONS = 4
COPY_CONNECTIONS = 2


def figures() -> Iterator[Figure]:
    """Measure ingest."""
    with service() as running:
        for batch, target in ((1_000, 0.75), (10_000, 0.8)):
            yield _against_copy(running, batch, target)
        clean, dirty = bodies(40, 1_000), bodies(40, 1_000, bad_every=100)
        ratio, _, _ = in_turn(lambda: _post(running, dirty, 1_000), lambda: _post(running, clean, 1_000), ROUNDS)
        yield Figure("ingest, 1 % bad items, against clean", ratio, 0.8)


def _against_copy(running: Service, batch: int, target: float) -> Figure:
    content = bodies(40_000 // batch, batch)
    _post(running, content, batch)
    ratio, rest, copy = in_turn(lambda: _post(running, content, batch), lambda: _copy(running, content, batch), ROUNDS)
    detail = f"{rest:,.0f} events/s over REST, {copy:,.0f} through COPY"
    return Figure(f"ingest, batches of {batch:,}, against COPY", ratio, target, detail=detail)


def _post(running: Service, content: Sequence[bytes], batch: int) -> float:
    _empty(running)
    return post(running.port, content, batch, connections=CONNECTIONS, events=EVENTS)


def _copy(running: Service, content: Sequence[bytes], batch: int) -> float:
    """Copy the same events through two connections. They are encoded before the clock starts."""
    streams = _encode(running, content, batch)
    _empty(running)

    def run(number: int) -> int:
        mine = streams[number::COPY_CONNECTIONS]
        with psycopg.connect(running.conninfo, autocommit=True) as connection, connection.cursor() as cursor:
            for stream in mine:
                with cursor.copy(QUERIES["copy_events"]) as copy:
                    copy.write(stream)
        return len(mine) * batch

    return side_by_side(COPY_CONNECTIONS, run)


def _encode(running: Service, content: Sequence[bytes], batch: int) -> list[bytes]:
    now = datetime.now(UTC)
    prepared = [prepare(range(batch), decode_batch(body, batch, now).events, now)[0] for body in content]
    with psycopg.connect(running.conninfo) as connection:
        rows = connection.execute("SELECT service, endpoint, method, id FROM observability.series").fetchall()
    numbers = {(service, endpoint, method): number for service, endpoint, method, number in rows}
    return [copy_data(prepared[at % len(prepared)].rows(numbers, random_tails(batch))) for at in range(EVENTS // batch)]


def _empty(running: Service) -> None:
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE observability.event")
