"""Access logs of proxies and load balancers: JSON lines, AWS load balancers, and the W3C extended format."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kernel.testing import Client
from plugins.observability.importer.detection import JSON, detect_format
from plugins.observability.importer.events import RefusedLineError
from plugins.observability.importer.parsers import make_parser
from plugins.observability.models import EventIn
from tests.plugins.observability.accesslogs import run_import

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
AGENT = "curl/8.5.0"

CADDY = {
    "level": "info",
    "ts": START.timestamp(),
    "logger": "http.log.access.log0",
    "msg": "handled request",
    "request": {
        "remote_ip": "192.0.2.1",
        "remote_port": "41342",
        "client_ip": "203.0.113.7",
        "proto": "HTTP/2.0",
        "method": "GET",
        "host": "shop.example",
        "uri": "/invoices?page=2",
        "headers": {"User-Agent": [AGENT], "Referer": ["https://shop.example/"]},
    },
    "user_id": "ada",
    "duration": 0.0125,
    "size": 5120,
    "status": 200,
}
TRAEFIK = {
    "ClientAddr": "203.0.113.7:41342",
    "ClientHost": "203.0.113.7",
    "ClientUsername": "ada",
    "DownstreamContentSize": 5120,
    "DownstreamStatus": 200,
    "Duration": 12_500_000,
    "OriginDuration": 12_000_000,
    "OriginStatus": 200,
    "RequestHost": "shop.example",
    "RequestMethod": "GET",
    "RequestPath": "/invoices?page=2",
    "RequestProtocol": "HTTP/2.0",
    "RouterName": "shop@docker",
    "StartUTC": "2026-03-01T10:00:00.000000123Z",
    "level": "info",
    "msg": "",
    "request_User-Agent": AGENT,
    "request_Referer": "https://shop.example/",
    "time": "2026-03-01T11:00:00+01:00",
}
ENVOY = {
    "authority": "shop.example",
    "bytes_received": 0,
    "bytes_sent": 5120,
    "downstream_remote_address": "203.0.113.7:41342",
    "duration": 13,
    "method": "GET",
    "path": "/invoices?page=2",
    "protocol": "HTTP/1.1",
    "referer": "https://shop.example/",
    "request_id": "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2",
    "response_code": 200,
    "response_flags": "-",
    "start_time": "2026-03-01T10:00:00.000Z",
    "upstream_cluster": "outbound|80||shop",
    "user_agent": AGENT,
    "x_forwarded_for": None,
}
# With escape=json everything is a text.
NGINX = {
    "time_iso8601": "2026-03-01T11:00:00+01:00",
    "remote_addr": "203.0.113.7",
    "remote_user": "ada",
    "request": "GET /invoices?page=2 HTTP/1.1",
    "status": "200",
    "body_bytes_sent": "5120",
    "request_time": "0.013",
    "upstream_response_time": "0.004, 0.008",
    "http_referer": "https://shop.example/",
    "http_user_agent": AGENT,
    "host": "shop.example",
}
ALB = (
    "h2 2026-03-01T10:00:00.013000Z app/shop/50dc6c495c0c9188 203.0.113.7:41342 10.0.0.1:80 0.000 0.012 0.001 200 200 "
    f'34 5120 "GET https://shop.example:443/invoices?page=2 HTTP/2.0" "{AGENT}" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 '
    'arn:aws:elasticloadbalancing:us-east-2:1:targetgroup/shop/73e2 "Root=1-58337262-36d228ad5d99923122bbe354" '
    '"shop.example" "-" 0 2026-03-01T10:00:00.000000Z "forward" "-" "-" "10.0.0.1:80" "200" "-" "-" TID_1 "-" "-" "-"'
)
CLOUDFRONT = (
    "#Version: 1.0",
    "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) "
    "cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes "
    "time-taken x-forwarded-for",
    "\t".join(
        (
            "2026-03-01",
            "10:00:00",
            "FRA50-C1",
            "5120",
            "203.0.113.7",
            "GET",
            "d111111abcdef8.cloudfront.net",
            "/invoices",
            "200",
            "https://shop.example/",
            "Mozilla/5.0%20(X11)",
            "page=2",
            "session=secret",
            "Miss",
            "SOX4xwn4XV6Q4rgb7XiVGOHms_BGlTAC4KyHmureZmBNrjGdRLiNIQ==",
            "shop.example",
            "https",
            "23",
            "0.013",
            "-",
        )
    ),
)
IIS = (
    "#Software: Microsoft Internet Information Services 10.0",
    "#Fields: date time cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) sc-status time-taken",
    "2026-03-01 10:00:00 GET /invoices page=2 443 ada 203.0.113.7 Mozilla/5.0+(X11) 200 13",
)


def encode(members: dict[str, Any], **changes: Any) -> bytes:
    return msgspec.json.encode({**members, **changes})


def parse(name: str, *lines: bytes) -> EventIn:
    """Parse lines, of which the last is of a request."""
    parser = make_parser(name, service="shop", json_service=None, clock=lambda: START)
    parsed = [parser.parse(line) for line in lines][-1]
    assert parsed is not None
    return parsed.event


@pytest.mark.parametrize(
    ("name", "lines", "tags"),
    [
        ("caddy", [encode(CADDY)], {"referer": "https://shop.example/", "user_agent": AGENT}),
        ("traefik_json", [encode(TRAEFIK)], {"router": "shop@docker", "user_agent": AGENT}),
        ("envoy_json", [encode(ENVOY)], {"upstream": "outbound|80||shop", "user_agent": AGENT}),
        ("nginx_json", [encode(NGINX)], {"upstream_response_time_ms": 12, "user_agent": AGENT}),
        ("alb", [ALB.encode()], {"target_status": "200", "user_agent": AGENT}),
        ("w3c", [line.encode() for line in CLOUDFRONT], {"user_agent": "Mozilla/5.0 (X11)"}),
        ("w3c", [line.encode() for line in IIS], {"user_agent": "Mozilla/5.0 (X11)"}),
    ],
    ids=["caddy", "traefik", "envoy", "nginx", "alb", "cloudfront", "iis"],
)
def test_a_request(name: str, lines: list[bytes], tags: dict[str, Any]) -> None:
    assert detect_format(lines).name == name

    event = parse(name, *lines)

    assert (event.time.replace(microsecond=0), event.service) == (START, "shop")
    assert (event.method, event.endpoint, event.status_code, event.latency_ms) == ("GET", "/invoices", 200, 13)
    found = msgspec.json.decode(event.tags)
    assert found["query"] == "page=2"
    assert found["client"] == "203.0.113.7"
    assert {key: found.get(key) for key in tags} == tags
    assert "secret" not in bytes(event.tags).decode()


def test_events_are_not_taken_for_a_log_of_a_server() -> None:
    event = {"time": "2026-03-01T10:00:00Z", "service": "a", "endpoint": "/", "method": "GET", "status_code": 200}

    assert detect_format([encode(event, status=200, path="/")]).name == JSON


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("caddy", encode({"level": "info", "ts": 1.0, "msg": "certificate obtained"}), "no status"),
        ("caddy", b"[1]", "not a JSON object"),
        ("nginx_json", encode(NGINX, status="20x"), "not valid"),
        ("nginx_json", encode(NGINX, time_iso8601="yesterday"), "not valid"),
        ("nginx_json", encode(NGINX, time_iso8601=""), "no time"),
        ("traefik_json", encode(TRAEFIK, StartUTC="1" * 400), "not valid"),
        # The client was gone before there was a response.
        ("envoy_json", encode(ENVOY, response_code=0), "status_code"),
        ("envoy_json", encode(ENVOY)[:-9], "not valid JSON"),
        ("alb", ALB[:60].encode(), "not in the format"),
        ("alb", ALB.replace("0.012", "x").encode(), "not valid"),
        ("w3c", CLOUDFRONT[2].encode(), "No line '#Fields:'"),
    ],
)
def test_lines_that_are_no_requests_are_refused(name: str, line: bytes, reason: str) -> None:
    with pytest.raises(RefusedLineError, match=reason):
        parse(name, line)


def test_a_target_that_did_not_answer_has_no_latency() -> None:
    line = ALB.replace("0.000 0.012 0.001 200 200", "-1 -1 -1 502 -")

    event = parse("alb", line.encode())

    assert (event.status_code, event.latency_ms) == (502, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1772359200, START), (1772359200000, START), ("1772359200.000", START), ("01/Mar/2026:11:00:00 +0100", START)],
)
def test_spellings_of_times(value: Any, expected: datetime) -> None:
    assert parse("nginx_json", encode(NGINX, time_iso8601=value)).time == expected


def test_fields_may_change_within_a_file() -> None:
    lines = [*IIS, "#Fields: date time cs-method cs-uri-stem sc-status", "2026-03-01 10:00:01 PUT /a 204"]

    event = parse("w3c", *(line.encode() for line in lines))

    assert (event.method, event.endpoint, event.status_code, event.latency_ms) == ("PUT", "/a", 204, None)


def test_directives_are_not_counted(client: Client) -> None:
    imported = run_import(client, "-", "--service", "shop", stdin="\n".join(CLOUDFRONT).encode())

    assert imported.summary["files"][0]["format"] == "w3c"
    assert imported.summary["lines"] == 1
    assert imported.counts == (1, 0, 0)
