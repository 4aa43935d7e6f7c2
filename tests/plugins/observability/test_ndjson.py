"""NDJSON streams of request logs: batches are stored as they arrive, and the sender is told where a stream stopped."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.observability.events import (
    ROOT,
    UNSTORABLE_TAGS,
    listed,
    make_event,
    make_events,
    post_ingest,
    raw_event,
    stored_count,
    unique_service,
)
from tests.processes import Service, eventually, serving

pytestmark = pytest.mark.slow

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

URL = f"{ROOT}ingest/"
NDJSON = "application/x-ndjson"
ENCODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
BAD = make_event(status_code=99)
TWO_A_BATCH = "?batch_size=2"
# More than the service reads at a time, so that it processes the lines before.
FILLER = b" " * 70_000 + b"\n"


def as_lines(events: Sequence[dict[str, Any]]) -> bytes:
    """Write events one a line."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def post(client: Client, content: bytes, query: str = "", **headers: str) -> Result:
    """Post a stream."""
    given = {"Content-Type": NDJSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.post(URL + query, content=content, headers=given)


def counts(answer: Result) -> tuple[int, int, int]:
    """Return what an answer counts."""
    body = answer.json()
    return body["inserted"], body["duplicates"], body["rejected"]


def test_every_name_of_the_media_type_is_accepted_in_utf_8_only(serve: Serve) -> None:
    client = serve()
    names = ("ndjson", "x-ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "json-lines")
    charsets = {"": 200, "; charset=utf-8": 200, '; Charset="UTF-8"; x=y': 200, "; charset=iso-8859-1": 415}
    for charset, status in charsets.items():
        for name in names:
            kind = {"Content-Type": f"application/{name}{charset}"}
            assert client.post(URL, content=as_lines(make_events(1)), headers=kind).status == status, (name, charset)


@pytest.mark.parametrize("kind", [NDJSON, "Application/JSONL; charset=utf-8"])
def test_every_line_is_an_event(kind: str, serve: Serve) -> None:
    client = serve()

    answer = client.post(URL, content=as_lines(make_events(3)), headers={"Content-Type": kind})

    assert (answer.status, counts(answer), answer.json()["errors"]) == (200, (3, 0, 0), [])
    assert [event["latency_ms"] for event in listed(client)] == [2, 1, 0]


@pytest.mark.parametrize("coding", ENCODE)
def test_a_stream_may_be_encoded(coding: str, serve: Serve) -> None:
    answer = post(serve(), ENCODE[coding](as_lines(make_events(5))), TWO_A_BATCH, Content_Encoding=coding)

    assert counts(answer) == (5, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        raw_event() + b"\n" + raw_event(),
        raw_event() + b"\r\n" + raw_event() + b"\r\n",
        b"\n \n" + raw_event() + b"\n\r\n" + raw_event() + b"\n\n\n",
        b"  " + raw_event() + b"  \n\t" + raw_event(),
    ],
    ids=["no end of the last", "carriage returns", "blank lines", "blanks around"],
)
def test_blank_lines_and_other_line_ends_are_accepted(content: bytes, shared: Client) -> None:
    assert counts(post(shared, content)) == (2, 0, 0)


@pytest.mark.parametrize("junk", [b"\xef\xbb\xbf", b"\x00" * 5000, b"\xef\xbb\xbf\x00\x00\xef\xbb\xbf"], ids=len)
def test_byte_order_marks_and_nuls_before_a_line_are_skipped(junk: bytes, shared: Client) -> None:
    line = raw_event() + b"\n"

    assert counts(post(shared, junk + line + line + junk + line + junk)) == (3, 0, 0)
    assert counts(post(shared, raw_event(service='"a\\u0000"') + b"\n" + junk + b"17")) == (0, 0, 2)


@pytest.mark.parametrize("query", ["", TWO_A_BATCH, "?strict=true"])
def test_an_export_is_a_stream(query: str, serve: Serve) -> None:
    client = serve()
    post_ingest(client, make_events(3))
    export = client.get(f"{ROOT}export/?format=ndjson").content
    empty = client.get(f"{ROOT}export/?format=ndjson&service=none").content

    answer = post(client, empty + export + export.replace(b"\n", b"\r\n"), query)

    assert (counts(answer), answer.json()["errors"]) == ((6, 0, 0), [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "The export is not complete: 2 of 3 lines came before its last."),
        (lambda lines: [lines[0], *lines], "The export is not complete: 4 of 3 lines came before its last."),
        (
            lambda lines: [lines[0].replace(b"billing", b"sailing"), *lines[1:]],
            "The export was changed: its lines do not have the digest that its last line says.",
        ),
    ],
)
def test_a_last_line_that_does_not_fit_the_export_is_rejected(
    change: Callable[[list[bytes]], list[bytes]], message: str, serve: Serve
) -> None:
    client = serve()
    post_ingest(client, make_events(3))
    lines = change(client.get(f"{ROOT}export/?format=ndjson").content.splitlines())

    answer = post(client, b"\n".join(lines), TWO_A_BATCH)
    strict = post(client, b"\n".join(lines), "?strict=true")

    last = len(lines) - 1
    assert counts(answer) == (last, 0, 1)
    assert answer.json()["errors"] == [{"index": last, "errors": {"non_field_errors": [message]}}]
    assert (strict.status, counts(strict)) == (400, (0, 0, last + 1))
    totals = client.get("/api/v1/ingest/ledger/").json()["data"]["totals"]
    assert (totals["received"], totals["stored"], totals["rejected"]) == (3 + 2 * last + 2, 3 + last, last + 2)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \r\n"])
