"""Ingest over REST, against bare COPY of rows that are encoded already."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import psycopg

from plugins.observability.event_ids import random_suffixes
from plugins.observability.ingest.copy import copy_stream
from plugins.observability.ingest.decode import decode_batch
from plugins.observability.ingest.normalize import normalize
from plugins.observability.queries import QUERIES
from plugins.observability.series import ResolvedSeries, SeriesKey
from tests.bench.figures import Figure, in_turn
from tests.bench.load import bodies, post, side_by_side
from tests.bench.service import Service, service

EVENTS = 200_000
ROUNDS = 5
CONNECTIONS = 4
COPY_CONNECTIONS = 2

Headers = Callable[[int], Mapping[str, str]]


def figures(full: bool) -> Iterator[Figure]:
    """Measure ingest."""
    with service() as running:
        for batch, target in ((1_000, 0.75), (10_000, 0.8)):
            yield _against_copy(running, batch, target)
        clean, dirty = bodies(40, 1_000), bodies(40, 1_000, bad_every=100)
        yield _against_plain(running, "ingest, 1 % bad items, against clean", 0.8, dirty, clean)
        packed = [gzip.compress(body, compresslevel=6) for body in clean]
        yield _against_plain(
            running, "ingest, gzip, against plain", 0.7, packed, clean, headers=lambda _: {"Content-Encoding": "gzip"}
        )
        yield _replay(running, clean)


def _against_plain(
    running: Service,
    name: str,
    target: float,
    content: Sequence[bytes],
    plain: Sequence[bytes],
    headers: Headers = lambda _: {},
) -> Figure:
    ratio, special, usual = in_turn(
        lambda: _post(running, content, 1_000, headers), lambda: _post(running, plain, 1_000), ROUNDS
    )
    return Figure(name, ratio, target, detail=f"{special:,.0f} events/s, {usual:,.0f} plain")


def _replay(running: Service, content: Sequence[bytes]) -> Figure:
    """Send batches with a key, and send them again."""
    runs = itertools.count()

    def keyed() -> Headers:
        run = next(runs)
        return lambda at: {"Idempotency-Key": f"run {run}, batch {at}"}

    def again() -> float:
        headers = keyed()
        _post(running, content, 1_000, headers)
        return post(running.port, content, 1_000, connections=CONNECTIONS, events=EVENTS, headers=headers)

    ratio, second, first = in_turn(again, lambda: _post(running, content, 1_000, keyed()), ROUNDS)
    detail = f"{second:,.0f} events/s again, {first:,.0f} the first time"
    return Figure("ingest, replay with a key, against its first send", ratio, 0.5, detail=detail)


def _against_copy(running: Service, batch: int, target: float) -> Figure:
    content = bodies(40_000 // batch, batch)
    _post(running, content, batch)
    ratio, rest, copy = in_turn(lambda: _post(running, content, batch), lambda: _copy(running, content, batch), ROUNDS)
    detail = f"{rest:,.0f} events/s over REST, {copy:,.0f} through COPY"
    return Figure(f"ingest, batches of {batch:,}, against COPY", ratio, target, detail=detail)


def _post(running: Service, content: Sequence[bytes], batch: int, headers: Headers = lambda _: {}) -> float:
    running.empty()
    return post(running.port, content, batch, connections=CONNECTIONS, events=EVENTS, headers=headers)


def _copy(running: Service, content: Sequence[bytes], batch: int) -> float:
    """Copy the same events through two connections. They are encoded before the clock starts."""
    streams = [copy_stream(rows) for rows in encode(running, content, batch, EVENTS)]
    running.empty()

    def run(number: int) -> int:
        mine = streams[number::COPY_CONNECTIONS]
        with psycopg.connect(running.conninfo, autocommit=True) as connection, connection.cursor() as cursor:
            for stream in mine:
                with cursor.copy(QUERIES["copy_events"]) as copy:
                    copy.write(stream)
        return len(mine) * batch

    return side_by_side(COPY_CONNECTIONS, run)


def encode(running: Service, content: Sequence[bytes], batch: int, events: int) -> list[list[bytes]]:
    """Encode batches as rows of COPY, over and over up to so many events; their series are stored already."""
    now = datetime.now(UTC)
    batches = [normalize(range(batch), decode_batch(body, batch, now).events, now)[0] for body in content]
    with psycopg.connect(running.conninfo) as connection:
        rows = connection.execute("SELECT service, endpoint, method, id FROM observability.series").fetchall()
    ids = {SeriesKey(service, endpoint, method): series_id for service, endpoint, method, series_id in rows}
    series = ResolvedSeries(0, ids, {}, frozenset())
    encoded: list[list[bytes]] = []
    for at in range(events // batch):
        normalized = batches[at % len(batches)]
        normalized.id_suffixes = random_suffixes(batch)
        encoded.append(normalized.rows(series))
    return encoded
