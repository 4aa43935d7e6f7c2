"""What only a native TimescaleDB shows: vectorised statements, and an extension that is updated under a service.

Collected where ``TIERCEL_TEST_TIMESCALE_URL`` names a server; see ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.testing import Client
from plugins.observability.access import SYSTEM
from plugins.observability.live import ArrivalReader, LeftOut
from plugins.observability.models import SelectionQuery
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import TIMESCALE_URL, TestedEngine, require_community_licence, run_statement
from tests.plugins.observability.events import ROOT, create, make_event, post_ingest
from tests.processes import eventually

pytestmark = pytest.mark.engines("timescale_server_engine")
BINS_OF_EVENTS = """
    SELECT observability.latency_bin(latency_ms), count(*) FROM observability.event
    GROUP BY 1 ORDER BY 1 NULLS FIRST LIMIT 3
"""
BINS_OF_ROLLUPS = """
    SELECT bin, sum(hits)::integer FROM observability.histogram_hour GROUP BY 1 ORDER BY 1 NULLS FIRST LIMIT 3
"""
VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
SET_VERSION = "UPDATE pg_extension SET extversion = %s WHERE extname = 'timescaledb'"


@contextmanager
def administering(database: str) -> Iterator[Connection[tuple[object, ...]]]:
    """Connect as the role of the server's URL, without the library of the extension."""
    url = make_conninfo(str(TIMESCALE_URL), dbname=str(conninfo_to_dict(database)["dbname"]))
    with psycopg.connect(url, autocommit=True, options="-c timescaledb.disable_load=on") as connection:
        yield connection


def code_of(client: Client) -> str | None:
    """Return the code of the error of a request; None if there is none."""
    answer = client.get(ROOT)
    assert answer.status in (200, 503), answer.content
    code: str | None = answer.json().get("code")
    return code


def test_events_of_latency_0_are_counted_in_a_day_compressed_in_part(
    engine: TestedEngine, client: Client, database: str
) -> None:
    require_community_licence(engine)
    engine.stop_policies(database)
    times = [f"2025-12-14T{hour:02}:{minute:02}:00Z" for hour in range(24) for minute in range(60)]
    post_ingest(client, [make_event(time=time, latency_ms=number % 50) for number, time in enumerate(times)])
    container_of(client).rollups.refresh()
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

    create(client, latency_ms=0)
    create(client, latency_ms=None)
    container_of(client).rollups.refresh()

    expected = [(None, 1), (-1, 30), (0, 29)]
    assert run_statement(client, BINS_OF_EVENTS) == expected
    assert run_statement(client, BINS_OF_ROLLUPS) == expected
    assert client.get(f"{ROOT}kpis/?start=2025-12-14&end=2025-12-14").json()["hits"] == 1442


def test_what_arrives_is_found_whatever_older_events_are_columns(engine: TestedEngine, client: Client) -> None:
    require_community_licence(engine)
    create(client)
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")
    container = container_of(client)
    reader = ArrivalReader(container.db, container.store)
    start = reader.now()

    create(client, endpoint="/fresh", time=datetime.now(UTC).isoformat())
    fresh = reader.since(start, SelectionQuery(), SYSTEM)
    post_ingest(client, [make_event(endpoint="/late")] * 3)
    late = reader.since(fresh.cursor, SelectionQuery(), SYSTEM)
    both = reader.since(start, SelectionQuery(), SYSTEM)

    assert [event.endpoint for event in reader.events(fresh.keys, SYSTEM)] == ["/fresh"]
    assert (list(fresh.left_out), list(late.keys), list(late.left_out)) == ([], [], [LeftOut(3, "volume")])
    assert (list(both.keys), list(both.left_out)) == (list(fresh.keys), [LeftOut(3, "volume")])


def test_an_update_of_the_extension_is_named_once_and_its_missing_library_until_it_is_there(
    client: Client, database: str
) -> None:
    create(client)
    with administering(database) as administrator:
        ((version,),) = administrator.execute(VERSION)

        administrator.execute(SET_VERSION, ["2.0.0"])
        codes = [code_of(client)]
        assert eventually(lambda: code_of(client) == "timescaledb_library")
        ready = client.get("/readyz")
        administrator.execute(SET_VERSION, [version])

    assert codes == ["timescaledb_updated"]
    assert (ready.status, b"lacks the library" in ready.content) == (503, True)
    assert eventually(lambda: code_of(client) is None)
    assert len(client.get(ROOT).json()["results"]) == 1
