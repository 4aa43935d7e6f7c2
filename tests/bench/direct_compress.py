"""Ingest with direct compress on TimescaleDB, which a table without a unique index could have, against that of today.

Four layouts, a database each: today's; one with an index that is not unique in place of the unique one; that with
direct compress, where COPY writes columnar batches; and that with the ids of events in a table of their own
(``ids_apart``), as exactly-once would want it for events that have keys. Without a unique index the service would store
what is sent again twice: only what is sent once is measured.

Runs where ``TIERCEL_TEST_TIMESCALE_URL`` names a server on this machine.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from itertools import count
from typing import Any, LiteralString, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import psutil
import psycopg
from psycopg import sql

from kernel.testing import create_database, drop_database
from plugins.observability.ingest.copy import copy_stream
from plugins.observability.queries import QUERIES
from tests.bench.figures import Figure
from tests.bench.ids_apart import COPY_IDS, CREATE_IDS, ids_stream
from tests.bench.ingest import encode
from tests.bench.load import bodies, post, send, side_by_side
from tests.bench.service import Service, service
from tests.bench.timescale import URL, ask_ms
from tests.processes import TIERCEL

EVENTS = 40_000
EVENTS_ASKED = 300_000
EVENTS_ASKED_FULL = 1_000_000
ROUNDS = 5
LATE_BATCHES = 20
BATCH = 1_000
T = TypeVar("T")
_RUNS = count()
_QUIET = {"TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}

_TODAY, _NOT_UNIQUE, _DIRECT = "today", "no unique index", "direct compress"
_APART = "direct compress, ids apart"
_LAYOUTS = (_TODAY, _NOT_UNIQUE, _DIRECT, _APART)
_IDS_APART = (sys.executable, "-m", "tests.bench.ids_apart")
_DROP_UNIQUE: LiteralString = """
DROP INDEX observability.event_time_id;
CREATE INDEX event_time_id ON observability.event (time DESC, id);
"""
# Background jobs of the server would run while something is measured.
_PAUSE: LiteralString = "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs"
_BACKENDS: LiteralString = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Speed(NamedTuple):
    """How fast events are stored.

    Args:
        events_s: In a second.
        events_cpu_s: In a second of work of all processes together, which does not depend on what else is running.
    """

    events_s: float
    events_cpu_s: float


def figures(full: bool) -> Iterator[Figure]:
    """Measure ingest, COPY, questions, late events and disk; nothing without a server of TimescaleDB."""
    server = os.environ.get(URL)
    if not server:
        print(f"{URL} is not set: skipped", file=sys.stderr)
        return
    with ExitStack() as stack:
        layouts = {name: stack.enter_context(_layout(server, name)) for name in _LAYOUTS}
        for batch in (1_000, 10_000):
            content = _as_they_come(EVENTS, batch)
            for connections in (1, 4):
                yield from _ingest(layouts, content, batch, connections)
                yield from _copy(layouts, content, batch, connections)
        yield from _questions(layouts, EVENTS_ASKED_FULL if full else EVENTS_ASKED)


@contextmanager
def _layout(server: str, name: str) -> Iterator[Service]:
    """Run a service on a new database that has a layout."""
    database = f"bench_{os.getpid()}_{_LAYOUTS.index(name)}"
    url = create_database(server, database, "template0")
    try:
        if name in (_DIRECT, _APART):
            with psycopg.connect(server, autocommit=True) as connection:
                statement = "ALTER DATABASE {} SET timescaledb.enable_direct_compress_copy = on"
                connection.execute(sql.SQL(statement).format(sql.Identifier(database)))
        program = _IDS_APART if name == _APART else (TIERCEL,)
        with service(program=program, TIERCEL_DATABASE_URL=url, **_QUIET) as running:
            _execute(running, _PAUSE)
            _execute(running, CREATE_IDS)
            if name != _TODAY:
                _execute(running, _DROP_UNIQUE)
            yield running
    finally:
        drop_database(server, database)


def _execute(running: Service, statement: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _yesterday() -> datetime:
    """Return the start of the day before today: its chunk is not a column yet."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def _as_they_come(events: int, batch: int) -> list[bytes]:
    """Make batches of a day in their order, each of which overlaps its neighbours, as those of several senders do."""
    batches = events // batch
    share = timedelta(days=1) / (batches + 1)
    return [bodies(1, batch, span=2 * share, start=_yesterday() + number * share)[0] for number in range(batches)]


