"""OTLP/HTTP: what becomes of spans, and what their senders are answered."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.accounts.factories import create_key, with_key
from tests.plugins.observability.events import listed, stored_count, unique_service
from tests.plugins.observability.spans import (
    PATH,
    PROTOBUF,
    START,
    START_NS,
    export,
    export_protobuf,
    make_request,
    make_span,
    partial_success,
    send,
    status_message,
    to_protobuf,
)

OK = (0, "")
encodings = pytest.mark.parametrize("encoding", ["json", "protobuf"])


def store(client: Client, *spans: Any, encoding: str = "json", **resource: Any) -> list[dict[str, Any]]:
    """Send spans of a new service; return what is stored of them."""
    service = unique_service()
    assert partial_success(send(client, encoding, spans, service=service, **resource)) == OK
    return listed(client, f"service={service}&ordering=time")


@encodings
def test_a_server_span_is_an_event(shared: Client, encoding: str) -> None:
    span = make_span(
        {
            "user.id": "ada",
            "url.path": "/users/42",
            "url.query": "page=2&token=hunter2",
            "client.address": "192.0.2.7",
            "error.type": "KeyError",
            "http.request.header.authorization": ["Bearer hunter3"],
            "numbers": [1, 2.5, True, None],
            "nested": {"a": {"b": b"\x00\xff"}, "large": -(2**63)},
            "odd": [math.nan, math.inf, -math.inf],
        },
        parentSpanId="00f067aa0ba902b7",
        status={"code": 2, "message": "it broke"},
        events=[{"name": "exception", "timeUnixNano": "1"}],
    )

    [event] = store(shared, span, encoding=encoding, **{"host.name": "web-1", "api_key": "hunter4"})

    del event["id"], event["service"]
    assert event == {
        "time": START.isoformat().replace("+00:00", "Z"),
        "endpoint": "/users/{id}",
        "method": "GET",
        "status_code": 200,
        "latency_ms": 13,
        "trace_id": span["traceId"],
        "user_ref": "ada",
        "tags": {
            "host.name": "web-1",
            "api_key": "***",
            "url.path": "/users/42",
            "url.query": "page=2&token=***",
            "client.address": "192.0.2.7",
            "error.type": "KeyError",
            "http.request.header.authorization": ["***"],
            "numbers": [1, 2.5, True, None],
            "nested": {"a": {"b": "AP8="}, "large": -(2**63)},
            "odd": ["NaN", "Infinity", "-Infinity"],
            "span_id": span["spanId"],
            "parent_span_id": "00f067aa0ba902b7",
            "otel.status_description": "it broke",
        },
    }


OLD = {"http.request.method": ..., "http.response.status_code": ..., "http.method": "PUT", "http.status_code": 204}


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({}, {"endpoint": "/users/{id}", "method": "GET", "status_code": 200}),
        (OLD, {"method": "PUT", "status_code": 204}),
        # Both, as of ``http/dup``.
        ({"http.method": "PUT", "http.status_code": 204}, {"method": "GET", "status_code": 200}),
        ({"http.route": ..., "url.path": "/users/42"}, {"endpoint": "/users/{id}"}),
        ({"http.route": "", "http.target": "/users/42?token=1"}, {"endpoint": "/users/{id}"}),
        ({"http.route": ..., "http.url": "https://[::1]:8000/users/42?token=1"}, {"endpoint": "/users/{id}"}),
        ({"http.route": ..., "url.full": "https://shop.example"}, {"endpoint": "/"}),
        ({"http.route": ...}, {"endpoint": "(no route)"}),
        ({"http.route": "/" + "x" * 300}, {"endpoint": "/" + "x" * 254}),
        ({"http.request.method": "_OTHER", "http.request.method_original": "BREW"}, {"method": "_OTHER"}),
        ({"http.response.status_code": "404"}, {"status_code": 404}),
        ({"enduser.id": "bob"}, {"user_ref": "bob"}),
        ({"user.id": 17, "enduser.id": "bob"}, {"user_ref": "17"}),
    ],
)
def test_attributes_become_fields(shared: Client, attrs: dict[str, Any], expected: dict[str, Any]) -> None:
    [event] = store(shared, make_span(attrs))

    assert {name: event[name] for name in expected} == expected


def test_a_server_that_failed_without_a_response_answered_500(shared: Client) -> None:
    service = unique_service()
    failed = make_span({"http.response.status_code": ...}, status={"code": "STATUS_CODE_ERROR"})
    unknown = make_span({"http.response.status_code": ...})

    answer = export(shared, make_request(failed, unknown, service=service))

    assert partial_success(answer) == (1, "span 1: status_code: This field is required.")
    assert [event["status_code"] for event in listed(shared, f"service={service}")] == [500]


@encodings
def test_spans_that_no_http_server_made_are_ignored_and_counted(shared: Client, encoding: str) -> None:
    before = shared.service.shared.statistics["observability"]()["spans_ignored"]
    rpc = make_span({"http.request.method": ..., "rpc.system": "grpc"})
    kinds: list[Any] = [0, 1, 3, 4, 5, "SPAN_KIND_CLIENT", ...]

    events = store(shared, rpc, *(make_span(kind=kind) for kind in kinds), make_span(), encoding=encoding)

    assert len(events) == 1
    assert shared.service.shared.statistics["observability"]()["spans_ignored"] - before == 1 + len(kinds)


@encodings
def test_a_span_that_is_sent_again_is_stored_once(shared: Client, encoding: str) -> None:
    service, spans = unique_service(), [make_span(), make_span()]

    for _ in range(2):
        assert partial_success(send(shared, encoding, spans, service=service)) == OK
    # The other encoding has other texts for the same ids.
    spans.append({**make_span(), "traceId": spans[0]["traceId"].upper()})
    assert partial_success(send(shared, "json", spans, service=service)) == OK

    assert len(listed(shared, f"service={service}")) == 3
    [mine, *_] = listed(shared, f"service={service}&trace_id={spans[1]['traceId']}")
    assert mine["tags"]["span_id"] == spans[1]["spanId"]


@encodings
def test_spans_that_cannot_be_stored_are_rejected_and_the_others_stored(shared: Client, encoding: str) -> None:
    service = unique_service()
    wrong = [
        make_span(traceId="00" * 16),
        make_span(spanId="00" * 7),
        make_span(startTimeUnixNano="0"),
        make_span(endTimeUnixNano=str(START_NS - 1_000_000)),
        make_span({"http.response.status_code": 700}),
        make_span({"http.route": "/a\x00b"}),
        make_span({"note": "\x00"}),
        make_span({"note": "x" * 70_000}),
        make_span(startTimeUnixNano=str(2**63), endTimeUnixNano=str(2**63)),
    ]
    expected = ["trace_id", "span_id", "time", "latency_ms", "status_code"]

    count, message = partial_success(send(shared, encoding, [*wrong, make_span()], service=service))

    assert count == len(wrong)
    assert [part.split(": ")[:2] for part in message.split("; ")] == [
        [f"span {index}", name] for index, name in enumerate(expected)
    ]
    assert len(listed(shared, f"service={service}")) == 1
    # None of them has a service.
    assert partial_success(send(shared, encoding, [make_span()], service=None)) == (
        1,
        "span 0: service: This field is required.",
    )


def test_json_is_read_as_other_senders_write_it(shared: Client) -> None:
    service = unique_service()
    right = [
        make_span(startTimeUnixNano=START_NS, endTimeUnixNano=0, unknown={"a": [1]}, kind="SPAN_KIND_SERVER"),
        make_span(parentSpanId=None, status=None, flags=257),
    ]
    attribute = {"key": "a", "value": {"intValue": 7}}
    right.append({**make_span(), "attributes": [*make_span()["attributes"], attribute, {"key": "b"}]})
    wrong: list[Any] = [
        make_span(traceId="xyz"),
        make_span(startTimeUnixNano="tomorrow"),
        make_span(startTimeUnixNano="9" * 5000),
        make_span(attributes=[{"key": "a", "value": {"intValue": str(2**63)}}]),
        make_span(attributes={}),
        None,
        7,
    ]

    count, _ = partial_success(export(shared, make_request(*right, *wrong, service=service)))

    assert count == len(wrong)
    events = listed(shared, f"service={service}")
    assert sorted(str(event["latency_ms"]) for event in events) == ["13", "13", "None"]
    assert {"a": 7, "b": None} in [{k: event["tags"].get(k) for k in ("a", "b")} for event in events]
    groups: list[list[dict[str, Any]]] = [[], [{}], [{"scopeSpans": [{}]}], [{"resource": None, "scopeSpans": None}]]
    for request in ({}, *({"resourceSpans": each} for each in groups)):
        answer = export(shared, request)
        assert (partial_success(answer), answer.json()) == (OK, {})


def test_protobuf_is_read_in_any_order_and_merged(shared: Client) -> None:
    service = unique_service()
    group = to_protobuf(make_request(make_span(), service=service))
    resource, scopes = to_protobuf(make_request(service=service)), to_protobuf(make_request(make_span(), service=None))
    # Of each, what is in the only field of the request: the resource, and the scope after an empty resource.
    parts = [scopes[2:] if scopes[1] < 128 else scopes[3:], resource[2:]]
    joined = b"".join(parts)
    split = b"\x0a" + bytes([len(joined) & 0x7F | 0x80, len(joined) >> 7]) + joined
    # Unknown fields: a number, four bytes, eight bytes, and text.
    unknown = b"\xf8\x01\x07\xfd\x01abcd\xf9\x01abcdefgh\xfa\x01\x01x"

    answer = export_protobuf(shared, unknown + group + split)

    assert partial_success(answer) == OK
    assert answer.content == b""
    assert len(listed(shared, f"service={service}")) == 2
    assert export_protobuf(shared, b"").status == 200


MALFORMED: list[tuple[str, bytes]] = [
    ("application/json", b"{"),
    ("application/json", b"[]"),
    ("application/json", b'{"resourceSpans":{}}'),
    ("application/json", b'{"resourceSpans":[{"resource":7}]}'),
    ("application/json", b""),
    (PROTOBUF, b"\x0a"),
    (PROTOBUF, b"\x0a\x05\x12"),
    (PROTOBUF, b"\x0b\x0c"),
    (PROTOBUF, b"\xff" * 11),
    (PROTOBUF, b"\x0a\x06\x12\x04\x12\x02\x0a\x7f"),
    (PROTOBUF, b"\x0a\x03\x0a\x01\x0a"),
    (PROTOBUF, b'{"resourceSpans":[]}'),
]


@pytest.mark.parametrize(("kind", "content"), MALFORMED)
def test_what_cannot_be_decoded_is_a_400_with_a_status(shared: Client, kind: str, content: bytes) -> None:
    answer = shared.post(PATH, content=content, headers={"Content-Type": kind})

    assert (answer.status, answer.headers["content-type"]) == (400, kind)
    assert status_message(answer)


def test_other_media_types_and_signals_are_refused(shared: Client) -> None:
    answer = shared.post(PATH, content=b"{}", headers={"Content-Type": "application/xml"})

    assert answer.status == 415
    assert status_message(answer).endswith("(expected application/json or application/x-protobuf, got application/xml)")
    coded = shared.post(PATH, content=b"{}", headers={"Content-Encoding": "br"})
    assert (coded.status, bool(status_message(coded))) == (415, True)
    for signal in ("logs", "metrics"):
        assert shared.post(f"/v1/{signal}", {}).status == 404
    assert shared.get(PATH).status == 405
    assert export(shared, {}, **{"Content-Type": "application/json; charset=utf-8"}).status == 200


def nested_json(levels: int) -> bytes:
    value = b'{"arrayValue":{"values":[' * levels + b"]}}" * levels
    span = json.dumps(make_span(attributes=["HERE"])).encode()
    return span.replace(b'"HERE"', b'{"key":"a","value":' + value + b"}")


def in_request(*spans: bytes) -> bytes:
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b",".join(spans) + b"]}]}]}"


def length_delimited(tag: bytes, content: bytes) -> bytes:
    size, encoded = len(content), bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return tag + bytes([*encoded, size]) + content


def test_bodies_that_would_take_much_memory_are_refused(shared: Client, serve: Serve) -> None:
    small = serve(observability={"ingest_max_events": 1000, "ingest_max_bytes": 4 * 1024 * 1024})
    scope = length_delimited(b"\x12", b"\x12\x00" * 1001)
    too_large = [
        # A thousand times what it is sent as.
        (PROTOBUF, "gzip", gzip.compress(bytes(8 * 1024 * 1024))),
        ("application/json", "gzip", gzip.compress(b" " * 8 * 1024 * 1024)),
        # Empty spans, groups, scopes, and fields.
        (PROTOBUF, None, length_delimited(b"\x0a", scope)),
        (PROTOBUF, None, b"\x0a\x00" * 500_000),
        (PROTOBUF, None, length_delimited(b"\x0a", b"\x12\x00" * 500_000)),
        (PROTOBUF, None, b"\xf8\x01\x00" * 500_000),
        (PROTOBUF, None, length_delimited(b"\x0a", length_delimited(b"\x0a", b"\x0a\x00" * 600_000))),
        ("application/json", None, in_request(*[b"{}"] * 500_000)),
        ("application/json", None, in_request(*[json.dumps(make_span()).encode()] * 1001)),
        ("application/json", None, b'{"resourceSpans":[' + b",".join([b"{}"] * 500_000) + b"]}"),
    ]

    for kind, coding, content in too_large:
        headers = {"Content-Type": kind} | ({} if coding is None else {"Content-Encoding": coding})
        answer = small.post(PATH, content=content, headers=headers)
        assert (answer.status, bool(status_message(answer))) == (413, True), content[:20]
    # One span is no reason to refuse the others.
    endless = length_delimited(b"\x12", b"\x4a\x00" * 600_000)
    scopes = length_delimited(b"\x0a", length_delimited(b"\x12", endless))
    assert partial_success(export_protobuf(small, scopes))[0] == 1
    assert small.post(PATH, content=in_request(nested_json(20_000))).status == 400
    assert partial_success(small.post(PATH, content=in_request(b"1" * 1_100_000)))[0] == 1
    deep = to_protobuf(make_request(make_span({"deep": [[[["x"]]]]})))
    assert partial_success(export_protobuf(small, deep)) == OK
    assert stored_count(small) == 1


def test_gzip_is_what_exporters_send(shared: Client) -> None:
    service = unique_service()
    content = to_protobuf(make_request(make_span(), service=service))

    answer = export_protobuf(shared, gzip.compress(content), **{"Content-Encoding": "gzip"})

    assert partial_success(answer) == OK
    assert len(listed(shared, f"service={service}")) == 1


def test_what_may_pass_is_answered_so_that_exporters_send_it_again(serve: Serve, database: str) -> None:
    client = serve(auth="required", throttle={"rates": {"ingest": "2/minute"}})
    content = to_protobuf(make_request(make_span(), service="shop"))
    sender = with_key(create_key(client, "ingest"))
    limited = with_key(create_key(client, "ingest", services=["bank"]))

    answers = [export_protobuf(client, content, **headers) for headers in ({}, sender, limited, sender, sender)]
    with outage(database):
        answers.append(export_protobuf(client, content, **limited))

    assert [each.status for each in answers] == [401, 200, 200, 200, 429, 503]
    assert {each.headers["content-type"] for each in answers} == {PROTOBUF}
    refused = "span 0: service: Expected one of the services that you may write to."
    assert partial_success(answers[2]) == (1, refused)
    for answer in answers[4:]:
        assert int(answer.headers["retry-after"]) > 0
        assert status_message(answer)
