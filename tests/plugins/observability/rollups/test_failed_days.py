"""A day whose rollups cannot be computed: all others are, and it is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from plugins.observability.rollups.refresh import RefreshError
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_engine, every_server, run_statement
from tests.plugins.observability.events import stored_count
from tests.plugins.observability.rollups.factories import (
    DAY,
    apply,
    keeping,
    kpis,
    run_command,
    serve_six_days,
    store_at,
    today,
)

DIRTY = "SELECT DISTINCT date_trunc('day', hour, 'UTC') FROM observability.rollup_touched ORDER BY 1"
JOBS = ("observability.rollups", "observability.retention")
REASON = "division by zero"


@contextmanager
def failing(client: Client, day: datetime) -> Iterator[None]:
    """Let no rollups of a day be stored."""
    name = "observability.rollup_day"
    if run_statement(client, "SELECT FROM pg_views WHERE schemaname = 'observability' AND viewname = 'rollup_day'"):
        ((name,),) = run_statement(
            client,
            "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
            " FROM timescaledb_information.continuous_aggregates WHERE view_name = 'rollup_day'",
        )
    with client.service.shared.db.connection() as connection:
        # The condition fails for that day, and holds for no other: the function is never called.
        connection.execute(
            f"CREATE TRIGGER failing BEFORE INSERT ON {name} FOR EACH ROW"
            f" WHEN (1 / (NEW.bucket <> '{day.isoformat()}')::integer = 0)"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()".encode()
        )
    yield
    with client.service.shared.db.connection() as connection:
        connection.execute(f"DROP TRIGGER failing ON {name}".encode())


def readiness(client: Client) -> tuple[int, dict[str, Any]]:
    """Return the status of ``/readyz``, and what the check of rollups says."""
    answer = client.get("/readyz?verbose")
    (check,) = (check for check in answer.json()["checks"] if check["name"] == "rollups")
    return answer.status, check


@every_engine
def test_a_day_that_fails_is_named_and_no_other_waits_for_it(serve: Serve) -> None:
    client = serve(observability=keeping())
    days = [today() - number * DAY for number in (3, 2, 1)]
    store_at(client, *days)
    rollups = container_of(client).rollups

    with failing(client, days[0]):
        for _ in ("first", "again"):
            with pytest.raises(RefreshError, match=f"The rollups of {days[0].date()} cannot be computed") as caught:
                rollups.refresh()
            assert run_statement(client, DIRTY) == [(days[0],)]
        ran = run_command(client, "refresh", "hourly")
        failed, described = readiness(client), rollups.describe_failed_days()
        hits = kpis(client)["hits"], kpis(client, "start=1970-01-01&approx=true")["hits"]

    assert REASON in str(caught.value.detail)
    assert isinstance(ran.exception, RefreshError)
    assert failed[0] == 200
    assert failed[1]["status"] == "degraded"
    assert failed[1]["detail"].startswith(f"the rollups of {days[0].date()} cannot be computed")
    assert REASON in str(described)
    assert ", 3 attempts since" in str(described)
    assert hits == (3, 3)
    rollups.refresh()
    assert (run_statement(client, DIRTY), readiness(client)[1]["status"]) == ([], "ok")
    assert run_statement(client, "SELECT FROM observability.refresh_attempt") == []


@every_server
def test_a_refresh_that_was_interrupted_is_named_once_it_was_tried_again(serve: Serve, database: str) -> None:
    client = serve(observability=keeping())
    store_at(client, today() - DAY)
    # As processes leave it that are killed.
    attempt = "INSERT INTO observability.refresh_attempt (bucket, attempts) VALUES (%s, %s)"
    with psycopg.connect(database) as connection:
        connection.execute(attempt, [today() - DAY, 1])
        connection.execute(attempt, [today() - 2 * DAY, 2])
    rollups = container_of(client).rollups

    described = [rollups.describe_failed_days()]
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE observability.refresh_attempt SET attempts = attempts + 1")
    described.append(rollups.describe_failed_days())

    # The first may be running, and the other day is not dirty.
    assert described[0] is None
    assert f"\n  {(today() - DAY).date()}: interrupted, 2 attempts" in str(described[1])
    assert f"{(today() - 2 * DAY).date()}" not in str(described[1])


@every_server
def test_retention_keeps_events_from_a_day_on_that_fails_and_removes_the_others(serve: Serve) -> None:
    serve_six_days(serve)
    client = serve(observability=keeping(raw_days=2))
    day = today() - 4 * DAY

    with failing(client, day):
        jobs = [client.service.shared.jobs.run_inline(name) for name in JOBS]
        kept = stored_count(client)

    reason = f"The rollups of {day.date()} cannot be computed. {REASON} (SQLSTATE 22012)"
    assert [(record.state, record.error) for record in jobs] == [("failed", reason)] * len(JOBS)
    assert kept == 20
    assert run_statement(client, "SELECT from_time FROM observability.retention WHERE level = 'raw'") == [(day,)]
    apply(client)
    assert (stored_count(client), kpis(client)["hits"]) == (12, 24)
