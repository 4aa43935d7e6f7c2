"""Access logs whose lines are fields between delimiters: AWS load balancers, and the W3C extended format.

- Application Load Balancers:
  https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-access-logs.html
- W3C (CloudFront, IIS): https://www.w3.org/TR/WD-logfile.html. The fields are those that the last directive ``#Fields``
  names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from plugins.observability.importer.events import (
    ACCESS_LINE_MAX_BYTES,
    NO_VALUE,
    ParsedLine,
    RefusedLineError,
    make_event,
)
from plugins.observability.importer.formats import to_printable

ALB = "alb"
W3C = "w3c"
DELIMITED_LOGS = (ALB, W3C)
FIELDS_DIRECTIVE = b"#Fields:"
_NOT_VALID = "A time or number in the line is not valid."
_NOT_MEASURED = -1.0


def detect_delimited_log(line: bytes) -> str | None:
    """Return which of ``DELIMITED_LOGS`` has a line like this; None if none has."""
    if line.startswith((FIELDS_DIRECTIVE, b"#Version:", b"#Software:")):
        return W3C
    return ALB if _ALB_START.match(line) else None


# AWS Application Load Balancers

_ALB_START = re.compile(rb"(?:http|https|h2|grpcs|ws|wss) \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z \S+ \S+ ")
_TOKEN = re.compile(r'(?:^| )(?:"((?:[^"\\]|\\.)*)"|(\S+))')
_ALB_FIELDS = (
    "type",
    "time",
    "elb",
    "client",
    "target",
    "request_processing_time",
    "target_processing_time",
    "response_processing_time",
    "status",
    "target_status",
    "received_bytes",
    "bytes",
    "request_line",
    "user_agent",
    "ssl_cipher",
    "ssl_protocol",
    "target_group",
    "trace",
    "domain",
    "certificate",
    "rule",
    "creation_time",
)
# What came before there were traces.
_ALB_FIELDS_MIN = 14


class AlbParser:
    """Parses lines of AWS Application Load Balancers. Fields that were added at their end since are ignored.

    The latency is the time of the load balancer, the target and the response together; absent where the target did not
    answer. The time is the one at which the request came.

    Args:
        service: The service whose log it is.
    """

    notes: Sequence[str] = ()

    def __init__(self, service: str) -> None:
        self._service = service

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine:
        """See ``LineParser``."""
        text = _decode(line)
        tokens = _tokens(text)
        if len(tokens) < _ALB_FIELDS_MIN:
            raise RefusedLineError("The line is not in the format of this log." if complete else "The line is cut off.")
        values = {name: value for name, value in zip(_ALB_FIELDS, tokens, strict=False) if value not in ("", NO_VALUE)}
        try:
            fields = _alb_fields(values)
        except (ValueError, OverflowError) as ex:
            raise RefusedLineError(_NOT_VALID, str(ex)) from ex
        tags: dict[str, Any] = {name: values[name] for name in ("target_status", "trace") if name in values}
        return ParsedLine(make_event(fields, tags, self._service))


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    position = 0
    while position < len(text) and (token := _TOKEN.match(text, position)):
        quoted, bare = token.groups()
        found.append(quoted if bare is None else bare)
        position = token.end()
    return found


def _alb_fields(values: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: values[name] for name in ("user_agent", "request_line") if name in values}
    fields["time"] = datetime.fromisoformat(values.get("creation_time") or values["time"])
    if "status" in values:
        fields["status"] = int(values["status"])
    if "bytes" in values:
        fields["bytes"] = int(values["bytes"])
    if "client" in values:
        fields["client"] = values["client"].rpartition(":")[0].strip("[]")
    times = [float(values.get(name, _NOT_MEASURED)) for name in _ALB_FIELDS[5:8]]
    if all(time >= 0 for time in times):
        fields["request_time_s"] = sum(times)
    method, _, rest = values.get("request_line", "").partition(" ")
    url, _, version = rest.rpartition(" ")
    try:
        parts = urlsplit(url)
    except ValueError:
        return fields
    if parts.netloc:
        # The request of the client has a path only; the log makes it a URL.
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        fields |= {"request_line": f"{method} {target or '/'} {version}", "host": parts.hostname or parts.netloc}
    return fields


# W3C extended log format

_W3C_NAMES = {
    "cs-method": "method",
    "cs-uri-stem": "path",
    "cs-uri-query": "args",
    "sc-status": "status",
    "sc-bytes": "bytes",
    "c-ip": "client",
    "x-forwarded-for": "forwarded_for",
    "cs-username": "user",
    "cs(user-agent)": "user_agent",
    "cs(referer)": "referer",
    "cs-host": "host",
    "cs(host)": "host",
    # Of the client; cs(Host) is the distribution's own.
    "x-host-header": "host",
}
_CLOUDFRONT = "x-edge-location"
NO_FIELDS = "No line '#Fields:' comes before this line."


class W3cParser:
    """Parses lines of the W3C extended log format, as CloudFront and IIS write it.

    Whole numbers as ``time-taken`` are ms, as of IIS; with decimals they are seconds, as of CloudFront and by the
    standard. Times are UTC.

    Args:
        service: The service whose log it is.
    """

    notes: Sequence[str] = ()

    def __init__(self, service: str) -> None:
        self._service = service
        self._names: Sequence[str] = ()

    def parse(self, line: bytes, *, complete: bool = True) -> ParsedLine | None:
        """See ``LineParser``; None for directives."""
        text = _decode(line)
        if text.startswith("#"):
            name, _, value = text.partition(":")
            if name == "#Fields":
                self._names = [field.lower() for field in value.split()]
            return None
        if not self._names:
            raise RefusedLineError(NO_FIELDS)
        parts = text.split("\t") if "\t" in text else text.split(" ")
        if len(parts) != len(self._names):
            raise RefusedLineError("The line is not in the format of this log." if complete else "The line is cut off.")
        values = {name: value for name, value in zip(self._names, parts, strict=True) if value not in ("", NO_VALUE)}
        try:
            return ParsedLine(make_event(self._read(values), {}, self._service))
        except (ValueError, OverflowError) as ex:
            raise RefusedLineError(_NOT_VALID, str(ex)) from ex

    def _read(self, values: Mapping[str, str]) -> dict[str, Any]:
        is_cloudfront = _CLOUDFRONT in self._names
        fields: dict[str, Any] = {}
        for name, field in _W3C_NAMES.items():
            if name in values:
                fields[field] = values[name]
        for name in ("user_agent", "referer", "forwarded_for"):
            if name in fields:
                text = fields[name]
                fields[name] = _printable(unquote(text) if is_cloudfront else text.replace("+", " "))
        for name in ("status", "bytes"):
            if name in fields:
                fields[name] = int(fields[name])
        if "time-taken" in values:
            taken = values["time-taken"]
            fields["request_time_s" if "." in taken else "duration_ms"] = float(taken)
        if "date" in values and "time" in values:
            fields["time"] = datetime.fromisoformat(f"{values['date']}T{values['time']}").replace(tzinfo=UTC)
        elif "timestamp" in values:
            fields["time"] = datetime.fromtimestamp(float(values["timestamp"]), UTC)
        return fields


def _decode(line: bytes) -> str:
    if len(line) > ACCESS_LINE_MAX_BYTES:
        raise RefusedLineError(f"The line is longer than {ACCESS_LINE_MAX_BYTES:,} bytes.")
    # Tabs are delimiters.
    return "\t".join(to_printable(part) for part in line.split(b"\t"))


def _printable(text: str) -> str:
    return to_printable(text.encode("utf-8", "backslashreplace"))
