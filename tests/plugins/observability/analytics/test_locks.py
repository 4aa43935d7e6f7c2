"""How many locks a question takes, which ``tiercel check`` compares with those of the server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kernel.identity import SYSTEM_ACCOUNT
from kernel.testing import Client
from plugins.observability.analytics.scope import Scope
from plugins.observability.analytics.session import QuerySession
from plugins.observability.partitions import OTHER_LOCKS
from plugins.observability.resolution import Resolution, Span
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import TestedEngine, every_engine, run_statement
from tests.plugins.observability.events import make_event

pytestmark = [every_engine, pytest.mark.slow]

# Neither begins nor ends with an hour: events are read, and rollups of hours and of days.
WINDOW = Span(datetime(2012, 1, 31, 7, 23, tzinfo=UTC), datetime(2026, 11, 27, 16, 42, tzinfo=UTC))
COMPRESS = """
    SELECT compress_chunk(show_chunks(format('observability.%I', name)::regclass))
    FROM unnest(ARRAY['event', 'rollup_hour', 'histogram_hour', 'rollup_day']) AS name
"""
HELD = """
    SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    WHERE (pid = pg_backend_pid() OR %s) AND relnamespace <> 'pg_catalog'::regnamespace
"""


def count_locks(engine: TestedEngine, client: Client) -> int:
    """Return how many locks a session has after a question about one series, whose plan is for any window."""
    scope = Scope(WINDOW, SYSTEM_ACCOUNT, service="billing", endpoint="/api/v1/invoices")
    with QuerySession.open(client.service.shared.db, scope, approx=True) as session:
        totals, _ = session.totals_and_histogram(session.plan(Resolution.DAY), 500)
        ((held,),) = session._connection.execute(HELD, [engine.one_session])
    assert totals.hits > 0
    return int(held)


def test_the_locks_of_the_largest_question_are_known(engine: TestedEngine, client: Client, database: str) -> None:
    engine.stop_policies(database)
    measure = container_of(client).partitions.measure_locks
    ingest(client, [make_event(time=f"{year}-02-01T12:00:00Z") for year in range(2012, 2026)])
    container_of(client).rollups.refresh()

    assert measure()[1] - OTHER_LOCKS <= count_locks(engine, client) <= measure()[1]
    if engine.name == "timescaledb":
        of_rows = measure()[1]
        run_statement(client, COMPRESS)
        # Of events, and of the three rollups that are columns.
        assert measure()[1] >= of_rows + 2 * 14 + 3 * 2 * 14
        assert measure()[1] - OTHER_LOCKS <= count_locks(engine, client) <= measure()[1]
