"""Parsing of log lines: valid, damaged and hostile ones."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from apachelogs import COMBINED, COMMON
from hypothesis import given
from hypothesis import strategies as st

from plugins.observability.importer.detection import JSON, detect_format
from plugins.observability.importer.events import ACCESS_LINE_MAX_BYTES, LineParser, RefusedLineError
from plugins.observability.importer.formats import OTHER_FORMATS
from plugins.observability.importer.parsers import make_parser
from plugins.observability.ingest.normalize import normalize
from plugins.observability.models import EventIn
from tests.plugins.observability.accesslogs import AGENT, START, combined_line, common_line
from tests.plugins.observability.events import make_event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOT_HTTP = {"method": "-", "endpoint": "-"}


def parser_of(name: str, json_service: str | None = None) -> LineParser:
    return make_parser(name, service="shop", json_service=json_service, clock=lambda: NOW)


COMBINED_PARSER = parser_of("combined")
JSON_PARSER = parser_of(JSON)
TIMED_PARSER = parser_of("vhost_combined+request_time+unknown")
PARSERS = (
    COMBINED_PARSER,
    parser_of("common"),
    JSON_PARSER,
    parser_of(f"{COMBINED} %D"),
    TIMED_PARSER,
    *map(parser_of, OTHER_FORMATS),
)


def event_of(parser: LineParser, line: bytes) -> EventIn:
    parsed = parser.parse(line)
    assert parsed is not None
    return parsed.event


def parse(line: bytes, name: str = "combined") -> dict[str, Any]:
    """Parse a line; the event with its tags decoded."""
    event = event_of(parser_of(name), line)
    fields = {field: getattr(event, field) for field in EventIn.__struct_fields__}
    return {**fields, "tags": msgspec.json.decode(event.tags)}


def test_every_field_of_a_combined_line_is_in_the_event() -> None:
    assert parse(combined_line(user="ann")) == {
        "time": START,
        "service": "shop",
        "endpoint": "/invoices",
        "method": "GET",
        "status_code": 200,
        "latency_ms": None,
        "trace_id": None,
        "user_ref": "ann",
        "tags": {
            "client": "192.0.2.7",
            "referer": "https://example.com/",
            "user_agent": AGENT,
            "bytes": 512,
            "query": "page=2",
        },
        "event_id": None,
    }


def test_fields_that_are_a_hyphen_are_left_out() -> None:
    event = parse(combined_line(request="GET / HTTP/1.1", size="-", referer="-", agent="-"))

    assert (event["user_ref"], event["tags"]) == (None, {"client": "192.0.2.7"})


def test_the_client_may_have_an_address_of_version_6_and_no_agent() -> None:
    line = combined_line(request="GET / HTTP/2.0", referer="-", agent="").replace(b"192.0.2.7", b"2001:db8::7")

    event = parse(line)

    assert (event["endpoint"], event["tags"]) == ("/", {"client": "2001:db8::7", "bytes": 512})


def test_offsets_of_times_are_applied() -> None:
    assert parse(combined_line(time="[14/Dec/2025:05:00:00 -0700]"))["time"] == START


@pytest.mark.parametrize(
    ("format_string", "end", "latency_ms"),
    [
        (COMMON, b"", None),
        (f"{COMMON} %D", b" 1234567", 1235),
        (f"{COMMON} %T", b" 3", 3000),
        (f"{COMMON} %{{ms}}T", b" 42", 42),
        (f"{COMMON} %T %D", b" 3 2500000", 2500),
        (f"{COMMON} %{{request_time}}x", b" 0.250", 250),
        (f"{COMMON} %D", b" -5", 0),
    ],
)
def test_the_latency_is_what_the_format_says(format_string: str, end: bytes, latency_ms: int | None) -> None:
    assert parse(common_line() + end, format_string)["latency_ms"] == latency_ms


def test_a_format_may_have_separate_method_path_and_query() -> None:
    event = parse(b"[14/Dec/2025:12:00:00 +0000] PUT /a ?b=c 204", "%t %m %U %q %s")

    assert (event["method"], event["endpoint"], event["tags"]) == ("PUT", "/a", {"query": "b=c"})


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("-", {**NOT_HTTP, "tag": "-"}),
        (r"\x16\x03\x01\x00\xff", {**NOT_HTTP, "tag": r"\x16\x03\x01\x00\xff"}),
        ("\x16\x03\x00", {**NOT_HTTP, "tag": r"\x16\x03\x00"}),
        ("help me", {**NOT_HTTP, "tag": "help me"}),
        ("GET /", {"method": "GET", "endpoint": "/", "tag": None}),
        ("GET /a b HTTP/1.1", {"method": "GET", "endpoint": "/a b", "tag": None}),
        ("OPTIONS * HTTP/2.0", {"method": "OPTIONS", "endpoint": "*", "tag": None}),
        ("GET ?a HTTP/1.1", {"method": "GET", "endpoint": "-", "tag": None}),
        (r"GET /\"quoted\" HTTP/1.1", {"method": "GET", "endpoint": '/"quoted"', "tag": None}),
        (r"GET /caf\xc3\xa9 HTTP/1.1", {"method": "GET", "endpoint": "/café", "tag": None}),
        ("GET /café HTTP/1.1", {"method": "GET", "endpoint": "/café", "tag": None}),
        (r"GET /\x00\xed\xa0\x80 HTTP/1.1", {"method": "GET", "endpoint": r"/\x00\xed\xa0\x80", "tag": None}),
    ],
)
def test_any_request_line_becomes_an_event(request_line: str, expected: dict[str, str | None]) -> None:
    event = parse(combined_line(request=request_line))

    found = {"method": event["method"], "endpoint": event["endpoint"], "tag": event["tags"].get("request_line")}
    assert found == expected


def test_a_long_path_is_truncated_and_preserved_in_the_tags() -> None:
    event = parse(combined_line(request=f"GET /{'a' * 300} HTTP/1.1"))

    assert (event["endpoint"], event["tags"]["path"]) == ("/" + "a" * 254, "/" + "a" * 300)


def test_a_line_without_its_last_quote_is_repaired_and_preserved() -> None:
    line = combined_line()[:-1]

    event = parse(line)

    assert (event["tags"]["user_agent"], event["tags"]["line"]) == (AGENT, line.decode())


@pytest.mark.parametrize("end", [b' "half a refe', b' "-" "a "raw" quote"', b' "-" "-" "-" 0.012', b" garbage"])
def test_garbage_after_the_common_fields_does_not_prevent_an_event(end: bytes) -> None:
    event = parse(common_line() + end)

    assert (event["endpoint"], event["tags"]["line"]) == ("/invoices", (common_line() + end).decode())


def test_the_unfinished_end_of_a_file_is_not_repaired() -> None:
    with pytest.raises(RefusedLineError, match="cut off"):
        COMBINED_PARSER.parse(combined_line()[:-1], complete=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"garbage", "not in the format"),
        (combined_line(status="999"), "status_code"),
        (combined_line(status="-"), "status_code"),
        (combined_line(time="[99/Dec/2025:12:00:00 +0000]"), "not valid"),
        (combined_line(time="[14/Foo/2025:12:00:00 +0000]"), "not valid"),
        (combined_line(size="9" * 5000), "not valid"),
        (combined_line(agent="a" * ACCESS_LINE_MAX_BYTES), "longer than"),
    ],
    ids=["no log", "status 999", "no status", "no such day", "no such month", "endless number", "too long"],
)
def test_a_line_that_is_no_event_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(RefusedLineError, match=reason):
        COMBINED_PARSER.parse(line)


@pytest.mark.parametrize(
    "line",
    [
        combined_line(request=r"\x16" * 22)[:-1] + b'"x',
        b" " * (ACCESS_LINE_MAX_BYTES // 4),
        b"- " * (ACCESS_LINE_MAX_BYTES // 8),
    ],
    ids=["escapes", "blanks", "words"],
)
def test_a_hostile_line_is_refused_quickly(line: bytes) -> None:
    started = time.monotonic()

    with pytest.raises(RefusedLineError):
        COMBINED_PARSER.parse(line, complete=False)

    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([combined_line()], "combined"),
        ([common_line()], "common"),
        ([b'{"time": 1}'], "json"),
        ([b"garbage", common_line(), common_line()], "common"),
        ([combined_line(), common_line(), common_line()], "common"),
        ([b"garbage"], "combined"),
        ([], "combined"),
    ],
)
def test_the_format_is_the_one_that_most_lines_have(lines: list[bytes], name: str) -> None:
    assert detect_format(lines).name == name


@pytest.mark.parametrize("name", ["apache", '%h "%r" %s', "%t %r", "%Q %t %s", "%"])
def test_an_invalid_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"ormat|directive"):
        parser_of(name)


def test_a_json_line_is_an_event_as_over_rest() -> None:
    event = parse(msgspec.json.encode(make_event(status_code="404", service=" billing ")), JSON)

    assert (event["status_code"], event["service"], event["tags"]) == (404, "billing", {"env": "prod"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "Expected a dictionary"),
        (msgspec.json.encode(make_event(service=...)), "service: This field is required."),
        (msgspec.json.encode(make_event(status_code=1, method="")), r"method: .* status_code: "),
        (b'{"tags": "' + b"a" * 1024 * 1024 + b'"}', "longer than"),
    ],
    ids=["half an object", "a list", "no service", "two wrong fields", "too long"],
)
def test_a_json_line_that_is_no_event_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(RefusedLineError, match=reason):
        JSON_PARSER.parse(line)


@pytest.mark.parametrize(("fields", "service"), [({"service": ...}, "given"), ({}, "billing")])
def test_the_given_service_applies_to_json_events_without_one(fields: dict[str, Any], service: str) -> None:
    line = msgspec.json.encode(make_event(**fields))

    assert event_of(parser_of(JSON, json_service="given"), line).service == service


FRAGMENTS = st.sampled_from(
    [b'"', b"\\", b"\\x", b"\\x0", b"\\xff", b" ", b"-", b"[", b"]", b"\x00", b"\xff", b"{", b"GET / HTTP/1.1", b"200"]
)
JUNK = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=20).map(b"".join)
LINES = st.one_of(
    st.binary(max_size=300),
    JUNK,
    st.builds(lambda junk: combined_line() + junk, JUNK),
    st.builds(lambda junk: combined_line(request="@").replace(b"@", junk), JUNK),
    st.builds(lambda junk: combined_line(agent="@", user="@").replace(b"@", junk), JUNK),
    st.builds(
        lambda year, offset: combined_line(time=f"[01/Jan/{year:04}:00:00:00 {offset}]"),
        st.integers(0, 10_000),
        st.from_regex(r"[-+]\d{4}", fullmatch=True),
    ),
    st.builds(lambda size: combined_line()[:size], st.integers(0, 200)),
    st.builds(lambda junk: msgspec.json.encode(make_event(method="@", tags={"@": 1})).replace(b"@", junk), JUNK),
)


@given(line=LINES.filter(lambda line: b"\n" not in line), parser=st.sampled_from(PARSERS))
def test_any_line_is_an_event_that_can_be_stored_or_refused(line: bytes, parser: LineParser) -> None:
    try:
        parsed = parser.parse(line)
    except RefusedLineError:
        return
    if parsed is None:
        return  # a directive

    event = parsed.event
    batch, errors = normalize([0], [event], NOW)

    texts = "".join([event.service, event.endpoint, event.method, event.user_ref or ""])
    assert len(batch.events) + len(errors) == 1
    assert "\x00" not in texts
    assert texts.encode()
    assert b"\\u0000" not in bytes(event.tags).replace(b"\\\\", b"")
    assert len(event.endpoint) <= 255
