"""Formats of access logs: what is detected, what may be named, and lines that fit a format only in part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from plugins.observability.importer.detection import Detection, detect_format
from plugins.observability.importer.events import ParsedLine, RefusedLineError
from plugins.observability.importer.formats import FormatSet
from plugins.observability.importer.parsers import QUOTES_IN_REQUEST, UNREAD_END, make_parser
from tests.plugins.observability.accesslogs import START, combined_line, common_line

COMBINED = combined_line().decode()
COMMON = common_line().decode()
# Behind the first address.
REST = COMMON.removeprefix("192.0.2.7")
APACHE_COMBINED = r"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\""
NGINX_COMBINED = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)


def detect(*lines: str) -> Detection:
    return detect_format(line.encode() for line in lines)


def parse(line: str, name: str = "combined") -> ParsedLine:
    parsed = make_parser(name, service="shop", json_service=None, clock=lambda: START).parse(line.encode())
    assert parsed is not None
    return parsed


def tags_of(parsed: ParsedLine) -> dict[str, Any]:
    tags: dict[str, Any] = msgspec.json.decode(parsed.event.tags)
    return tags


def detect_and_parse(*lines: str) -> tuple[str, list[float | None]]:
    """Return the format of some lines, and their latencies."""
    name = detect(*lines).name
    return name, [parse(line, name).event.latency_ms for line in lines]


# Times behind a format


@pytest.mark.parametrize(
    ("tails", "fields", "latencies"),
    [
        ([" 0.125"], "request_time", [125]),
        ([' "0.125"', ' "12.000"'], "request_time", [125, 12_000]),
        ([" 0.125 0.120", " 0.001 0.001"], "request_time+upstream_response_time", [125, 1]),
        ([" 0.120 0.125"], "upstream_response_time+request_time", [125]),
        ([" 0.125 -", " 0.080 0.010, 0.070"], "request_time+upstream_response_time", [125, 80]),
        ([" -", " 0.010, 0.070", " 0.010 : 0.020"], "upstream_response_time", [None, 80, 30]),
        (
            [' rt=0.123 uct="0.001" uht="0.100" urt="0.120"', ' rt=0.002 uct="-" uht="-" urt="-"'],
            "request_time+ignored+ignored+upstream_response_time",
            [123, 2],
        ),
        ([" request_time=0.5 upstream_response_time=0.4"], "request_time+upstream_response_time", [500]),
        ([" duration_ms=12", " duration_ms=7"], "duration_ms", [12, 7]),
        ([" 12ms", " 1.5s", " 900us"], "duration", [12, 1500, 1]),
        ([' "203.0.113.9" 0.125', ' "-" 0.080'], "forwarded_for+request_time", [125, 80]),
        ([" 0 2300", " 1 1000000", " 0 999999"], "duration_s+duration_us", [2, 1000, 1000]),
        ([" 2300 2", " 999 0"], "duration_ms+duration_s", [2300, 999]),
        ([" 2500", " 90000", " 1200", " 512000", " 40000"], "duration_us", [3, 90, 1, 512, 40]),
    ],
)
def test_a_time_behind_the_format_that_cannot_be_mistaken_is_the_latency(
    tails: Sequence[str], fields: str, latencies: list[float | None]
) -> None:
    found = detect_and_parse(*(COMBINED + tail for tail in tails))

    assert found == (f"combined+{fields}", latencies)


@pytest.mark.parametrize(
    "tails",
    [
        # %T, Tomcat's %D in milliseconds, or anything else.
        [" 0", " 1", " 0", " 3", " 0", " 0"],
        [" 120", " 340", " 95", " 1800", " 60"],
        # Too few to tell.
        [" 250000"],
        # The size of the response with its headers, and ports.
        [" 700", " 815", " 9000", " 701", " 702", " 3000"],
        [" 52100", " 52101", " 52102", " 52103", " 52104"],
        # $gzip_ratio, $msec, a host, a request id.
        [' "2.51"'],
        [" 1765713600.123"],
        [' "shop.example"'],
        [" 5d41402abc4b2a76b9719d911017c592"],
        [" rt=5"],
        [" ratio=0.125"],
        [" ttl=60s"],
        [" 12ms 15ms"],
        # $connection_requests and a size, or %T and %D.
        [" 0 2300", " 0 4000"],
        ['"no blank'],
    ],
)
def test_what_may_be_anything_else_is_no_latency_and_is_reported(tails: Sequence[str]) -> None:
    lines = [COMBINED + tail for tail in tails]
    name = detect(*lines).name

    parsed = [parse(line, name) for line in lines]

    assert {(each.event.latency_ms, each.repair) for each in parsed} == {(None, UNREAD_END)}
    assert [tags_of(each)["line"] for each in parsed] == lines


def test_an_assumption_is_put_into_words() -> None:
    (seconds,) = detect(f"{COMBINED} 0.125").notes
    (number,) = detect(f"{COMBINED} 17").notes

    assert "nginx's $request_time" in seconds
    assert "combined+duration_us (Apache's %D)" in number


def test_a_field_that_is_not_understood_does_not_hide_the_time_beside_it() -> None:
    line = f'{COMBINED} "shop.example" 0.125'
    name = detect(line).name

    parsed = parse(line, name)

    assert (name, parsed.event.latency_ms, parsed.repair) == ("combined+unknown+request_time", 125, UNREAD_END)


def test_a_line_without_the_fields_behind_the_format_is_whole() -> None:
    parsed = parse(COMBINED, "combined+request_time")

    assert (parsed.event.latency_ms, parsed.repair) == (None, None)


def test_an_example_of_what_is_not_understood_has_no_texts() -> None:
    parsed = parse(f'{COMBINED} "sid=secret" token=abc hunter2 4111111111111111 "0.12" 17 -')

    assert parsed.detail == '"…" token=… … … "0.12" 17 -'


@pytest.mark.parametrize("end", [" 0.1, " * 20_000, ' a="b"' * 20_000, " 5" * 60_000, "a." * 60_000])
def test_hostile_lines_do_not_stop_detection(end: str) -> None:
    started = time.monotonic()

    detect(COMBINED + end, end)

    assert time.monotonic() - started < 1


# What stands before the time


def test_virtual_hosts_in_front_are_detected() -> None:
    lines = [
        f"shop.example:443 192.0.2.15{REST}",
        f"shop.example:80 2001:db8::1{REST}",
        f"www.example 192.0.2.15{REST}",
    ]
    name = detect(*lines).name

    events = [parse(line, name) for line in lines]

    assert name == "vhost_common"
    assert [(tags_of(each)["host"], tags_of(each)["client"]) for each in events] == [
        ("shop.example", "192.0.2.15"),
        ("shop.example", "2001:db8::1"),
        ("www.example", "192.0.2.15"),
    ]
    assert {each.event.user_ref for each in events} == {None}


def test_the_first_of_forwarded_addresses_is_the_client() -> None:
    parsed = parse(f"192.0.2.15, 198.51.100.3{REST}", detect(f"192.0.2.15, 198.51.100.3{REST}").name)

    assert parsed.event.user_ref is None
    assert (tags_of(parsed)["client"], tags_of(parsed)["forwarded_for"]) == ("192.0.2.15", "192.0.2.15, 198.51.100.3")


WITH_HOST = ["shop.example:443 192.0.2.15 - -", "shop.example 192.0.2.15 - ann"]
STRETCHED = [
    "192.0.2.15 198.51.100.3 - -",
    "shop.example 192.0.2.15 -",
    "Dec 14 12:00:00 web nginx: 192.0.2.15 - -",
    "2025-12-14T12:00:00Z 192.0.2.15 - -",
    "web-1  | 192.0.2.15 - ann",
]


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("combined", WITH_HOST + STRETCHED),
        (APACHE_COMBINED, WITH_HOST + STRETCHED),
        (NGINX_COMBINED, WITH_HOST + STRETCHED),
        ("vhost_combined", STRETCHED),
    ],
)
def test_a_line_with_more_fields_before_its_time_is_refused(name: str, starts: Sequence[str]) -> None:
    for start in starts:
        line = f'{start} [14/Dec/2025:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "curl/8.5.0"'

        with pytest.raises(RefusedLineError, match=r"fields before its time|not in the format"):
            parse(line, name)


@pytest.mark.parametrize("name", ["combined", APACHE_COMBINED, NGINX_COMBINED])
def test_the_name_of_a_user_may_have_blanks(name: str) -> None:
    assert parse(combined_line(user="Jane van Doe").decode(), name).event.user_ref == "Jane van Doe"


# Quotes in the request


def test_a_request_with_quotes_that_are_not_escaped_is_taken_from_what_surrounds_it() -> None:
    line = combined_line(request='GET /a"b?c="d" HTTP/1.1').decode()

    parsed = parse(line)

    assert (parsed.event.endpoint, parsed.event.status_code, parsed.repair) == ('/a"b', 200, QUOTES_IN_REQUEST)
    assert tags_of(parsed)["line"] == line


@pytest.mark.parametrize(
    "request_line",
    ['GET /a" 200 5 "b HTTP/1.1', 'GET /a"b" 200 5 "c HTTP/1.1', 'GET /a" 200 5 "-" "curl/8.5.0" HTTP/1.1'],
)
def test_a_request_that_may_end_in_several_places_is_refused(request_line: str) -> None:
    with pytest.raises(RefusedLineError, match="several places"):
        parse(combined_line(request=request_line, status="404").decode())


# Format strings


@pytest.mark.parametrize(
    ("name", "line", "latency_ms"),
    [
        (APACHE_COMBINED, COMBINED, None),
        (f"{NGINX_COMBINED} $request_time", f"{COMBINED} 0.125", 125),
        (f"{NGINX_COMBINED} rt=${{request_time}} urt=$upstream_response_time", f"{COMBINED} rt=0.125 urt=-", 125),
        ("combined+request_time", f'{COMBINED} "0.125"', 125),
        ("common+ignored+duration_us", f"{COMMON} x=y 125000", 125),
        ("combined+duration_ms", f"{COMBINED} 125", 125),
        ("combinedio", f"{COMBINED} 300 800", None),
        ("traefik", f'{COMBINED} 7 "web@docker" "http://10.0.0.2:80" 125ms', 125),
    ],
)
def test_formats_are_accepted_as_servers_and_people_write_them(name: str, line: str, latency_ms: float | None) -> None:
    parsed = parse(line, name)

    assert (parsed.event.endpoint, parsed.event.latency_ms, parsed.repair) == ("/invoices", latency_ms, None)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (r"%h\t%t\t%>s", "192.0.2.7\t[14/Dec/2025:12:00:00 +0000]\t200"),
        ("%{begin:%Y-%m-%dT%T}t.%{begin:msec_frac}t%{begin:%z}t %>s", "2025-12-14T12:00:00.000+0000 200"),
        ("%{end:sec}t %>s", "1765713600 200"),
        ("%{sec}t.%{usec_frac}t %>s", "1765713600.000000 200"),
        ("%{msec}t %>s", "1765713600000 200"),
        ("%{%d/%b/%Y %T}t.%{msec_frac}t %{%z}t %>s", "14/Dec/2025 13:00:00.000 +0100 200"),
        ("%t %{end:%T}t %s", "[14/Dec/2025:12:00:00 +0000] 12:00:05 200"),
        ("$time_local $status", "14/Dec/2025:13:00:00 +0100 200"),
        ("$msec $status", "1765713600.000 200"),
        (
            '{"t":"$time_iso8601","m":"$request_method","u":"$request_uri","s":$status}',
            '{"t":"2025-12-14T13:00:00+01:00","m":"GET","u":"/a?b","s":200}',
        ),
    ],
)
def test_times_are_read_as_the_format_says(name: str, line: str) -> None:
    assert parse(line, name).event.time == START


def test_a_format_without_an_offset_says_so() -> None:
    name = "%{%Y-%m-%d %T}t %>s"

    assert make_parser(name, service="shop", json_service=None, clock=lambda: START).notes == (
        "its times have no offset and are read as UTC",
    )
    assert parse("2025-12-14 12:00:00 200", name).event.time.replace(tzinfo=UTC) == START


def test_an_unknown_time_zone_is_not_taken_for_utc() -> None:
    with pytest.raises(RefusedLineError, match="not valid"):
        parse("2025-12-14 12:00:00 XYZ 200", "%{%Y-%m-%d %T %Z}t %>s")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("apache", "There is no format 'apache'"),
        ("combined+time", "There is no field 'time'"),
        (r"%t\n%s", "line break"),
        ("%{%H:%M:%S}t %s", "Expected a format with a date"),
        ("%{begin:%Y-%m-%d}t %s", "Expected a format with a date"),
        ("%{begin}x %s", r"a time \(%t"),
        ("%{%c}t %s", "%c"),
        ("$time_local", r"a status \(%s"),
    ],
)
def test_a_format_that_no_line_can_have_is_refused_at_once(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FormatSet(name)


# Lines of other programs


@pytest.mark.parametrize(
    "line",
    [
        "2025-12-14 12:00:00 192.0.2.7 GET / - 443 - 198.51.100.3 curl/8.5.0 200 0 0 15",  # IIS
        "#Fields: date time c-ip cs-method cs-uri-stem sc-status",
        "1765713600.123    125 192.0.2.7 TCP_MISS/200 512 GET http://example.com/ - DIRECT/- text/html",  # Squid
        "Dec 14 12:00:00 lb haproxy[1]: 192.0.2.7:5000 [14/Dec/2025:12:00:00.000] web app/a 0/0/0/5/5 200 512 - -",
        'https 2025-12-14T12:00:00Z app/lb/1 192.0.2.7:2817 10.0.0.1:80 0.0 0.1 0.0 200 200 0 57 "GET / HTTP/1.1"',
        'owner bucket [14/Dec/2025:12:00:00 +0000] 192.0.2.7 owner id REST.GET.OBJECT key "GET /a HTTP/1.1" 200 - 5',
        "[Sun Dec 14 12:00:00.000000 2025] [core:error] [pid 1] AH00124: Request exceeded the limit",
    ],
)
def test_lines_of_other_programs_are_refused(line: str) -> None:
    with pytest.raises(RefusedLineError):
        parse(line)


def test_json_of_other_programs_is_refused() -> None:
    line = msgspec.json.encode({"level": 30, "time": 1765713600123, "pid": 1, "msg": "request completed"})

    assert detect_format([line]).name == "json"
    with pytest.raises(RefusedLineError, match="This field is required"):
        make_parser("json", service="shop", json_service="shop", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)).parse(
            line
        )
