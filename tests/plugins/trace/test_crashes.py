"""Dying workers, outages and full disks during an export: nothing is published in part; the next one is complete."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec
import psycopg
import pytest

from kernel import ConflictError, UnavailableError
from kernel.jobs.service import Jobs
from kernel.testing import Client
from plugins.trace.jobs import ExportError, run_export
from plugins.trace.store import find_source
from tests.conftest import Serve
from tests.notion.faults import concurrently, delayed, is_query, once
from tests.notion.server import FakeNotion
from tests.outage import outage
from tests.plugins.trace.factories import FAST, PLUGINS, Specifications, export
from tests.processes import eventually, make_environment
from tests.workers import Workers

NAMES = ("features", "gateways", "tags", "tiers")
DEAD_AFTER_S = 2.0
WAITING_FOR_THE_TABLE = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%%dataset_version%%'
"""


@pytest.fixture
def workers(tmp_path: Path, database: str, notion: FakeNotion, specifications: Specifications) -> Iterator[Workers]:
    """Worker processes that export the specifications."""
    settings = {**FAST, "api_url": notion.url}
    environment = make_environment(
        tmp_path / ".tiercel",
        TIERCEL_PLUGINS=",".join(PLUGINS),
        TIERCEL_DATABASE_URL=database,
        TIERCEL_JOBS__DEAD_AFTER_S=str(DEAD_AFTER_S),
        TIERCEL_TRACE__SOURCES=msgspec.json.encode(specifications.sources()).decode(),
        NOTION_TOKEN=notion.token,
        **{f"TIERCEL_TRACE__{name.upper()}": str(value) for name, value in settings.items()},
    )
    made = Workers(tmp_path, environment)
    yield made
    made.end()


