"""Which series a question is about, and how the query for them is planned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.testing import Client
from plugins.observability.analytics.reading import Moment, Reader, Scope
from plugins.observability.rollups.plan import DAY, Span
from plugins.observability.series import LOCAL_ACCOUNT
from tests.conftest import Serve
from tests.plugins.observability.analytics.computing import ingest, parts_of
from tests.plugins.observability.engines import every_server, run_statement
from tests.plugins.observability.events import ROOT, make_event

pytestmark = every_server

START = datetime(2025, 12, 10, tzinfo=UTC)
NARROW = Scope(LOCAL_ACCOUNT, "a", "/0")


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with events of two series."""
    client = serve(observability={"log_own_requests": False})
    ingest(client, [make_event(time=START.isoformat(), service="a", endpoint=f"/{number}") for number in range(2)])
    return client


def plan_mode(client: Client, scope: Scope, days: int, *, approx: bool) -> str:
    """Return how a question is planned."""
    with Reader(client.service.shared.db).moment(scope, Span(START, START + days * DAY), approx=approx) as moment:
        ((mode,),) = moment._connection.execute("SHOW plan_cache_mode")
        assert isinstance(mode, str)
        return mode


def rows_read(moment: Moment) -> int:
    """Return how many rows of the events' tables the session has read of late."""
    ((count,),) = moment._connection.execute(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables"
        " WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'observability.event'::regclass)"
    )
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(
    ("scope", "days", "approx", "mode"),
    [
        (NARROW, 30, True, "force_generic_plan"),
        (Scope(LOCAL_ACCOUNT, service="a"), 30, True, "force_generic_plan"),
        (NARROW, 2, False, "force_generic_plan"),
        # Many events may have to be found.
        (NARROW, 3, False, "force_custom_plan"),
        (Scope(LOCAL_ACCOUNT), 2, True, "force_custom_plan"),
    ],
)
def test_only_questions_about_few_series_and_few_events_keep_their_plans(
    client: Client, scope: Scope, days: int, approx: bool, mode: str
) -> None:
    assert plan_mode(client, scope, days, approx=approx) == mode


def test_questions_about_many_series_do_not_keep_their_plans(client: Client) -> None:
    ingest(client, [make_event(time=START.isoformat(), service="b", endpoint=f"/{number}") for number in range(101)])

    assert plan_mode(client, Scope(LOCAL_ACCOUNT, service="b"), 2, approx=True) == "force_custom_plan"


def test_plans_with_many_partitions_are_not_kept(client: Client) -> None:
    with client.service.shared.db.connection() as connection:
        # Only recent days and those to come have a partition each.
        connection.execute(
            "SELECT observability.ensure_partitions(ARRAY("
            "  SELECT current_date + day FROM generate_series(0, 60) AS day))"
        )

    assert plan_mode(client, NARROW, 2, approx=True) == "force_custom_plan"


def test_how_a_narrow_question_is_planned_stays_in_its_transaction(client: Client) -> None:
    db = client.service.shared.db
    with db.connection() as connection:
        before = connection.execute("SHOW plan_cache_mode").fetchone()

    assert plan_mode(client, NARROW, 2, approx=True) == "force_generic_plan"

    for _ in range(db.stats()["pool_size"]):
        with db.connection() as connection:
            assert connection.execute("SHOW plan_cache_mode").fetchone() == before


def test_exact_percentiles_of_few_series_are_read_from_an_index_alone(client: Client) -> None:
    window = Span(START, START + DAY)
    times = [(START + timedelta(seconds=number)).isoformat() for number in range(5000)]
    ingest(client, [make_event(time=time, service=f"s{number % 50}") for number, time in enumerate(times)])
    parts_of(client).rollups.refresh()
    run_statement(client, "VACUUM ANALYZE")

    with Reader(client.service.shared.db).moment(Scope(LOCAL_ACCOUNT, "s7"), window, approx=False) as moment:
        by_hour, events = moment.plan(window, "hour"), moment.plan(window, "raw")
        before = rows_read(moment)
        totals, percentiles = moment.totals_beside_percentiles(by_hour, events, 500, [95.0])
        read = rows_read(moment) - before

    assert (totals.hits, percentiles, read) == (100, [123.0], 0)


@pytest.mark.parametrize("filters", ["service=many", "endpoint=/same", "service=many&endpoint=/same", "method=get"])
def test_many_series_and_spellings_of_one_name_are_found(serve: Serve, filters: str) -> None:
    client = serve(observability={"log_own_requests": False})
    time = (START + timedelta(minutes=30)).isoformat()
    many = [make_event(time=time, service="Many", endpoint=f"/{number}", method="GET") for number in range(150)]
    same = [make_event(time=time, service=f"S{number}", endpoint="/Same", method="GET") for number in range(150)]
    both = [make_event(time=time, service=name, endpoint=f"/{name}", method="GET") for name in ("many", "MANY", "same")]
    both += [make_event(time=time, service="MANY", endpoint="/same", method="Get")]
    ingest(client, [*many, *same, *both])
    hits = {"service=many": 153, "endpoint=/same": 152, "service=many&endpoint=/same": 1, "method=get": 304}[filters]

    for source in ("hourly", "daily"):
        for question in ("", "&approx=true"):
            asked = f"start=2025-12-10&end=2025-12-10&granularity=daily&{filters}{question}"
            found = client.get(f"{ROOT}kpis/?{asked}").json()
            assert found["hits"] == hits, (source, question)
            assert found["source"] == ("raw" if "method" in filters and not question else source)
        parts_of(client).rollups.refresh()


@pytest.mark.parametrize(
    ("query", "counted"),
    [
        ("with_p95=true", "percentiles_by_endpoint"),
        ("with_p95=true&approx=true", "histogram_by_endpoint"),
        ("sort_by=p95_latency_ms", "totals_by_endpoint"),
        ("sort_by=p95_latency_ms&approx=true", "totals_by_endpoint"),
    ],
)
def test_what_does_not_rank_is_read_of_the_endpoints_that_are_shown_only(
    client: Client, monkeypatch: pytest.MonkeyPatch, query: str, counted: str
) -> None:
    read: list[tuple[str, str]] = []
    ask = getattr(Moment, counted)

    def ask_and_note(*arguments: Any) -> Any:
        found = ask(*arguments)
        read.extend(found)
        return found

    monkeypatch.setattr(Moment, counted, ask_and_note)

    rows = client.get(f"{ROOT}top-endpoints/?start=2025-12-10&end=2025-12-10&limit=1&{query}").json()

    assert read == [(row["service"], row["endpoint"]) for row in rows] == [("a", "/0")]
