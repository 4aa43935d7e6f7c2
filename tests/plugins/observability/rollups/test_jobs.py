"""The job that refreshes rollups, and the commands that do so at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from kernel import ConflictError, InvalidError
from kernel.cli import output
from kernel.testing import Client
from plugins.observability.rollups import commands
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_server
from tests.plugins.observability.rollups.factories import (
    DAY,
    HOUR,
    kpis,
    one_value,
    run_command,
    store_at,
    today,
)
from tests.processes import run_tiercel

pytestmark = every_server

JOB = "observability.rollups"
TOUCHED = "SELECT count(DISTINCT hour) FROM observability.rollup_touched"
OWN = {"log_own_requests": False}


def refresh(client: Client) -> object:
    record = client.service.shared.jobs.run_inline(JOB)
    assert record.state == "succeeded", record.error
    return record.result


def this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@pytest.mark.parametrize(("job", "schedule"), [(JOB, "every 1m"), ("observability.retention", "20 0 * * *")])
def test_jobs_are_scheduled(client: Client, job: str, schedule: str) -> None:
    assert client.service.shared.jobs.registry.schedules[job].text == schedule


def test_the_job_computes_finished_hours_at_once(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    store_at(client, this_hour() - HOUR, today() - 3 * DAY, today() - 3 * DAY + HOUR)
    before = kpis(client)

    refresh(client)

    assert one_value(database, TOUCHED) == 0
    assert one_value(database, "SELECT sum(hits) FROM observability.cells_hour") == 3
    assert kpis(client) == before


def test_the_running_hour_is_left_alone_while_events_arrive(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    store_at(client, datetime.now(UTC), this_hour() - HOUR)

    refresh(client)

    assert one_value(database, TOUCHED) == 1
    assert one_value(database, "SELECT sum(hits) FROM observability.cells_hour") == 1
    assert kpis(client)["hits"] == 2


def test_the_running_hour_is_computed_once_it_has_waited(serve: Serve, database: str) -> None:
    client = serve(observability={**OWN, "running_hour_wait_s": 60})
    store_at(client, datetime.now(UTC))
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE observability.rollup_touched SET at = at - interval '61 seconds'")

    refresh(client)

    assert one_value(database, TOUCHED) == 0


def test_dirty_hours_are_deduplicated(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    for _ in range(5):
        store_at(client, datetime.now(UTC))

    refresh(client)

    assert one_value(database, "SELECT count(*) FROM observability.rollup_touched") <= 2
    assert kpis(client)["hits"] == 5


def test_a_refresh_that_is_stopped_keeps_the_days_it_has_done(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    store_at(client, *(today() - number * DAY for number in range(1, 5)))

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        container_of(client).rollups.refresh(progress=stop)

    assert one_value(database, TOUCHED) == 2
    assert kpis(client)["hits"] == 4
    refresh(client)
    assert one_value(database, TOUCHED) == 0
    assert kpis(client)["hits"] == 4


def test_the_job_does_nothing_while_another_session_refreshes(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    store_at(client, today() - DAY)
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('observability.rollups'))")

        assert refresh(client) is None

    assert one_value(database, TOUCHED) == 1


def test_a_command_refreshes_a_range(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    day = today() - 3 * DAY
    store_at(client, day, day + HOUR, day + 2 * HOUR, day + DAY)

    ran = run_command(
        client, "refresh", "hourly", "--start", (day + 1.5 * HOUR).isoformat(), "--end", day.date().isoformat()
    )

    assert (ran.exit_code, ran.stdout) == (0, "2 hours on 1 days refreshed.\n")
    assert one_value(database, TOUCHED) == 2


def test_a_command_shows_its_progress(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(observability=OWN)
    store_at(client, today() - 3 * DAY, today() - 2 * DAY)
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0)

    ran = run_command(client, "refresh", "hourly")

    assert ran.stderr.splitlines() == ["days: 0 of 2 (0%)", "days: 1 of 2 (50%)", "days: 2 of 2 (100%)"]


def test_daily_refreshes_whole_days(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    day = today() - 3 * DAY
    store_at(client, day, day + 23 * HOUR, day + DAY)
    noon = (day + 12 * HOUR).isoformat()

    run_command(client, "refresh", "daily", "--start", noon, "--end", noon)

    assert one_value(database, TOUCHED) == 1


def test_a_refresh_with_nothing_to_do_succeeds(serve: Serve) -> None:
    client = serve(observability=OWN)
    store_at(client, today() - 3 * DAY)

    for names in (("--start", "--end"), ("--time-after", "--time-before")):
        ran = run_command(client, "refresh", "daily", names[0], "2020-01-01", names[1], "2020-02-01")

        assert (ran.exit_code, ran.stdout) == (
            0,
            "There is nothing to refresh from 2020-01-01T00:00:00Z to 2020-02-01T23:59:59Z: "
            "the rollups include every event.\n",
        )


@pytest.mark.parametrize("span", [("2020-02-01", "2020-01-01"), ("yesterday", "2020-01-01")])
def test_an_invalid_range_is_rejected(serve: Serve, span: tuple[str, str]) -> None:
    ran = run_command(serve(observability=OWN), "refresh", "daily", "--start", span[0], "--end", span[1])

    assert isinstance(ran.exception, InvalidError)
    assert list(ran.exception.errors or {}) == ["start"]


def test_a_refresh_fails_while_another_session_refreshes(
    serve: Serve, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOCK_WAIT_S", 0)
    client = serve(observability=OWN)
    with psycopg.connect(database, application_name="nightly") as other:
        other.execute("SELECT pg_advisory_lock(hashtext('observability.rollups'))")
        process = other.info.backend_pid

        ran = run_command(client, "refresh", "daily")

    assert isinstance(ran.exception, ConflictError)
    assert ran.exception.message == (
        f"Somebody else is refreshing the rollups: nightly, process {process} of the database server."
    )


def test_a_command_waits_for_another_session_that_refreshes(serve: Serve, database: str) -> None:
    client = serve(observability=OWN)
    store_at(client, today() - DAY)
    with psycopg.connect(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_lock(hashtext('observability.rollups'))")

        running = pool.submit(run_command, client, "refresh", "daily")
        with pytest.raises(TimeoutError):
            running.result(0.5)
        other.execute("SELECT pg_advisory_unlock_all()")

        assert running.result().exit_code == 0

    assert one_value(database, TOUCHED) == 0


@pytest.mark.slow
@pytest.mark.parametrize("alias", ["refresh_apirequest_hourly", "refresh_apirequest_daily"])
def test_older_names_of_the_commands_still_work(serve: Serve, database: str, tmp_path: Path, alias: str) -> None:
    store_at(serve(observability=OWN), today() - timedelta(days=3))

    done = run_tiercel(tmp_path / "home", alias, "--json", TIERCEL_DATABASE_URL=database)
    again = run_tiercel(tmp_path / "home", alias, TIERCEL_DATABASE_URL=database)

    assert (done.returncode, done.stdout.split()) == (0, ["{", '"days":', "1,", '"hours":', "1", "}"])
    assert (again.returncode, again.stdout) == (0, "There is nothing to refresh: the rollups include every event.\n")
