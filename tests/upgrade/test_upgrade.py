"""Databases of earlier versions: migrated once, and then they answer as before and their jobs go on.

``<date>.sql`` is the output of ``pg_dump --no-owner --no-privileges --inserts`` on PostgreSQL 15, without its comments,
of a database of the version of that day; ``<date>.answers.json`` is what that version answered, by path.

The dump of 2026-11-28 holds events of three days whose last hours are not rolled up, demo datasets, and jobs in every
state, some of workers and commands that are gone. Its queue is that of the package procrastinate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from kernel.app import Tiercel
from kernel.embedded.server import EmbeddedServer
from kernel.identity import SYSTEM_ACCOUNT
from kernel.jobs.models import JobRecord
from kernel.testing import Client, create_database, drop_database, make_configuration, running
from tests.kernel.jobs.conftest import make_worker
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import oldest_postgresql
from tests.processes import eventually

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
DUMP = "2026-11-28"
PLUGINS = ["system", "observability", "trace", "club", "skyflow", "nexus", "tests.sample_jobs"]
# Partitions of events are those of its days, and have the columns of the whole table.
TABLES = """
SELECT table_schema, table_name, column_name, data_type, is_nullable, coalesce(column_default, ''), is_identity
FROM information_schema.columns
WHERE table_schema IN ('tiercel', 'observability') AND table_name !~ '^event_[0-9]'
"""
INDEXES = """
SELECT indexdef FROM pg_indexes WHERE schemaname IN ('tiercel', 'observability') AND tablename !~ '^event_[0-9]'
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE connamespace IN ('tiercel'::regnamespace, 'observability'::regnamespace)
  AND conrelid::regclass::text !~ 'event_[0-9]'
"""
FUNCTIONS = """
SELECT pronamespace::regnamespace::text, proname::text
FROM pg_proc WHERE pronamespace IN ('tiercel'::regnamespace, 'observability'::regnamespace)
"""
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["embedded", "oldest"])
def postgresql(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server: the embedded PostgreSQL, and the oldest that works."""
    with ExitStack() as stack:
        if request.param == "oldest":
            yield stack.enter_context(oldest_postgresql())
        else:
            server: EmbeddedServer = request.getfixturevalue("server")
            yield server.conninfo


@pytest.fixture
def restored(postgresql: str) -> Iterator[str]:
    """How to connect to a database of the earlier version."""
    name = f"upgrade_{next(_numbers)}"
    conninfo = create_database(postgresql, name)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute((FOLDER / f"{DUMP}.sql").read_bytes())
    yield conninfo
    drop_database(postgresql, name)


@pytest.fixture
def client(restored: str) -> Iterator[Client]:
    """A service of this version on that database."""
    with running(configure(restored)) as started:
        started.service.registry.check_health()
        yield started


def configure(conninfo: str) -> Any:
    return make_configuration(
        plugins=PLUGINS,
        db={"url": conninfo},
        log={"level": "error", "requests": False},
        # Those of the earlier version get older with each day.
        jobs={"dead_after_s": 2.0, "keep_days": 36500},
        observability={"log_own_requests": False},
    )


def migrate(conninfo: str) -> list[str]:
    """Prepare a service, and return the migrations that it applied."""
    service = Tiercel(configure(conninfo))
    try:
        return [migration.id for migration in service.prepare()]
    finally:
        service.close()


def ask(conninfo: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo) as connection:
        return sorted(connection.execute(query.encode()).fetchall())


def by_label(client: Client) -> dict[str, JobRecord]:
    """Return the sample jobs by their label, or their name where they have none."""
    records = client.service.shared.jobs.list(limit=100)
    return {record.parameters.get("label", record.name): record for record in reversed(records)}


def test_a_database_is_migrated_once_and_needs_the_old_queue_no_more(restored: str) -> None:
    schedules = ask(restored, "SELECT * FROM tiercel.job_schedule")

    first, second = migrate(restored), migrate(restored)

    assert "kernel/0004_job_queue" in first
    assert second == []
    assert ask(restored, "SELECT nspname::text FROM pg_namespace WHERE nspname = 'procrastinate'") == []
    assert ask(restored, "SELECT * FROM tiercel.job_schedule") == schedules


def test_its_schema_becomes_that_of_a_new_database(postgresql: str, restored: str) -> None:
    name = f"upgrade_{next(_numbers)}"
    new = create_database(postgresql, name)
    for conninfo in (restored, new):
        migrate(conninfo)

    for query in (TABLES, INDEXES, CONSTRAINTS, FUNCTIONS):
        assert ask(restored, query) == ask(new, query)
    drop_database(postgresql, name)


