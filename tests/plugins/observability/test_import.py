"""``tiercel observability import``, in this process, on a real database."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.accesslogs import (
    combined_line,
    combined_log,
    common_line,
    import_text,
    run_import,
    stored,
)
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import TestedEngine, every_engine, run_statement, serving_on
from tests.plugins.observability.events import UNSTORABLE_TAGS, make_events, raw_event

pytestmark = pytest.mark.slow

SMALL_BATCHES = {"ingest_batch_size": 10}


def json_lines(count: int) -> bytes:
    """Make a log of JSON lines."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in make_events(count))


def test_an_access_log_is_read_back_over_rest(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    imported = import_text(client, tmp_path, combined_line(user="ann") + b"\n")

    (event,) = stored(client)
    assert (imported.exit_code, imported.counts) == (0, (1, 0, 0))
    assert (event["service"], event["endpoint"], event["user_ref"]) == ("shop", "/invoices", "ann")
    assert event["tags"]["query"] == "page=2"


@pytest.mark.parametrize("batch_size", [10, 1000])
def test_every_line_of_many_batches_is_stored_once(serve: Serve, tmp_path: Path, batch_size: int) -> None:
    client = serve(observability={"ingest_batch_size": batch_size})
    # Identical lines are requests of their own.
    log = combined_log(45) + (combined_line() + b"\n") * 5

    first = import_text(client, tmp_path, log)
    second = import_text(client, tmp_path, log)

    assert first.counts == (50, 0, 0)
    assert second.counts == (0, 50, 0)
    assert len(stored(client)) == 50


def test_only_the_new_lines_of_a_log_that_grew_and_was_compressed_are_stored(serve: Serve, tmp_path: Path) -> None:
    client = serve(observability=SMALL_BATCHES)
    import_text(client, tmp_path, combined_log(25))

    imported = import_text(client, tmp_path, gzip.compress(combined_log(40)), name="shop.log.1.gz")

    assert imported.counts == (15, 25, 0)
    assert len(stored(client)) == 40


def test_a_line_that_was_half_written_is_stored_once_it_is_whole(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    log = combined_log(2)

    early = import_text(client, tmp_path, log[:-10])
    late = import_text(client, tmp_path, log)

    assert (early.counts, late.counts) == ((1, 0, 1), (1, 1, 0))


def test_an_event_whose_time_was_edited_does_not_come_back(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    import_text(client, tmp_path, combined_log(3))
    moved = stored(client)[0]
    client.request("PATCH", f"/api/requests/{moved['id']}/", json={"time": "2025-12-01T00:00:00Z"})

    # The first line alone: nothing but the edit tells that its event is known.
    again = import_text(client, tmp_path, combined_log(1))

    assert again.counts == (0, 1, 0)
    assert len(stored(client)) == 3


def test_an_event_that_was_moved_within_its_millisecond_does_not_come_back(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    import_text(client, tmp_path, combined_log(1))
    (event,) = stored(client)
    client.request("PATCH", f"/api/requests/{event['id']}/", json={"time": "2025-12-14T12:00:00.000500Z"})

    again = import_text(client, tmp_path, combined_log(1))

    assert again.counts == (0, 1, 0)
    assert len(stored(client)) == 1


def test_a_first_import_does_not_use_the_staging_table(serve: Serve, tmp_path: Path, database: str) -> None:
    client = serve()
    import_text(client, tmp_path, combined_log(20))

    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'event_staging'").fetchone()

    assert row == (0,)


def test_json_lines_are_imported_as_over_rest(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    imported = import_text(client, tmp_path, json_lines(12))
    again = import_text(client, tmp_path, json_lines(12))

    assert (imported.counts, again.counts) == ((12, 0, 0), (0, 12, 0))
    assert imported.summary["files"][0]["format"] == "json"
    assert stored(client)[0]["trace_id"] == "trace-001"


def test_an_export_is_imported_and_one_that_is_cut_off_is_reported(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    import_text(client, tmp_path, json_lines(3))
    export = client.get("/api/requests/export/?format=ndjson").content
    lines = export.splitlines(keepends=True)

    whole = import_text(client, tmp_path, export, name="whole.ndjson")
    cut_off = import_text(client, tmp_path, b"".join(lines[:-1]), name="cut-off.ndjson")
    shorter = import_text(client, tmp_path, b"".join(lines[1:]), name="shorter.ndjson")

    assert (whole.counts, whole.summary["lines"], whole.errors) == ((3, 0, 0), 3, "")
    assert (cut_off.counts, cut_off.exit_code) == ((0, 3, 0), 0)
    assert "cut-off.ndjson: This looks like an export without its last line" in cut_off.errors
    assert (shorter.counts, shorter.summary["lines"]) == ((0, 2, 1), 3)
    assert "shorter.ndjson:3: The export is not complete: 2 of 3 lines" in shorter.errors


def test_refused_lines_are_counted_by_reason_and_the_others_stored(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    lines = [combined_line(), b"garbage", b"", combined_line(status="999"), b"more garbage", common_line(user="bob")]

    imported = import_text(client, tmp_path, b"\n".join(lines) + b"\n")

    (report,) = imported.summary["files"]
    assert imported.exit_code == 0
    assert (report["lines"], imported.counts) == (5, (2, 0, 3))
    assert sorted(report["reasons"].values()) == [1, 2]
    assert "shop.log:2: The line is not in the format of this log." in imported.errors
    assert "shop.log:4: status_code" in imported.errors


def test_lines_that_only_the_database_refuses_are_counted(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    imported = import_text(client, tmp_path, json_lines(3) + raw_event(tags=UNSTORABLE_TAGS) + b"\n")

    assert imported.counts == (3, 0, 1)
    assert "shop.log:4: tags: The database cannot store this" in imported.errors


def test_lines_with_times_out_of_range_are_refused(serve: Serve, tmp_path: Path) -> None:
    log = (
        combined_line(time="[01/Jan/1969:00:00:00 +0000]") + b"\n" + combined_line(time="[01/Jan/9999:00:00:00 +0000]")
    )

    imported = import_text(serve(), tmp_path, log)

    assert imported.counts == (0, 0, 2)
    assert {reason.partition(":")[0] for reason in imported.summary["files"][0]["reasons"]} == {"time"}


@pytest.mark.parametrize(
    ("content", "exit_code"),
    [(b"garbage\n", 1), (b"", 0), (b"\n\n", 0), (combined_line() + b"\ngarbage\n", 0), (b"\x00\xff" * 1000, 1)],
    ids=["all refused", "empty", "blank", "some refused", "binary"],
)
def test_the_exit_code_says_whether_anything_was_stored(
    shared: Client, tmp_path: Path, content: bytes, exit_code: int
) -> None:
    assert import_text(shared, tmp_path, content).exit_code == exit_code


def test_a_format_that_is_known_in_part_is_reported_at_once_and_in_the_summary(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    log = b"".join(line + b" sid=secret 17\n" for line in combined_log(30).splitlines())

    imported = import_text(client, tmp_path, log)

    (report,) = imported.summary["files"]
    assert (imported.counts, report["repaired"]) == ((30, 0, 0), 30)
    assert report["repairs"] == {"The end of the line is not understood.": 30}
    assert report["examples"] == {"The end of the line is not understood.": "sid=… 17"}
    assert "shop.log:1: The end of the line is not understood. (sid=… 17)" in imported.errors
    assert "no latency is read from it" in imported.errors
    assert {event["latency_ms"] for event in stored(client)} == {None}


def test_times_behind_the_format_are_the_latencies(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    log = b"".join(line + b" 0.%03d\n" % number for number, line in enumerate(combined_log(30).splitlines()))

    imported = import_text(client, tmp_path, log)

    (report,) = imported.summary["files"]
    assert (report["format"], report["repaired"]) == ("combined+request_time", 0)
    assert "nginx's $request_time" in imported.errors
    assert [event["latency_ms"] for event in stored(client)] == list(range(30))


@every_engine
def test_a_wrong_import_is_corrected_by_another(serve: Serve, tmp_path: Path) -> None:
    client = serve(observability=SMALL_BATCHES)
    log = b"".join(line + b" %d\n" % number for number, line in enumerate(combined_log(25).splitlines()))
    right = ("--format", "combined+duration_ms")
    import_text(client, tmp_path, log, "--format", "combined+duration_s")
    container_of(client).rollups.refresh()

    hinted = import_text(client, tmp_path, log, *right)
    replaced = import_text(client, tmp_path, log, *right, "--replace")
    again = import_text(client, tmp_path, log, *right, "--replace")

    assert (hinted.counts, hinted.summary["files"][0]["differing"]) == ((0, 25, 0), 24)
    assert (replaced.counts, replaced.summary["replaced"]) == ((0, 1, 0), 24)
    assert (again.counts, again.summary["replaced"]) == ((0, 25, 0), 0)
    assert [event["latency_ms"] for event in stored(client)] == list(range(25))
    found = client.get("/api/requests/kpis/?start=2025-12-14&end=2025-12-14").json()
    assert (found["hits"], found["max_latency_ms"]) == (25, 24)


@every_engine
def test_replacing_stores_what_is_new_and_gives_a_line_the_latency_that_it_lacked(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    log = b"".join(line + b" %d\n" % number for number, line in enumerate(combined_log(4).splitlines()))
    import_text(client, tmp_path, b"".join(log.splitlines(keepends=True)[:2]))

    replaced = import_text(client, tmp_path, log, "--format", "combined+duration_ms", "--replace")

    assert (replaced.counts, replaced.summary["replaced"]) == ((2, 0, 0), 2)
    assert [(event["latency_ms"], "line" in event["tags"]) for event in stored(client)] == [
        (number, False) for number in range(4)
    ]


def test_events_of_compressed_chunks_are_replaced(timescale_engine: TestedEngine, tmp_path: Path) -> None:
    log = b"".join(line + b" 17\n" for line in combined_log(30).splitlines())
    with serving_on(timescale_engine) as client:
        import_text(client, tmp_path, log)
        run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")
        # As if there were more events than are decompressed by default.
        run_statement(client, "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 10")

        replaced = import_text(client, tmp_path, log, "--format", "combined+duration_ms", "--replace")

        assert (replaced.counts, replaced.summary["replaced"]) == ((0, 0, 0), 30)
        assert {event["latency_ms"] for event in stored(client)} == {17}


def test_the_hint_to_replace_is_printed(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    file = tmp_path / "shop.log"
    file.write_bytes(combined_line() + b" 17\n")
    command = client.command("observability", "import")
    CliRunner().invoke(command, [str(file)])

    again = CliRunner().invoke(command, [str(file), "--format", "combined+duration_ms"])

    assert "shop.log: 1 duplicates differ from what is stored; use --replace" in again.stdout


def test_nuls_where_a_log_was_truncated_do_not_lose_a_line(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    log = combined_log(3)

    first = import_text(client, tmp_path, bytes(5000) + log)
    again = import_text(client, tmp_path, b"\xef\xbb\xbf" + log)

    assert (first.counts, again.counts) == ((3, 0, 0), (0, 3, 0))
    assert {event["tags"]["client"] for event in stored(client)} == {"192.0.2.7"}


def test_a_file_in_utf_16_is_reported(shared: Client, tmp_path: Path) -> None:
    imported = import_text(shared, tmp_path, combined_log(3).decode().encode("utf-16"))

    assert (imported.exit_code, imported.counts) == (1, (0, 0, 0))
    assert "shop.log: the file is UTF-16: convert it to UTF-8 first" in imported.errors


def test_a_file_that_cannot_be_read_does_not_stop_the_others(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    (tmp_path / "shop.log").write_bytes(combined_log(2))

    imported = run_import(client, tmp_path / "missing.log", tmp_path, tmp_path / "shop.log")

    assert (imported.exit_code, imported.counts) == (1, (2, 0, 0))
    assert "missing.log: cannot be read" in imported.errors


def test_a_truncated_gzip_file_is_imported_up_to_its_end(serve: Serve, tmp_path: Path) -> None:
    packed = gzip.compress(combined_log(500))

    imported = import_text(serve(), tmp_path, packed[: len(packed) // 2])

    assert imported.exit_code == 1
    assert imported.summary["inserted"] > 100
    assert "the gzip stream is cut off" in imported.errors


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read_as_a_file(serve: Serve, pack: type[bytes]) -> None:
    client = serve()

    imported = run_import(client, "-", "--service", "till", stdin=pack(combined_log(3)))

    assert imported.counts == (3, 0, 0)
    assert {event["service"] for event in stored(client)} == {"till"}


def test_an_apache_format_string_is_accepted(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    import_text(client, tmp_path, common_line() + b" 2500\n", "--format", '%h %l %u %t "%r" %>s %b %D')

    assert [event["latency_ms"] for event in stored(client)] == [3]


@pytest.mark.parametrize("arguments", [("--format", "apache"), ("--service", " "), ("--service", "a\x00b")])
def test_wrong_usage_is_reported_before_anything_is_read(
    shared: Client, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    assert import_text(shared, tmp_path, combined_log(1), *arguments).exit_code == 2