@pytest.fixture
def client(serve: Serve, notion: FakeNotion, specifications: Specifications) -> Client:
    """A service that starts jobs and observes them."""
    table = {**FAST, "token": notion.token, "api_url": notion.url, "sources": specifications.sources()}
    return serve(plugins=PLUGINS, trace=table, jobs={"dead_after_s": DEAD_AFTER_S}, db={"pool_timeout_s": 1.0})


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end: responses that are delayed until then do not outlive the test."""
    event = threading.Event()
    yield event
    event.set()


def jobs_of(client: Client) -> Jobs:
    jobs: Jobs = client.service.shared.jobs
    return jobs


def grow(specifications: Specifications, name: str) -> None:
    """Let some time pass, and add a row to each data source."""
    specifications.workspace.wait(minutes=5)
    for table in (specifications.features, specifications.gateways, specifications.tags, specifications.tiers):
        specifications.workspace.add_page(table, {"Name": name})


def stored(client: Client) -> dict[str, tuple[int, set[str]]]:
    """Return the version of each dataset and the names of its items; fail if the state of its source differs."""
    datasets, db = client.service.shared.datasets, client.service.registry.services["trace"].db
    found: dict[str, tuple[int, set[str]]] = {}
    for name in NAMES:
        state, versions = find_source(db, name), datasets.versions(name, 1)
        assert (state is None) == (not versions)
        if state is not None:
            items = {item.name for item in datasets.read(name, as_of=versions[0].version).items}
            assert items == {row.fields["name"] for row in state.rows}
            found[name] = (versions[0].version, items)
    return found


@pytest.mark.process
def test_a_worker_killed_while_reading_publishes_nothing_and_the_job_is_repeated(
    client: Client, workers: Workers, notion: FakeNotion, specifications: Specifications, released: threading.Event
) -> None:
    chance = random.Random(6)
    supervisor = workers.start()
    before: dict[str, tuple[int, set[str]]] = {}
    for number in range(4):
        grow(specifications, f"Added {number}")
        notion.faults = [once(delayed(released), after=chance.randrange(20))]
        asked = len(notion.calls)
        started = jobs_of(client).start("trace.refresh", {"full": number % 2 == 0})
        assert eventually(partial(is_held, notion, asked), 30)

        supervisor.children()[0].kill()
        left = stored(client)
        done = jobs_of(client).wait(started.id, 30)

        assert left == before
        assert (done.state, done.attempt) == ("succeeded", 2)
        before = stored(client)
        assert all(f"Added {number}" in names for _, names in before.values())


def is_held(notion: FakeNotion, after: int) -> bool:
    """Tell whether the last request since then waits for its response."""
    calls = notion.calls[after:]
    return bool(calls) and calls[-1].delay_until is not None


@pytest.mark.process
def test_a_worker_killed_while_publishing_publishes_nothing(
    client: Client, workers: Workers, notion: FakeNotion, specifications: Specifications, database: str
) -> None:
    export(client)
    before = stored(client)
    grow(specifications, "Added")
    supervisor = workers.start()

    with psycopg.connect(database) as holding:
        # The state of the sources is written before it waits for the lock; the datasets are not.
        holding.execute("LOCK TABLE tiercel.dataset_version IN EXCLUSIVE MODE")
        started = jobs_of(client).start("trace.refresh")
        with psycopg.connect(database, autocommit=True) as watching:
            assert eventually(lambda: watching.execute(WAITING_FOR_THE_TABLE).fetchone() is not None, 30)
        supervisor.children()[0].kill()
    left = stored(client)

    done = jobs_of(client).wait(started.id, 30)
    assert left == before
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert {version for version, _ in stored(client).values()} == {2}


@pytest.mark.process
def test_two_workers_never_export_at_the_same_time(
    client: Client, workers: Workers, notion: FakeNotion, released: threading.Event
) -> None:
    notion.faults = [once(delayed(released))]
    workers.start(processes=2)
    jobs = jobs_of(client)
    started = [jobs.start("trace.refresh"), jobs.start("trace.reconcile")]
    assert eventually(lambda: bool(notion.calls), 30)

    with pytest.raises(ConflictError, match=r"trace\.re"):
        run_export(client.service.registry.services["trace"])
    states = sorted(jobs.get(each.id).state for each in started)
    asked = len(notion.calls)
    released.set()

    assert (states, asked) == (["running", "waiting"], 1)
    assert [jobs.wait(each.id, 30).state for each in started] == ["succeeded", "succeeded"]
    records = sorted((jobs.get(each.id) for each in started), key=lambda each: str(each.started_at))
    assert str(records[0].finished_at) <= str(records[1].started_at)


@pytest.mark.slow
def test_an_outage_of_the_database_during_an_export_changes_nothing(
    client: Client, notion: FakeNotion, specifications: Specifications, database: str
) -> None:
    export(client)
    before = stored(client)
    grow(specifications, "Added")
    services = client.service.registry.services["trace"]

    with ExitStack() as stack:
        notion.faults = [
            once(concurrently(lambda: stack.enter_context(outage(database))), is_query(specifications.features.id))
        ]
        with pytest.raises((UnavailableError, ExportError)):
            run_export(services)

    assert eventually(lambda: is_up(client))
    left = stored(client)
    assert left == before
    # The lock is free once the run counts as stalled.
    assert eventually(lambda: has_exported(client))
    assert all("Added" in names for _, names in stored(client).values())


def is_up(client: Client) -> bool:
    """Tell whether the database answers."""
    with suppress(UnavailableError):
        return bool(client.service.shared.datasets.versions("features", 1))
    return False


def has_exported(client: Client) -> bool:
    """Export; tell whether it succeeded."""
    try:
        export(client)
    except (ConflictError, UnavailableError):
        return False
    return True


@pytest.mark.parametrize("table", ["trace.source", "tiercel.dataset_version", "tiercel.dataset_publication"])
def test_a_full_disk_while_publishing_changes_nothing(
    client: Client, specifications: Specifications, database: str, table: str
) -> None:
    export(client)
    before = stored(client)
    grow(specifications, "Added")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("""
            CREATE FUNCTION public.fill_up() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$
        """)
        trigger = f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION public.fill_up()"
        connection.execute(f"CREATE TRIGGER full_disk {trigger}")

        with pytest.raises((ExportError, UnavailableError)):
            run_export(client.service.registry.services["trace"])
        left = stored(client)
        connection.execute(f"DROP TRIGGER full_disk ON {table}")

    assert left == before
    export(client)
    assert all("Added" in names for _, names in stored(client).values())