def test_an_empty_stream_is_no_error(content: bytes, shared: Client) -> None:
    assert counts(post(shared, content)) == (0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"nothing",
        b"17",
        b"[" + raw_event() + b"]",
        raw_event() + raw_event(),
        raw_event() + b"," + raw_event(),
        raw_event(status_code="99"),
        raw_event(tags='{"a": "\\u0000"}'),
        raw_event().replace(b"prod", b"\xc3\x28"),
        raw_event(service='" "'),
        raw_event(tags='{"a": 1e400}'),
        raw_event(tags=UNSTORABLE_TAGS),
    ],
    ids=lambda content: repr(content[-24:]),
)
def test_an_invalid_line_does_not_affect_the_others(bad: bytes, shared: Client) -> None:
    service = unique_service()
    first, last = (raw_event(service=f'"{service}"', latency_ms=number) for number in ("1", "2"))

    answer = post(shared, first + b"\n\n" + bad + b"\n" + last)

    assert counts(answer) == (2, 0, 1)
    assert [error["index"] for error in answer.json()["errors"]] == [2]
    assert sorted(event["latency_ms"] for event in listed(shared, f"service={service}")) == [1, 2]


@pytest.mark.parametrize("bad", [raw_event(tags='{"a": "\\u0000"}'), raw_event(latency_ms="-1")])
def test_an_invalid_line_is_reported_like_an_invalid_item(bad: bytes, shared: Client) -> None:
    as_item = shared.post(URL, content=b"[" + bad + b"]")

    assert post(shared, bad).json() == as_item.json()


def test_an_event_does_not_span_lines(shared: Client) -> None:
    # As many events as lines, but no line holds exactly one event.
    content = raw_event().replace(b",", b",\n", 1) + b"\n" + raw_event() + raw_event()

    assert [error["index"] for error in post(shared, content).json()["errors"]] == [0, 1, 2]


def test_errors_are_counted_over_all_batches_and_listed_up_to_the_limit(shared: Client) -> None:
    events = [make_event(), BAD, BAD, make_event(), BAD, BAD]

    answer = post(shared, as_lines(events), f"{TWO_A_BATCH}&max_errors=3")

    assert counts(answer) == (2, 0, 4)
    assert [error["index"] for error in answer.json()["errors"]] == [1, 2, 4]


@pytest.mark.parametrize("coding", ENCODE)
def test_a_truncated_stream_stores_whole_batches_and_reports_where_it_stopped(coding: str, serve: Serve) -> None:
    client = serve()
    encode = ENCODE[coding]
    # The end of the stream is missing, not that of an event: what arrived is not trusted to be all.
    cut = encode(as_lines([make_event(), BAD, *make_events(2)])) + encode(as_lines([make_event()]))[:-1]

    answer = post(client, cut, TWO_A_BATCH, Content_Encoding=coding)

    body = answer.json()
    assert (answer.status, body["code"], counts(answer), body["lines"]) == (400, "malformed", (3, 0, 1), 4)
    assert stored_count(client) == 3


@pytest.mark.parametrize(
    ("spoilt", "settings"),
    [
        (as_lines(make_events(5)) + b"x" * 1_100_000, {}),
        (as_lines(make_events(5)) + b" " * 5000, {"http": {"max_decoded_bytes": 4096}}),
    ],
    ids=["line too long", "stream too long"],
)
def test_a_stream_stops_where_a_limit_is_reached(spoilt: bytes, settings: dict[str, Any], serve: Serve) -> None:
    client = serve(**settings)

    answer = post(client, gzip.compress(spoilt), TWO_A_BATCH, Content_Encoding="gzip")

    settled = answer.json()["lines"]
    assert (answer.status, counts(answer)) == (413, (settled, 0, 0))
    assert stored_count(client) == settled


def test_a_sender_resumes_from_the_reported_line(serve: Serve) -> None:
    client = serve()
    lines = as_lines(make_events(5)).splitlines(keepends=True)

    stopped = post(client, gzip.compress(b"".join(lines))[:-1], TWO_A_BATCH, Content_Encoding="gzip")
    post(client, b"".join(lines[stopped.json()["lines"] :]))

    assert sorted(event["latency_ms"] for event in listed(client)) == [0, 1, 2, 3, 4]