def _in_rotation(measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure things in turn, each first as often as last."""
    found: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(ROUNDS):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            found[name].append(measures[name]())
    return found


def _against(found: Mapping[str, Sequence[float]], baseline: str, title: str, unit: str) -> Iterator[Figure]:
    """Compare what was measured with its baseline, run by run."""
    usual = found[baseline]
    for name, values in found.items():
        if name != baseline:
            ratio = statistics.median(one / other for one, other in zip(values, usual, strict=True))
            detail = f"{statistics.median(values):,.1f} {unit}, {baseline} {statistics.median(usual):,.1f}"
            yield Figure(f"{title}, {name}", ratio, None, detail=detail)


def _compare_speed(measures: Mapping[str, Callable[[], Speed]], title: str) -> Iterator[Figure]:
    found = _in_rotation(measures)
    by_time = {name: [speed.events_s for speed in speeds] for name, speeds in found.items()}
    by_work = {name: [speed.events_cpu_s for speed in speeds] for name, speeds in found.items()}
    yield from _against(by_time, _TODAY, title, "events/s")
    yield from _against(by_work, _TODAY, f"{title}, by CPU", "events in a second of CPU")


def _ingest(layouts: Mapping[str, Service], content: Sequence[bytes], batch: int, connections: int) -> Iterator[Figure]:
    """Compare ingest over REST, with its ledger: of batches without keys, and of batches with one each."""

    def run(running: Service, *, keyed: bool) -> Speed:
        _empty(running)
        name = next(_RUNS)
        before = _cpu_seconds(running)
        events_s = post(
            running.port,
            content,
            batch,
            connections=connections,
            events=EVENTS,
            headers=lambda at: {"Idempotency-Key": f"run {name}, batch {at}"} if keyed else {},
        )
        after = _cpu_seconds(running)
        return Speed(events_s, EVENTS / sum(after[pid] - before.get(pid, 0.0) for pid in after))

    title = f"{connections} x {batch:,}"
    for keyed, names in ((False, (_TODAY, _NOT_UNIQUE, _DIRECT)), (True, (_TODAY, _APART))):
        measures = {name: partial(run, layouts[name], keyed=keyed) for name in names}
        for measure in measures.values():
            measure()
        yield from _compare_speed(measures, f"ingest with keys, {title}" if keyed else f"ingest, {title}")


def _empty(running: Service) -> None:
    running.empty()
    _execute(running, "TRUNCATE observability.bench_id")


def _cpu_seconds(running: Service) -> dict[int, float]:
    """Return how long each process of the service, and each of the server that works for it, has computed."""
    backends = [pid for (pid,) in _execute(running, _BACKENDS)]
    pids = [worker.pid for worker in running.workers] + backends
    return {pid: _cpu_s(pid) for pid in pids if psutil.pid_exists(pid)}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _copy(layouts: Mapping[str, Service], content: Sequence[bytes], batch: int, connections: int) -> Iterator[Figure]:
    """Compare COPY alone."""
    measures: dict[str, Callable[[], Speed]] = {}
    for name, each in layouts.items():
        encoded = encode(each, content, batch, EVENTS)
        ids = [(COPY_IDS, ids_stream(rows)) for rows in encoded] if name == _APART else []
        events = [(QUERIES["copy_events"], copy_stream(rows)) for rows in encoded]
        transactions = list(zip(ids, events, strict=True)) if ids else [(one,) for one in events]
        measures[name] = partial(_copy_all, each, transactions, connections)
    yield from _compare_speed(measures, f"COPY alone, {connections} x {batch:,}")


def _copy_all(
    running: Service, transactions: Sequence[Sequence[tuple[LiteralString, bytes]]], connections: int
) -> Speed:
    _empty(running)
    computed_s: list[float] = []

    def run(number: int) -> int:
        mine = transactions[number::connections]
        with psycopg.connect(running.conninfo, autocommit=True) as connection, connection.cursor() as cursor:
            for copies in mine:
                with connection.transaction():
                    for statement, stream in copies:
                        with cursor.copy(statement) as copy:
                            copy.write(stream)
            computed_s.append(_cpu_s(connection.info.backend_pid))
        return len(mine) * EVENTS // len(transactions)

    events_s = side_by_side(connections, run)
    return Speed(events_s, EVENTS / sum(computed_s))


def _questions(layouts: Mapping[str, Service], events: int) -> Iterator[Figure]:
    """Compare questions about a day that was just ingested, and again after what policies do with it was done."""
    content = _as_they_come(events, BATCH)
    late = bodies(LATE_BATCHES, BATCH, start=_yesterday())
    asked = {name: layouts[name] for name in (_TODAY, _DIRECT)}
    for each in asked.values():
        each.empty()
        post(each.port, content, BATCH, connections=4, events=events)
        _execute(each, "ANALYZE observability.event")
    yield from _ask(asked, "fresh")
    yield _size(asked, "fresh")
    yield from _change(asked, late)
    yield from _ask(asked, f"after {LATE_BATCHES} late batches")
    compacting_s = _maintain(asked[_DIRECT])
    yield from _ask(asked, "columns put in order")
    packing_s = _maintain(asked[_TODAY])
    detail = f"{compacting_s:.1f} s, {_TODAY} {packing_s:.1f} s, once, after 7 days"
    yield Figure("columns of a day put in order", compacting_s / packing_s, None, detail=detail)
    yield _size(asked, "after the policies")


def _maintain(running: Service) -> float:
    """Do what policies do: make columns of rows, and compact batches that overlap; return the seconds it took."""
    started = time.perf_counter()
    _execute(running, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")
    _execute(running, _COMPACT)
    taken_s = time.perf_counter() - started
    _execute(running, "VACUUM ANALYZE observability.event")
    return taken_s


def _ask(asked: Mapping[str, Service], state: str) -> Iterator[Figure]:
    for title, path in _paths(asked[_TODAY]).items():
        for each in asked.values():
            ask_ms(each.port, path, 1)
        measures = {name: partial(ask_ms, each.port, path) for name, each in asked.items()}
        yield from _against(_in_rotation(measures), _TODAY, f"{title}, {state}", "ms")
    measures = {name: partial(_ask_id_ms, each) for name, each in asked.items()}
    yield from _against(_in_rotation(measures), _TODAY, f"event by id, {state}", "ms")


def _paths(running: Service) -> Mapping[str, str]:
    day = _yesterday()
    whole = {"start": day, "end": day + timedelta(days=1, microseconds=-1)}
    noon = {"start": day + timedelta(hours=12), "end": day + timedelta(hours=13)}
    page = {"page_size": 50, "count": "none"}
    return {
        "list, newest": _path("", **page),
        "list, an hour": _path("", **noon, **page),
        "list, a service": _path("", service="service-3", **page),
        "list of a trace": _path("", trace_id=_execute(running, _SOME_TRACE)[0][0], **page),
        "kpis, exact, an hour": _path("kpis/", **noon),
        "kpis, exact, a day": _path("kpis/", **whole),
        "kpis, exact, a service": _path("kpis/", service="service-3", **whole),
        "time series by 5 minutes": _path("timeseries/", step="5m", **whole),
    }


def _ask_id_ms(running: Service) -> float:
    return ask_ms(running.port, f"/api/requests/{_some_id(running)}/")


def _path(route: str, **parameters: object) -> str:
    texts = {name: str(value).replace("+00:00", "Z").replace(" ", "T") for name, value in parameters.items()}
    return f"/api/requests/{route}?{urlencode(texts)}"


def _some_id(running: Service) -> str:
    return str(_execute(running, _SOME_ID)[0][0])


def _change(asked: Mapping[str, Service], late: Sequence[bytes]) -> Iterator[Figure]:
    """Compare late events, edits, and the look-up of ids that are sent again."""
    times: dict[str, list[float]] = {name: [] for name in asked}
    for body in late:
        for name, each in asked.items():
            times[name].append(_request_ms(each, partial(send, content=body, headers={})))
    yield from _against(times, _TODAY, f"{BATCH:,} late events", "ms")
    edits = {name: partial(_edit_ms, each) for name, each in asked.items()}
    yield from _against(_in_rotation(edits), _TODAY, "edit of an event", "ms")
    again = {name: partial(_replay_ms, asked[name], name == _TODAY) for name in asked}
    yield from _against(_in_rotation(again), _TODAY, f"{BATCH:,} ids that are stored, sent again", "ms")


def _request_ms(running: Service, ask: Callable[[HTTPConnection], object]) -> float:
    connection = HTTPConnection("127.0.0.1", running.port, timeout=120)
    started = time.perf_counter()
    ask(connection)
    took_ms = (time.perf_counter() - started) * 1000
    connection.close()
    return took_ms


def _edit_ms(running: Service) -> float:
    path = f"/api/requests/{_some_id(running)}/"
    body = msgspec.json.encode({"user_ref": f"edited-{next(_RUNS)}"})

    def edit(connection: HTTPConnection) -> None:
        connection.request("PATCH", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(text.decode())

    return _request_ms(running, edit)


def _replay_ms(running: Service, is_unique: bool) -> float:
    """Insert rows that are stored already from staging: past the unique index, or past those that a join finds."""
    with psycopg.connect(running.conninfo) as connection:
        connection.execute(sql.SQL(QUERIES["create_staging"]).format(on_commit=sql.SQL("DROP")))
        connection.execute(_STAGE_STORED, [_yesterday() + timedelta(hours=next(_RUNS) % 20), BATCH])
        started = time.perf_counter()
        inserted = connection.execute(QUERIES["insert_from_staging"] if is_unique else _INSERT_UNKNOWN).rowcount
        took_ms = (time.perf_counter() - started) * 1000
        connection.rollback()
    if inserted:
        raise RuntimeError(f"{inserted} events are stored twice")
    return took_ms


def _size(asked: Mapping[str, Service], state: str) -> Figure:
    sizes = {name: _execute(each, _SIZE)[0][0] for name, each in asked.items()}
    events = _execute(asked[_DIRECT], "SELECT count(*) FROM observability.event")[0][0]
    batches, rows = _columnar_batches(asked[_DIRECT])
    detail = (
        f"{sizes[_DIRECT] / events:.0f} bytes an event, {_TODAY} {sizes[_TODAY] / events:.0f}; {batches:,} columnar"
        f" batches of {rows / max(batches, 1):,.0f} events"
    )
    return Figure(f"disk, {state}", sizes[_DIRECT] / sizes[_TODAY], None, detail=detail)


def _columnar_batches(running: Service) -> tuple[int, int]:
    """Return how many batches there are, and how many events they have together."""
    batches = rows = 0
    with psycopg.connect(running.conninfo) as connection:
        for schema, table in connection.execute(_COLUMNAR_TABLES).fetchall():
            counted = connection.execute(sql.SQL(_COUNT_BATCHES).format(sql.Identifier(schema, table))).fetchone()
            if counted is not None:
                batches, rows = batches + counted[0], rows + counted[1]
    return batches, rows


_COMPACT: LiteralString = """
SELECT _timescaledb_functions.compact_chunk(relid)
FROM _timescaledb_catalog.chunk
JOIN timescaledb_information.chunks ON relid = format('%I.%I', chunk_schema, chunk_name)::regclass
WHERE hypertable_schema = 'observability' AND hypertable_name = 'event'
  AND 'UNORDERED' = ANY(_timescaledb_functions.chunk_status_text(status))
"""
_SOME_TRACE: LiteralString = """
SELECT trace_id FROM observability.event ORDER BY time DESC, id LIMIT 1 OFFSET 10000
"""
_SOME_ID: LiteralString = """
SELECT id FROM observability.event ORDER BY time DESC, id LIMIT 1 OFFSET (random() * 20000)::integer
"""
_STAGE_STORED: LiteralString = """
INSERT INTO event_staging SELECT * FROM observability.event WHERE time >= %s ORDER BY time, id LIMIT %s
"""
# The spans of time leave out what cannot have them.
_INSERT_UNKNOWN: LiteralString = """
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT id, time, series, status_code, latency_ms, trace_id, user_ref, tags
FROM event_staging AS new
WHERE NOT EXISTS (
    SELECT FROM observability.event AS e
    WHERE e.time = new.time AND e.id = new.id
      AND e.time BETWEEN (SELECT min(time) FROM event_staging) AND (SELECT max(time) FROM event_staging))
ORDER BY id
"""
_SIZE: LiteralString = "SELECT sum(total_bytes)::bigint FROM chunks_detailed_size('observability.event')"
_COLUMNAR_TABLES: LiteralString = """
SELECT nspname, relname
FROM _timescaledb_catalog.compression_settings AS settings
JOIN pg_class ON pg_class.oid = settings.compress_relid
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN timescaledb_information.chunks AS chunk
    ON settings.relid = format('%I.%I', chunk_schema, chunk_name)::regclass
WHERE hypertable_schema = 'observability' AND hypertable_name = 'event'
"""
_COUNT_BATCHES: LiteralString = "SELECT count(*), coalesce(sum(_ts_meta_count), 0)::bigint FROM {}"
