"""Access logs of proxies as JSON lines: nginx, Traefik, Caddy and Envoy.

Each server is a table: the members that may hold a field, and how their values are read. Traefik and Caddy name the
members themselves; of nginx and Envoy it is the configuration that does, mostly with the names of the variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from apachelogs.timeutil import parse_apache_timestamp

from plugins.observability.event_ids import EPOCH
from plugins.observability.importer.events import (
    ACCESS_LINE_MAX_BYTES,
    NO_VALUE,
    ParsedLine,
    RefusedLineError,
    make_event,
)
from plugins.observability.importer.formats import sum_of_times, to_printable

Converter = Callable[[Any], Any]
_DECODER = msgspec.json.Decoder(dict[str, Any])
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Larger numbers are in a smaller unit: this many seconds after 1970 is the year 5138.
_SECONDS_MAX = 1e11


# Values


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or value in ("", NO_VALUE):
        return None
    return to_printable(value.encode())


def _address(value: Any) -> str | None:
    """Return an address without its port: ``10.0.0.1:4242`` or ``[::1]:4242``."""
    text = _text(value)
    if text is None:
        return None
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, _, port = text.rpartition(":")
    return host if port.isdigit() and host and ":" not in host else text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None or value in ("", NO_VALUE):
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"not a number: {value!r:.40}")
    return number


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _us_of_ns(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else number / 1000


def _time(value: Any) -> datetime | None:
    """Return a time: seconds since 1970 (or ms, us or ns, by its size), ISO 8601, or as in Apache's logs."""
    if isinstance(value, str):
        value = value.strip()
        if value in ("", NO_VALUE):
            return None
        if not _is_number(value):
            time = parse_apache_timestamp(value) if "/" in value else datetime.fromisoformat(value)
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    number = _number(value)
    if number is None:
        return None
    while abs(number) > _SECONDS_MAX:
        number /= 1000
    return EPOCH + timedelta(seconds=number)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(value: Any) -> float | None:
    """Return s: a number, or as Caddy may write durations, such as ``1.25ms``."""
    if isinstance(value, str):
        for suffix, unit_s in (("ns", 1e-9), ("µs", 1e-6), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
            if value.endswith(suffix):
                return float(value.removesuffix(suffix)) * unit_s
    return _number(value)


def _times(value: Any) -> float | None:
    return sum_of_times(value) if isinstance(value, str) else _number(value)


# Servers

# In order: the first member with a value is the field. A tuple is a member of a member.
_Members = Sequence[tuple[str | tuple[str, ...], Converter]]
_FIELDS_OF: Mapping[str, Mapping[str, _Members]] = {
    # https://caddyserver.com/docs/logging
    "caddy": {
        "time": [("ts", _time)],
        "status": [("status", _integer)],
        "method": [(("request", "method"), _text)],
        "target": [(("request", "uri"), _text)],
        "request_time_s": [("duration", _seconds)],
        "bytes": [("size", _integer)],
        "client": [(("request", "client_ip"), _text), (("request", "remote_ip"), _text)],
        "host": [(("request", "host"), _text)],
        "referer": [(("request", "headers", "Referer"), _text)],
        "user_agent": [(("request", "headers", "User-Agent"), _text)],
        "forwarded_for": [(("request", "headers", "X-Forwarded-For"), _text)],
        "user": [("user_id", _text)],
    },
    # https://doc.traefik.io/traefik/observability/access-logs/
    "traefik_json": {
        "time": [("StartUTC", _time), ("StartLocal", _time), ("time", _time)],
        "status": [("DownstreamStatus", _integer)],
        "method": [("RequestMethod", _text)],
        "target": [("RequestPath", _text)],
        "duration_us": [("Duration", _us_of_ns)],
        "bytes": [("DownstreamContentSize", _integer)],
        "client": [("ClientHost", _text), ("ClientAddr", _address)],
        "host": [("RequestHost", _text), ("RequestAddr", _address)],
        "referer": [("request_Referer", _text)],
        "user_agent": [("request_User-Agent", _text)],
        "forwarded_for": [("request_X-Forwarded-For", _text)],
        "user": [("ClientUsername", _text)],
        "trace_id": [("TraceId", _text)],
        "router": [("RouterName", _text)],
        "upstream": [("ServiceName", _text)],
    },
    # https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage; names as Istio's.
    "envoy_json": {
        "time": [("start_time", _time), ("timestamp", _time), ("time", _time)],
        "status": [("response_code", _integer), ("status", _integer)],
        "method": [("method", _text), ("request_method", _text)],
        "target": [("x_envoy_origin_path", _text), ("path", _text)],
        "duration_ms": [("duration", _number)],
        "bytes": [("bytes_sent", _integer)],
        "client": [("downstream_remote_address", _address), ("downstream_direct_remote_address", _address)],
        "host": [("authority", _text)],
        "referer": [("referer", _text)],
        "user_agent": [("user_agent", _text)],
        "forwarded_for": [("x_forwarded_for", _text)],
        "router": [("route_name", _text)],
        "upstream": [("upstream_cluster", _text)],
        "response_flags": [("response_flags", _text)],
    },
    # https://nginx.org/en/docs/varindex.html
    "nginx_json": {
        "time": [
            (name, _time)
            for name in ("time_iso8601", "msec", "time_local", "@timestamp", "timestamp", "time", "ts", "date")
        ],
        "status": [("status", _integer), ("response_status", _integer)],
        "request_line": [("request", _text)],
        "method": [("request_method", _text), ("method", _text)],
        "target": [("request_uri", _text), ("uri", _text), ("url", _text), ("path", _text)],
        "request_time_s": [("request_time", _number)],
        "upstream_response_time_s": [("upstream_response_time", _times)],
        "bytes": [("body_bytes_sent", _integer), ("bytes_sent", _integer), ("bytes", _integer)],
        "client": [("remote_addr", _text), ("remote_ip", _text), ("client_ip", _text)],
        "host": [("http_host", _text), ("host", _text), ("server_name", _text)],
        "referer": [("http_referer", _text), ("http_referrer", _text), ("referer", _text), ("referrer", _text)],
        "user_agent": [("http_user_agent", _text), ("user_agent", _text), ("agent", _text)],
        "forwarded_for": [("http_x_forwarded_for", _text), ("x_forwarded_for", _text)],
        "user": [("remote_user", _text)],
    },
}
JSON_LOGS = tuple(_FIELDS_OF)
# Fields that have no place of their own in an event.
_TAGS = ("router", "upstream", "response_flags")


def detect_json_log(line: bytes) -> str | None:
    """Return which server's JSON access log has a line like this; None if that is none, or an event."""
    try:
        members = _DECODER.decode(line)
    except _DECODE_ERRORS:
        return None
    if "endpoint" in members and "status_code" in members:
        return None
    if isinstance(members.get("request"), dict):
        return "caddy" if "status" in members else None
    if "DownstreamStatus" in members:
        return "traefik_json"
    if "response_code" in members and ("authority" in members or "path" in members):
        return "envoy_json"
    fields = _FIELDS_OF["nginx_json"]
    has = {name: any(member in members for member, _ in fields[name]) for name in fields}
    return "nginx_json" if has["time"] and has["status"] and (has["request_line"] or has["target"]) else None


class JsonLogParser:
    """Parses lines of the JSON access log of a server.

    Args:
        name: One of ``JSON_LOGS``.
        service: The service whose log it is.
    """

    notes: Sequence[str] = ()

    def __init__(self, name: str, service: str) -> None:
        self._fields = _FIELDS_OF[name]
        self._service = service

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:  # noqa: ARG002 - half an object is not JSON
        """See ``LineParser``."""
        if len(line) > ACCESS_LINE_MAX_BYTES:
            raise RefusedLineError(f"The line is longer than {ACCESS_LINE_MAX_BYTES:,} bytes.")
        try:
            members = _DECODER.decode(line)
        except msgspec.ValidationError:
            raise RefusedLineError("The line is not a JSON object.") from None
        except _DECODE_ERRORS as ex:
            raise RefusedLineError("The line is not valid JSON.", str(ex)) from ex
        try:
            fields = self._read(members)
        except (ValueError, TypeError, OverflowError) as ex:
            raise RefusedLineError("A time or number in the line is not valid.", str(ex)) from ex
        if "status" not in fields:
            # Servers write what they do otherwise into the same file.
            raise RefusedLineError("The line is not about a request: it has no status.")
        tags = {name: fields.pop(name) for name in _TAGS if name in fields}
        return ParsedLine(make_event(fields, tags, self._service))

    def _read(self, members: Mapping[str, Any]) -> dict[str, Any]:
        fields = {}
        for field, sources in self._fields.items():
            for path, convert in sources:
                value = convert(_member(members, path))
                if value is not None:
                    fields[field] = value
                    break
        return fields


def _member(members: Any, path: str | tuple[str, ...]) -> Any:
    for name in (path,) if isinstance(path, str) else path:
        members = members.get(name) if isinstance(members, dict) else None
    return members
