"""Partitions are created for events of any age, without blocking writers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.locks import waits_for_lock
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import partitioned_server
from tests.plugins.observability.events import ROOT, create, listed, make_event, make_events, post_ingest, stored_count
from tests.processes import eventually

pytestmark = [partitioned_server, pytest.mark.slow]

DAY = timedelta(days=1)


def days(count: int, *, until: datetime) -> list[str]:
    """Return noon of so many days, the last of them ``until``."""
    return [(until - number * DAY).replace(hour=12).isoformat() for number in range(count)]


def partitions(database: str) -> list[tuple[datetime, datetime]]:
    """Return what each partition covers, as the server itself sees it."""
    with psycopg.connect(database, options="-c TimeZone=UTC") as connection:
        rows = connection.execute(
            "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid"
            " WHERE inhparent = 'observability.event'::regclass"
        )
        bounds = [row[0].split("'") for row in rows]
    return sorted((datetime.fromisoformat(bound[1]), datetime.fromisoformat(bound[3])) for bound in bounds)


def test_recent_events_share_a_partition_with_their_day_only(serve: Serve, database: str) -> None:
    client = serve()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

    post_ingest(client, [make_event(time=time) for time in days(3, until=today)])

    assert partitions(database) == [(today - 2 * DAY, today - DAY), (today - DAY, today), (today, today + DAY)]


def test_events_of_an_old_year_share_one_partition(serve: Serve, database: str) -> None:
    client = serve()

    post_ingest(client, [make_event(time=f"2015-{month:02}-28T00:00:00Z") for month in range(1, 13)])

    assert partitions(database) == [(datetime(2015, 1, 1, tzinfo=UTC), datetime(2016, 1, 1, tzinfo=UTC))]


def test_events_of_a_month_that_is_over_share_one_partition(serve: Serve, database: str) -> None:
    client = serve()
    # The fourth month back: over for longer than 31 days, and in this year or the last.
    first = (datetime.now(UTC) - 100 * DAY).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + 31 * DAY).replace(day=1)

    post_ingest(client, [make_event(time=(first + number * DAY).isoformat()) for number in (0, 13, 27)])

    assert partitions(database) == [(first, following)]


def test_events_of_old_years_may_arrive_a_day_at_a_time(serve: Serve, database: str) -> None:
    client = serve()
    times = [
        "2015-12-31T23:59:59.999999Z",
        "2015-01-01T00:00:00Z",
        "2014-12-31T23:59:59.999999Z",
        "2016-01-01T00:00:00Z",
    ]

    for time in times:
        create(client, time=time)

    assert [event["time"] for event in listed(client, "ordering=time")] == sorted(times)
    assert len(partitions(database)) == 3


def test_events_of_400_days_go_in_one_request(serve: Serve, database: str) -> None:
    client = serve()
    times = days(400, until=datetime.now(UTC))

    answer = post_ingest(client, [make_event(time=time) for time in times])

    assert answer.json()["inserted"] == 400
    assert stored_count(client) == 400
    assert len(partitions(database)) < 100


def test_events_of_every_month_since_1970_go_in_one_request(serve: Serve) -> None:
    client = serve()
    times = [f"{year}-{month:02}-15T00:00:00Z" for year in range(1970, 2026, 5) for month in range(1, 13)]

    answer = post_ingest(client, [make_event(time=time) for time in times])

    assert answer.json()["inserted"] == len(times)
    assert [event["time"] for event in listed(client, "ordering=time&page_size=200")] == times


def test_an_event_a_day_ahead_is_stored(serve: Serve) -> None:
    client = serve()
    time = (datetime.now(UTC) + DAY - timedelta(minutes=1)).isoformat()

    assert post_ingest(client, [make_event(time=time)]).json()["inserted"] == 1


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE observability.{}", "ALTER TABLE observability.event DETACH PARTITION observability.{}"],
    ids=["dropped", "detached"],
)
@pytest.mark.parametrize("way", ["batch", "single", "patch"])
def test_a_partition_that_somebody_dropped_is_created_again(
    serve: Serve, database: str, statement: str, way: str
) -> None:
    client = serve(**QUIET)
    other = create(client, time="2010-06-15T00:00:00Z")
    create(client, time="2015-02-03T00:00:00Z")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement.format("event_2015"))

    if way == "batch":
        post_ingest(client, [make_event(time="2015-02-03T12:00:00Z")])
    elif way == "single":
        create(client, time="2015-02-03T12:00:00Z")
    else:
        client.request("PATCH", other, json={"time": "2015-02-03T12:00:00Z"})

    assert [event["time"] for event in listed(client, "time_after=2015-01-01")] == ["2015-02-03T12:00:00Z"]


def ingest_at_once(client: Client, batches: list[list[dict[str, Any]]]) -> list[tuple[int, int]]:
    """Send every batch in a separate thread; return how each was answered and how much it stored."""

    def ingest(batch: list[dict[str, Any]]) -> tuple[int, int]:
        answer = post_ingest(client, batch)
        return answer.status, answer.json().get("inserted", 0)

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(ingest, batches))


def test_concurrent_ingests_of_the_same_new_days_all_succeed(serve: Serve) -> None:
    client = serve()
    times = [*days(10, until=datetime.now(UTC)), *(f"20{year:02}-01-01T00:00:00Z" for year in range(10))]
    events = [make_event(time=time) for time in times]

    # Each begins elsewhere, so that the locks are wanted in different orders.
    answers = ingest_at_once(client, [events[worker:] + events[:worker] for worker in range(8)])

    assert answers == [(200, len(times))] * 8
    assert stored_count(client) == 8 * len(times)


def test_two_writers_of_the_same_new_series_do_not_deadlock(serve: Serve, database: str) -> None:
    client = serve()
    names = [f"s{number:02}" for number in range(50)]
    insert = "INSERT INTO observability.series (service, endpoint, method) VALUES (%s, '/api/v1/invoices', 'GET')"

    with ThreadPoolExecutor(1) as pool, psycopg.connect(database) as other:
        other.execute(insert, [names[0]])
        ingesting = pool.submit(post_ingest, client, [make_event(service=name) for name in names])
        assert eventually(lambda: waits_for_lock(database))
        for name in names[1:]:
            other.execute(insert, [name])
        other.commit()

    assert ingesting.result().json() == {"inserted": 50, "duplicates": 0, "rejected": 0, "errors": [], "capped": 0}


def test_a_partition_is_created_while_another_transaction_writes(serve: Serve, database: str) -> None:
    client = serve(db={"statement_timeout_s": 5})
    create(client)
    with psycopg.connect(database) as writer:
        writer.execute(
            "INSERT INTO observability.event SELECT gen_random_uuid(), time, series, 200, 1 , NULL, NULL, '{}'"
            " FROM observability.event"
        )

        answers = [post_ingest(client, make_events(1)), client.post(ROOT, make_event(time="2012-01-01T00:00:00Z"))]

        assert [answer.status for answer in answers] == [200, 201]


def test_rows_are_written_while_a_partition_is_being_created(serve: Serve, database: str) -> None:
    client: Client = serve(db={"statement_timeout_s": 5})
    create(client)
    with psycopg.connect(database) as maker:
        maker.execute("SELECT observability.ensure_partitions('{2012-01-01}')")

        assert create(client)
        assert len(listed(client)) == 2


def test_locks_that_are_too_few_for_questions_about_all_time_are_found(serve: Serve) -> None:
    client = serve()
    post_ingest(client, [make_event(time="2024-05-01T00:00:00Z"), make_event(time="2025-05-01T00:00:00Z")])
    partitions = container_of(client).partitions

    assert partitions.describe_locks() is None
    assert "raise max_locks_per_transaction" in (partitions.describe_locks(questions=1_000_000) or "")
