"""``export/``: every event that some filters match, as a file."""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet
import pytest

from kernel import Database, UnavailableError
from kernel.identity import OPEN
from kernel.testing import Client
from plugins.observability.export import EventScanner, ExportQuery, ExportRoutes, FormatName
from plugins.observability.models import FilterQuery
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of, ingest, random_events
from tests.plugins.observability.engines import every_engine, every_server, one_engine
from tests.plugins.observability.events import ROOT, create, make_event, make_events, stored_count
from tests.processes import eventually

pytestmark = [every_engine, pytest.mark.slow]

URL = f"{ROOT}export/"
FORMATS = ("csv", "ndjson", "parquet")
# More than one batch of the cursor, and more than one page.
EVENTS = [
    {**event, "latency_ms": None} if number % 7 == 0 else event for number, event in enumerate(random_events(2300))
]
AWKWARD = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\uff1dx",
    "'=x",
    "'plain",
    'a "b"',
    "a,b",
    "two\r\nlines",
    "é 漢",
    "",
]


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with more events than one batch holds."""
    ingest(shared, EVENTS)
    return shared


def export(client: Client, query: str) -> bytes:
    answer = client.get(f"{URL}?{query}")
    assert answer.status == 200, answer.content
    return answer.content


def split_trailer(content: bytes) -> tuple[bytes, bytes]:
    """Return a file of lines without its last line, and that line."""
    head, newline, last = content.removesuffix(b"\n").rpartition(b"\n")
    return head + newline, last


def events_of_list(client: Client, query: str) -> list[dict[str, Any]]:
    """Return the events of all pages of the list."""
    found: list[dict[str, Any]] = []
    url: str | None = f"{ROOT}?page_size=1000&{query}"
    while url is not None:
        page = client.get(url).json()
        found += page["results"]
        url = page["next"] and page["next"].partition("127.0.0.1")[2]
    return found


def rows_of(content: bytes, name: str) -> list[dict[str, Any]]:
    """Parse a file into events as the list has them."""
    if name == "ndjson":
        return [msgspec.json.decode(line) for line in split_trailer(content)[0].splitlines()]
    if name == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(split_trailer(content)[0].decode(), newline="")))
    else:
        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        rows = [{**row, "time": row["time"].isoformat().replace("+00:00", "Z")} for row in rows]
    for row in rows:
        row["status_code"] = int(row["status_code"])
        row["latency_ms"] = int(row["latency_ms"]) if row["latency_ms"] not in ("", None) else None
        row["tags"] = msgspec.json.decode(row["tags"])
    return rows


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "query",
    [
        "",
        "service=BILLING&method=post&status_code__in=404,500&latency_min=10",
        "search=bill&ordering=service,-latency_ms",
    ],
)
def test_a_file_has_what_the_list_has_in_its_order(client: Client, name: str, query: str) -> None:
    rows = rows_of(export(client, f"format={name}&{query}"), name)

    expected = events_of_list(client, query)
    assert len(expected) > 100
    assert rows == expected


def test_ndjson_ends_with_the_number_of_rows_and_the_digest_of_all_before(client: Client) -> None:
    head, last = split_trailer(export(client, "format=ndjson"))

    assert msgspec.json.decode(last) == {"rows": len(EVENTS), "sha256": hashlib.sha256(head).hexdigest()}


def test_csv_ends_with_a_comment_with_the_number_of_rows_and_the_digest_of_all_before(client: Client) -> None:
    head, last = split_trailer(export(client, "format=csv"))

    assert last.decode() == f"# rows={len(EVENTS)} sha256={hashlib.sha256(head).hexdigest()}\r"


def test_the_footer_of_parquet_has_the_number_of_rows_and_the_digest_of_all_before(client: Client) -> None:
    content = export(client, "format=parquet")

    footer_bytes = int.from_bytes(content[-8:-4], "little")
    digest = hashlib.sha256(content[: -8 - footer_bytes]).hexdigest()
    metadata = pyarrow.parquet.ParquetFile(io.BytesIO(content)).metadata
    assert metadata.num_rows == len(EVENTS)
    assert (metadata.metadata[b"rows"], metadata.metadata[b"sha256"]) == (b"%d" % len(EVENTS), digest.encode())


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_events_is_whole(client: Client, name: str) -> None:
    assert rows_of(export(client, f"format={name}&service=nobody"), name) == []


def test_csv_is_the_default_format(client: Client) -> None:
    answer = client.get(f"{URL}?service=nobody")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="requests.csv"'
    assert answer.content.startswith(
        b"id,time,service,endpoint,method,status_code,latency_ms,trace_id,user_ref,tags\r\n"
    )


def test_an_export_is_also_under_v1(client: Client) -> None:
    answer = client.get("/api/v1/requests/export/?format=ndjson&service=billing")

    assert (answer.status, answer.content) == (200, export(client, "format=ndjson&service=billing"))


@pytest.fixture(scope="module")
def awkward(client: Client) -> Client:
    """A service with texts that are hard for spreadsheets and parsers."""
    ingest(client, [make_event(user_ref=text, trace_id="awkward", latency_ms=n) for n, text in enumerate(AWKWARD)])
    return client


@pytest.mark.parametrize("name", ["ndjson", "parquet"])
def test_texts_are_as_they_were_sent(awkward: Client, name: str) -> None:
    rows = rows_of(export(awkward, f"format={name}&trace_id=awkward&ordering=latency_ms"), name)

    assert [row["user_ref"] for row in rows] == AWKWARD


def test_no_cell_of_csv_is_a_formula_and_every_text_can_be_restored(awkward: Client) -> None:
    rows = rows_of(export(awkward, "format=csv&trace_id=awkward&ordering=latency_ms"), "csv")

    cells = [row["user_ref"] for row in rows]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\uff1d")]
    assert [cell.removeprefix("'") for cell in cells] == AWKWARD


@one_engine
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("format=xlsx", "format"),
        ("page=2", "page"),
        ("ordering=nobody", "ordering"),
        ("status_code=99999", "status_code"),
        ("search=%00", "search"),
    ],
)
def test_a_wrong_parameter_is_rejected_and_does_not_count_as_an_export(client: Client, query: str, name: str) -> None:
    for _ in range(5):
        answer = client.get(f"{URL}?{query}")
        assert (answer.status, list(answer.json()["errors"])) == (400, [name])

    assert client.get(f"{URL}?service=nobody").status == 200


def test_without_pyarrow_parquet_is_rejected_with_a_hint(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    answer = client.get(f"{URL}?format=parquet")

    assert answer.status == 400
    assert "pip install 'tiercel[parquet]'" in answer.json()["errors"]["format"][0]


@every_server
def test_one_export_too_many_is_503(serve: Serve) -> None:
    answer = serve(observability={"exports_max": 0}).get(URL)

    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "at most" in answer.json()["detail"]


@every_server
def test_after_each_export_the_next_may_begin(serve: Serve) -> None:
    client = serve(observability={"exports_max": 1})

    assert [client.request(method, URL).status for method in ("GET", "HEAD", "GET", "HEAD", "GET")] == [200] * 5


@pytest.fixture
def database_of(serve: Serve) -> tuple[Client, Database]:
    """A service with a short statement timeout, and its database."""
    client = serve(db={"statement_timeout_s": 0.3}, observability={"log_own_requests": False})
    ingest(client, make_events(2500))
    return client, client.service.shared.db


@every_server
def test_a_scan_sees_one_snapshot_and_outlives_the_statement_timeout(
    database_of: tuple[Client, Database], database: str
) -> None:
    client, db = database_of
    batches = EventScanner(db, lambda _: {}, 60, 60, 65_536).scan(FilterQuery())
    first = next(batches)
    begun = time.monotonic()
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM observability.event")
    assert eventually(lambda: time.monotonic() - begun > 0.6)

    rest = [event for batch in batches for event in batch]

    assert stored_count(client) == 0
    assert len(first) + len(rest) == 2500


@every_server
def test_a_scan_ends_if_its_consumer_pauses_for_too_long(database_of: tuple[Client, Database], database: str) -> None:
    _, db = database_of
    batches = EventScanner(db, lambda _: {}, 60, 0.2, 65_536).scan(FilterQuery())
    next(batches)
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    with psycopg.connect(database, autocommit=True) as connection:
        assert eventually(lambda: connection.execute(idle).fetchone() == (0,))

    with pytest.raises(UnavailableError):
        next(batches)


@every_server
def test_a_scan_that_takes_too_long_ends(database_of: tuple[Client, Database]) -> None:
    _, db = database_of
    batches = EventScanner(db, lambda _: {}, 0.2, 60, 65_536).scan(FilterQuery())
    next(batches)
    # It began with the first batch, which may have taken long.
    begun = time.monotonic()
    assert eventually(lambda: time.monotonic() - begun > 0.2)

    with pytest.raises(UnavailableError) as caught:
        next(batches)
    assert caught.value.detail == "the export took longer than 0.2 s"


def peak_bytes() -> int:
    """Return the peak memory of this process since it was reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@every_server
@pytest.mark.parametrize("name", ["csv", "ndjson"])
def test_an_export_is_streamed_in_constant_memory(serve: Serve, database: str, name: FormatName) -> None:
    client = serve(observability={"log_own_requests": False})
    create(client)
    with psycopg.connect(database) as connection:
        connection.execute(
            """INSERT INTO observability.event
               SELECT gen_random_uuid(), time, series, 200, 1, NULL, NULL, jsonb_build_object('text', repeat('x', 2000))
               FROM observability.event, generate_series(1, 30000)"""
        )
    exports = ExportRoutes(container_of(client).scanner, 1, threading.Event(), client.service.shared.usage)
    Path("/proc/self/clear_refs").write_text("5")
    before_bytes = peak_bytes()

    size_bytes = sum(map(len, exports.export(ExportQuery(format=name), OPEN).body.chunks))

    assert size_bytes > 60_000_000
    assert peak_bytes() - before_bytes < 30_000_000