def test_the_answers_are_those_of_the_earlier_version(client: Client) -> None:
    expected = msgspec.json.decode((FOLDER / f"{DUMP}.answers.json").read_bytes())
    # A job that no process would ever have run is cancelled by the migration.
    jobs = [path for path in expected if path.startswith("/api/v1/jobs/")]

    for path in expected.keys() - set(jobs):
        answer = client.get(path)
        assert answer.status == 200, path
        assert as_before(answer.json(), expected[path]) == expected[path], path

    later = {"is_scheduled", "is_cancelling"}
    for path in jobs:
        found, before = client.get(path).json()["data"]["results"], expected[path]["data"]["results"]
        assert len(found) == len(before)
        for record, earlier in zip(found, before, strict=True):
            if record["parameters"].get("label") == "command-waiting":
                changed = later | {"state", "error", "finished_at"}
                assert (record["state"], record["error"]) == ("cancelled", "the command that started it was killed")
            else:
                changed = later
            added = {"account": SYSTEM_ACCOUNT, "sites": None, "started_by": None}
            assert {key: record[key] for key in record.keys() - changed} == {
                key: earlier[key] for key in earlier.keys() - changed
            } | added


def test_events_without_a_latency_join_those_of_the_earlier_version(client: Client) -> None:
    path = "/api/requests/{}/?start=2026-11-20T00:00:00Z&end=2026-11-24T00:00:00Z{}"
    ways = [path.format("kpis", way) for way in ("", "&approx=true", "&method=GET")]
    # Of a day that rollups know, in a partition of the earlier version.
    before = [client.get(way).json() for way in ways]
    shown = client.get("/api/requests/?page_size=1&method=GET&ordering=time").json()["results"][0]

    created = client.post("/api/requests/", {**shown, "latency_ms": None})

    assert (created.status, created.json()["latency_ms"]) == (201, None)
    for _ in ("from events", "from rollups"):
        for way, earlier in zip(ways, before, strict=True):
            now = client.get(way).json()
            assert now["hits"] == earlier["hits"] + 1
            for name in ("avg_latency_ms", "p95_latency_ms", "max_latency_ms"):
                assert now[name] == earlier[name], (way, name)
        container_of(client).rollups.refresh()


def as_before(answer: Any, before: Any) -> Any:
    """Return an answer without the members that came later and, where the list was no page yet, its items."""
    if isinstance(answer, dict) and isinstance(before, list):
        assert answer["next"] is None
        answer = answer["results"]
    if isinstance(answer, dict) and isinstance(before, dict):
        return {name: as_before(value, before[name]) for name, value in answer.items() if name in before}
    if isinstance(answer, list) and isinstance(before, list) and len(answer) == len(before):
        return [as_before(*pair) for pair in zip(answer, before, strict=True)]
    return answer


def test_jobs_that_waited_run_and_those_of_dead_workers_are_taken_over(client: Client) -> None:
    before = by_label(client)
    worker = make_worker(client.service)
    worker.start()
    try:
        assert eventually(lambda: not unfinished(client), 30), unfinished(client)
    finally:
        worker.stop()
        assert worker.join(10)

    ended = by_label(client)
    states = {label: (record.state, record.attempt, record.result, record.error) for label, record in ended.items()}
    assert states["first"] == ("succeeded", 1, 3.0, None)
    assert states["second"] == ("succeeded", 1, 7.0, None)
    assert states["sample.fail"] == ("failed", 1, None, "ValueError: nothing works")
    assert states["abandoned"] == ("succeeded", 2, 9.0, None)
    assert states["stopped"] == ("succeeded", 2, 8.0, None)
    assert states["abandoned-committed"] == ("succeeded", 1, 6.0, None)
    assert states["abandoned-cancelled"] == ("cancelled", 1, None, "cancelled; its worker died meanwhile")
    assert states["command"] == ("failed", 1, None, "the command that ran it was killed")
    for label in ("later", "retried", "done", "cancelled"):
        assert ended[label] == before[label]
    assert (before["later"].state, before["retried"].state) == ("waiting", "waiting")


def unfinished(client: Client) -> list[JobRecord]:
    """Return the jobs that a worker still has to run, or to recover."""
    return [
        record
        for label, record in by_label(client).items()
        if not record.is_finished and label not in {"later", "retried"}
    ]


def test_new_jobs_have_higher_ids_and_cancel_and_dedup_work_on_old_ones(client: Client) -> None:
    jobs = client.service.shared.jobs
    old = by_label(client)
    newest = max(record.id for record in old.values())

    assert jobs.start("sample.add", {"numbers": [1], "label": "new"}).id > newest
    assert jobs.start("sample.add", {"numbers": [10], "label": "later"}).id == old["later"].id
    assert jobs.cancel(old["first"].id).state == "cancelled"
    assert jobs.cancel(old["abandoned"].id).state == "running"