def test_a_stream_may_have_more_events_than_a_json_batch(serve: Serve) -> None:
    client = serve(observability={"ingest_max_events": 3})

    assert counts(post(client, as_lines(make_events(7)))) == (7, 0, 0)


@pytest.mark.parametrize(
    ("query", "headers", "settled"),
    [("?max_events=3&batch_size=2", {}, 2), ("?strict=true", {}, 0), (TWO_A_BATCH, {"Idempotency_Key": "k"}, 4)],
    ids=["parameter", "strict", "key"],
)
def test_streams_that_must_be_remembered_are_limited(
    query: str, headers: dict[str, str], settled: int, serve: Serve
) -> None:
    client = serve(observability={"ingest_max_events": 5})

    answer = post(client, as_lines(make_events(6)), query, **headers)

    assert (answer.status, counts(answer), answer.json()["lines"]) == (413, (settled, 0, 0), settled)


def test_strict_stores_all_lines_or_none(serve: Serve) -> None:
    client = serve()

    refused = post(client, as_lines([*make_events(4), BAD]), "?strict=true&batch_size=2")
    before = stored_count(client)
    taken = post(client, as_lines(make_events(5)), "?strict=true&batch_size=2")

    assert (refused.status, counts(refused), refused.json()["lines"], before) == (400, (0, 0, 5), 0, 0)
    assert [(each["index"], list(each["errors"])) for each in refused.json()["errors"]] == [(4, ["status_code"])]
    assert counts(taken) == (5, 0, 0)


def test_a_replayed_stream_stores_nothing_twice(serve: Serve) -> None:
    client = serve()
    # The same event five times, in more than one batch: each is stored.
    content = as_lines([make_event()] * 5)

    first = post(client, content, TWO_A_BATCH, Idempotency_Key="k")
    again = post(client, content, "?batch_size=3", Idempotency_Key="k")

    assert (counts(first), counts(again)) == ((5, 0, 0), (0, 5, 0))


def test_the_position_is_reported_when_the_database_is_away(serve: Serve, database: str) -> None:
    client = serve(db={"pool_timeout_s": 0.2})
    with outage(database):
        answer = post(client, as_lines(make_events(3)))

    assert (answer.status, answer.json()["lines"]) == (503, 0)
    assert "retry-after" in answer.headers


@pytest.mark.slow
def test_a_stream_is_read_in_constant_memory(shared: Client) -> None:
    padded = gzip.compress((raw_event() + b" " * 500_000 + b"\n") * 200)
    tracemalloc.start()

    answer = post(shared, padded, Content_Encoding="gzip")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert counts(answer) == (200, 0, 0)
    assert peak_bytes < 40_000_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real service that waits a second for bodies."""
    home: Path = tmp_path_factory.mktemp("ndjson") / "home"
    with serving(
        home, TIERCEL_SERVER__RECEIVE_TIMEOUT_S="1", TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS="false"
    ) as started:
        yield started


def send(service: Service, content: bytes, headers: bytes) -> socket.socket:
    """Send the beginning of a stream."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    head = f"POST {URL}{TWO_A_BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {NDJSON}\r\n".encode()
    connection.sendall(head + headers + b"\r\n\r\n" + content)
    return connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read an answer up to the end of the connection."""
    with connection, connection.makefile("rb") as stream:
        content = stream.read()
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def count_of(service: Service, name: str) -> int:
    """Count the events of one service."""
    count: int = service.get(f"{ROOT}?service={name}").json()["count"]
    return count


@pytest.mark.process
@pytest.mark.parametrize(
    "headers", [b"Content-Length: 99999", b"Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
@pytest.mark.parametrize("ends", ["waits", "goes"])
def test_whole_batches_of_a_client_that_stops_are_stored(headers: bytes, ends: str, service: Service) -> None:
    name = f"{ends}-{headers[:7].decode().lower()}"
    content = as_lines(make_events(5, service=name)) + FILLER
    if b"chunked" in headers:
        content = b"%x\r\n%b\r\n" % (len(content), content)

    connection = send(service, content, headers)
    if ends == "goes":
        connection.shutdown(socket.SHUT_WR)
    status, body = read_answer(connection)

    assert (status, body["inserted"], body["lines"]) == (408 if ends == "waits" else 400, 4, 4)
    assert count_of(service, name) == 4


@pytest.mark.process
def test_a_batch_is_stored_while_the_stream_continues(service: Service) -> None:
    content = as_lines(make_events(4, service="live")) + FILLER
    with send(service, b"%x\r\n%b\r\n" % (len(content), content), b"Transfer-Encoding: chunked") as connection:
        assert eventually(lambda: count_of(service, "live") == 4, 5)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
