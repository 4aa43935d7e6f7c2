r"""Formats of access logs: Apache's and nginx's format strings, and names for those that are common.

The grammar of format strings is that of ``apachelogs``, with the variables of nginx added as ``%{name}x``. It reads
``\x16`` both as one escaped byte and as ``\x`` followed by ``16``: a line with many of them that does not fit its
format, such as half a line of TLS garbage, would be matched in 2**n ways. ``normalize_escapes`` writes every byte in
the only way that can be read in one way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

from apachelogs import COMBINED, COMMON
from apachelogs.directives import PARAMETERIZED_DIRECTIVES, PLAIN_DIRECTIVES, format2regex
from apachelogs.timeutil import assemble_datetime, parse_apache_timestamp
from apachelogs.util import FieldType, clf, clf_string, unescape

from plugins.observability.event_ids import EPOCH

Converter = Callable[[str], Any]
_NO_VALUE = "-"
_REQUEST_AND_SIZE = ' "%r" %>s %b'
_REFERER_AND_AGENT = ' "%{Referer}i" "%{User-Agent}i"'

# Debian's "vhost_combined" and its siblings. Where a host stands first, nothing but "-" is taken for the identity: two
# words and a user would fit as well.
_VHOST_COMMON = "%{vhost}x %{address}x - %u %t" + _REQUEST_AND_SIZE
# Names of formats; those of ``TAIL_FIELDS`` may follow, as in ``combined+request_time``.
NAMED_FORMATS: Mapping[str, str] = {
    "combined": COMBINED,
    "common": COMMON,
    "vhost_combined": _VHOST_COMMON + _REFERER_AND_AGENT,
    "vhost_common": _VHOST_COMMON,
    # Apache's mod_logio.
    "combinedio": f"{COMBINED} %I %O",
    # https://doc.traefik.io/traefik/observability/access-logs/ ("common")
    "traefik": COMBINED + ' %{requests}x "%{router}x" "%{server}x" %{duration}x',
}
# Formats that have parsers of their own.
OTHER_FORMATS = ("nginx_json", "traefik_json", "caddy", "envoy_json", "alb", "w3c")
# What is left of a format if everything behind the size of the response is ignored.
_SHORT_FORMATS: Mapping[str, str] = {
    "combined": "common",
    "combinedio": "common",
    "traefik": "common",
    "vhost_combined": "vhost_common",
}
_ANYTHING = "%{tail}x"


# Fields

_WORD = r"(?:[!\x23-\x5B\x5D-\x7E]|\\.)+?"
_NOT_COMMA = r"(?:[!\x23-\x2B\x2D-\x5B\x5D-\x7E]|\\.)+"
_ADDRESSES = rf"{_NOT_COMMA}(?:, ?{_NOT_COMMA})*"
_SECONDS = r"\d+(?:\.\d+)?"
_LIST_SEPARATOR = re.compile(r" : |, ?")
_KEY = re.compile(r"[A-Za-z_][\w.-]*[=:]")
_PORT = re.compile(r":\d+$")


def _tail_field(body: str, convert: Converter) -> FieldType:
    """Return the type of a field behind a format: its value may be quoted, and a key may precede it."""
    return FieldType(
        rf'(?:{_KEY.pattern})?(?:"(?:{body})"|(?:{body}))',
        lambda text: convert(_KEY.sub("", text, count=1).strip('"')),
    )


def _number(text: str) -> float | None:
    return None if text in ("", _NO_VALUE) else float(text)


def sum_of_times(text: str) -> float | None:
    """Return the sum of a list of times: nginx writes one for each server that it asked."""
    numbers = [float(item) for item in _LIST_SEPARATOR.split(text) if item not in ("", _NO_VALUE)]
    return sum(numbers) if numbers else None


def _with_unit(text: str) -> float | None:
    """Return ms."""
    number = text.rstrip("mus")
    return None if text == _NO_VALUE else float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[text[len(number) :]]


def _text(text: str) -> bytes | None:
    return None if text in ("", _NO_VALUE) else unescape(text)


def _nothing(_text: str) -> None:
    return None


_ANY_VALUE = r'(?<=")[^"\\]*(?:\\.[^"\\]*)*|[^\s"]+'
# What may stand behind a format, by name.
TAIL_FIELDS: Mapping[str, FieldType] = {
    "request_time": _tail_field(rf"-|{_SECONDS}", _number),
    "upstream_response_time": _tail_field(rf"(?:-|{_SECONDS})(?:(?: : |, ?)(?:-|{_SECONDS}))*", sum_of_times),
    "duration": _tail_field(r"-|\d+(?:\.\d+)?(?:ms|us|s)", _with_unit),
    "duration_us": _tail_field(r"-|-?\d+(?:\.\d+)?", _number),
    "duration_ms": _tail_field(r"-|-?\d+(?:\.\d+)?", _number),
    "duration_s": _tail_field(r"-|-?\d+(?:\.\d+)?", _number),
    "forwarded_for": _tail_field(_ANY_VALUE, _text),
    "ignored": _tail_field(_ANY_VALUE, _nothing),
    # Not understood; such a line counts as repaired.
    "unknown": _tail_field(_ANY_VALUE, _text),
}


class _Directives(dict[str, Any]):
    """The directives of one letter by parameter; those that are not listed have one type.

    Args:
        name: What the library calls them.
        default: Their type.
        special: Types of some parameters; the case of these does not matter.
    """

    def __init__(self, name: str, default: FieldType, special: Mapping[str, FieldType | tuple[Any, FieldType]]) -> None:
        super().__init__()
        self._name = name
        self._default = default
        self._special = special

    def __missing__(self, parameter: str) -> tuple[Any, FieldType]:
        special = self._special.get(parameter.lower(), self._default)
        # The library's types are tuples as well.
        return ((self._name, parameter), special) if isinstance(special, FieldType) else special


_TIME = "request_time_fields"
_TIMESTAMP = r"\d\d/\w{3}/\d{4,}:\d\d:\d\d:\d\d *[-+]\d{4}"
_VARIABLES: Mapping[str, Any] = {
    **TAIL_FIELDS,
    # With a letter or a port in it: an address alone is one of the client.
    "vhost": FieldType(
        r"(?:[0-9.]+|\[[0-9A-Fa-f:.]+\]):\d+|(?=[\d.*_-]{0,255}[A-Za-z])[\w.*-]{1,255}(?::\d+)?",
        lambda text: unescape(_PORT.sub("", text)),
    ),
    "address": FieldType(f"(?!- ){_ADDRESSES}", unescape),
    "tail": FieldType(r"(?: .*)?", str),
    # The text of a request that has quotes in it.
    "quoted_request": FieldType(r".*?", unescape),
    "last_quoted_request": FieldType(r".*", unescape),
    # nginx: https://nginx.org/en/docs/varindex.html
    "time_local": ((_TIME, "timestamp"), FieldType(_TIMESTAMP, parse_apache_timestamp)),
    "time_iso8601": (
        (_TIME, "timestamp"),
        FieldType(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[-+]\d\d:\d\d", datetime.fromisoformat),
    ),
    "msec": (
        (_TIME, "timestamp"),
        FieldType(r"\d{1,11}\.\d{3}", lambda text: EPOCH + timedelta(milliseconds=int(text.replace(".", "")))),
    ),
    "request_uri": clf_string,
    "args": clf_string,
}
_ADDRESS_FIELD = FieldType(rf"(?:{_ADDRESSES}|-)", lambda text: None if text == _NO_VALUE else unescape(text))
_PLAIN = {
    **PLAIN_DIRECTIVES,
    # No blanks in them, unless they separate addresses: with blanks they would swallow fields that a format lacks.
    "h": ("remote_host", FieldType(_ADDRESSES, unescape)),
    "l": ("remote_logname", clf(FieldType(_WORD, unescape))),
    "v": ("virtual_host", FieldType(_WORD, unescape)),
    "V": ("server_name", FieldType(_WORD, unescape)),
    "t": ((_TIME, "timestamp"), FieldType(rf"\[{_TIMESTAMP}\]", parse_apache_timestamp)),
}
_PARAMETERIZED = {
    **PARAMETERIZED_DIRECTIVES,
    "i": _Directives(
        "headers_in",
        clf_string,
        {
            # Between quotes whatever the client sent.
            "x-forwarded-for": FieldType(
                rf'(?:(?<="){clf_string.regex}|{_ADDRESS_FIELD.regex})', _ADDRESS_FIELD.converter
            )
        },
    ),
    "x": _Directives("variables", clf(FieldType(r".+?", str)), _VARIABLES),
}
# The library's names, without "final_" and "original_", and the names used here. The first field with a value is used.
_FIELDS: Mapping[str, str] = {
    "remote_host": "client",
    "remote_address": "client",
    "headers_in.x-forwarded-for": "forwarded_for",
    "variables.forwarded_for": "forwarded_for",
    "remote_logname": "identity",
    "remote_user": "user",
    "virtual_host": "host",
    "server_name": "host",
    "variables.vhost": "host",
    "variables.address": "client",
    "request_line": "request_line",
    "variables.quoted_request": "request_line",
    "variables.last_quoted_request": "request_line",
    "request_method": "method",
    "request_uri": "path",
    "request_query": "query",
    "variables.request_uri": "target",
    "variables.args": "args",
    "status": "status",
    "bytes_sent": "bytes",
    "bytes_out": "bytes",
    "headers_in.referer": "referer",
    "headers_in.user-agent": "user_agent",
    "request_duration_microseconds": "duration_us",
    "request_duration_milliseconds": "duration_ms",
    "request_duration_seconds": "duration_s",
    "variables.duration_us": "duration_us",
    "variables.duration_ms": "duration_ms",
    "variables.duration_s": "duration_s",
    "variables.duration": "duration_ms",
    # Apache has no directive for seconds with decimals, which nginx writes as $request_time.
    "variables.request_time": "request_time_s",
    "variables.upstream_response_time": "upstream_response_time_s",
    "variables.unknown": "unknown",
    "variables.tail": "tail",
}


# Format strings


class LogFormat:
    """One format.

    Args:
        text: Apache's directives, such as ``%h %l %u %t "%r" %>s %b``.

    Raises:
        ValueError: It is not a log format, or it has no status or not all of a time.
    """

    def __init__(self, text: str) -> None:
        groups, pattern = format2regex(text, _PLAIN, _PARAMETERIZED)
        self._regex = re.compile(pattern)
        self._fields: list[tuple[int, str, Converter]] = []
        times: dict[str, list[tuple[int, str, Converter]]] = {"": [], "begin_": [], "end_": []}
        for number, (name, _, convert) in enumerate(groups):
            library_name, field = _field_names(name)
            prefix = library_name.removesuffix(_TIME)
            if library_name.endswith(_TIME):
                times[prefix].append((number, name[1], convert))
            elif field is not None:
                self._fields.append((number, field, convert))
        if not any(times.values()) or all(field != "status" for _, field, _ in self._fields):
            raise ValueError("Expected a format with a time (%t, $time_local) and a status (%s, %>s, $status)")
        complete = [found for found in times.values() if _is_complete(name for _, name, _ in found)]
        if not complete:
            raise ValueError("Expected a format with a date, an hour, a minute and a second")
        # The time at which the request began, if there are several.
        self._time_groups = complete[0]
        names = {name for _, name, _ in self._time_groups}
        self.has_offset = bool(names & {"timestamp", "epoch", "milliepoch", "microepoch", "timezone", "tzname"})
        # Consecutive lines of a log share their second.
        self._time = lru_cache(maxsize=256)(self._convert_time)

    def match(self, line: str) -> dict[str, Any] | None:
        """Return the fields of a line that have a value, and ``time``; None if the line is not in this format.

        Args:
            line: From ``normalize_escapes``.

        Raises:
            ValueError: The line has this format, but a time or number in it is not valid.
        """
        found = self._regex.fullmatch(line)
        if found is None:
            return None
        groups = found.groups()
        fields: dict[str, Any] = {}
        for number, field, convert in self._fields:
            value = convert(groups[number])
            if value is not None and field not in fields:
                fields[field] = to_printable(value) if isinstance(value, bytes) else value
        event_time = self._time(tuple(groups[number] for number, _, _ in self._time_groups))
        if event_time is not None:
            fields["time"] = event_time
        return fields

    def _convert_time(self, texts: tuple[str, ...]) -> datetime | None:
        named = zip(self._time_groups, texts, strict=True)
        values = {name: convert(text) for (_, name, convert), text in named}
        event_time: datetime | None = assemble_datetime(values)
        if event_time is None:
            return None
        if values.get("tzname") and event_time.tzinfo is None:
            # The library knows those of this machine only.
            raise ValueError(f"unknown time zone {values['tzname']!r}; %z is an offset")
        if values.get("epoch") is not None:
            # A whole second; decimals are a directive of their own.
            event_time += timedelta(
                milliseconds=values.get("msec_frac") or 0, microseconds=values.get("usec_frac") or 0
            )
        return event_time


def _field_names(name: Any) -> tuple[str, str | None]:
    """Return the library's name of a group, and the name used here if the field is used."""
    first, *further = name if isinstance(name, tuple) else (name,)
    first = _REDIRECTED.sub("", first)
    return first, _FIELDS.get(".".join([first, *further]).lower())


_REDIRECTED = re.compile("^(?:final|original)_")
# A value of each part of a time.
_TIME_PARTS: Mapping[str, Any] = {
    "timestamp": EPOCH,
    "epoch": 0,
    "milliepoch": 0,
    "microepoch": 0,
    "timezone": UTC,
    "tzname": "UTC",
    "year": 2026,
    "abbrev_year": 26,
    "iso_year": 2026,
    "abbrev_iso_year": 26,
    "full_mon": "January",
    "abbrev_mon": "Jan",
    "full_wday": "Monday",
    "abbrev_wday": "Mon",
    "am_pm": "AM",
    "date": date(2026, 1, 1),
    "time": time(1),
    "hour_min": time(1),
}


def _is_complete(names: Any) -> bool:
    """Tell whether some parts of a time are enough to tell when it was."""
    return assemble_datetime({name: _TIME_PARTS.get(name, 1) for name in names}) is not None


class FormatSet:
    """A format, and the formats of lines that are damaged or have more or fewer fields than it.

    Args:
        name: One of ``NAMED_FORMATS``, perhaps with ``TAIL_FIELDS``, or a format string of Apache or nginx.

    Attributes:
        whole: What lines should look like.
        repairs: What is tried for other lines, in order: a format, a text to append to the line, and what is wrong with
            a line that has this format. A field ``tail`` with a value is wrong as well.
        quoted_requests: Two formats of lines whose request has quotes in it: one takes the first quote that may end it,
            the other the last. They must agree.

    Raises:
        ValueError: There is no such format.
    """

    def __init__(self, name: str) -> None:
        base, *fields = name.split("+") if _is_name(name) else (name,)
        text = _base_text(base) + "".join(f" %{{{field}}}x" for field in _validate_tail(fields))
        # Whatever is wrong after the size of the response, everything that makes an event comes before it.
        shorter = NAMED_FORMATS[_SHORT_FORMATS.get(base, base)] if base in NAMED_FORMATS else text
        self.whole = LogFormat(text)
        self.repairs: list[tuple[LogFormat, str, str | None]] = [
            (self.whole, '"', NO_LAST_QUOTE),
            (LogFormat(text + _ANYTHING), "", None),
        ]
        if fields:
            self.repairs.append((tail_format(base), "", None))
        if shorter != text:
            self.repairs.append((LogFormat(shorter + _ANYTHING), "", NO_LAST_FIELDS))
        self.quoted_requests = [
            LogFormat(shorter.replace('"%r"', f'"%{{{variable}}}x"') + _ANYTHING)
            for variable in ("quoted_request", "last_quoted_request")
            if '"%r"' in shorter
        ]


NO_LAST_QUOTE = "The last quote of the line is missing."
NO_LAST_FIELDS = "Fields are missing at the end of the line."


def tail_format(base: str) -> LogFormat:
    """Return one of the ``NAMED_FORMATS``, with anything behind it as ``tail``."""
    return LogFormat(NAMED_FORMATS[base] + _ANYTHING)


def _is_name(name: str) -> bool:
    return "%" not in name and "$" not in name


def _base_text(base: str) -> str:
    if _is_name(base):
        try:
            return NAMED_FORMATS[base]
        except KeyError:
            known = ", ".join(("auto", "json", *NAMED_FORMATS, *OTHER_FORMATS))
            raise ValueError(
                f"There is no format {base!r}. Expected one of {known}, or a format string of Apache or nginx"
            ) from None
    text = _unescape_format(base)
    return _translate_nginx(text) if _NGINX.search(text) else text


def _validate_tail(fields: Sequence[str]) -> Sequence[str]:
    for field in fields:
        if field not in TAIL_FIELDS:
            raise ValueError(f"There is no field {field!r} to follow a format. There are: {', '.join(TAIL_FIELDS)}")
    return fields


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _unescape_format(text: str) -> str:
    r"""Resolve what configuration files of servers escape: ``\"``, ``\\`` and ``\t``."""
    resolved = _ESCAPED.sub(lambda found: {"t": "\t", "n": "\n", "r": "\r"}.get(found[1], found[1]), text)
    if "\n" in resolved or "\r" in resolved:
        raise ValueError("Expected a format of one line, got one with a line break")
    return normalize_escapes(resolved.encode())


_NGINX = re.compile(r"\$\{?(?:time_local|time_iso8601|msec|status)\b")
_NGINX_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_NGINX_DIRECTIVES: Mapping[str, str] = {
    "remote_addr": "%h",
    "remote_user": "%u",
    "status": "%>s",
    "body_bytes_sent": "%b",
    "bytes_sent": "%O",
    "request": "%r",
    "request_method": "%m",
    "uri": "%U",
    "document_uri": "%U",
    "query_string": "%{args}x",
    "http_referer": "%{Referer}i",
    "http_user_agent": "%{User-Agent}i",
    "http_x_forwarded_for": "%{X-Forwarded-For}i",
    "proxy_add_x_forwarded_for": "%{X-Forwarded-For}i",
    "host": "%v",
    "http_host": "%v",
    "server_name": "%v",
}


def _translate_nginx(text: str) -> str:
    """Return the directives of Apache for a format string of nginx."""
    text = text.replace("%", "%%").replace("[$time_local]", "%t")
    return _NGINX_VARIABLE.sub(lambda found: _NGINX_DIRECTIVES.get(name := found[1] or found[2], f"%{{{name}}}x"), text)


# Escapes

_ESCAPES = re.compile(r"\\x([0-9A-Fa-f]{2})|\\.|[^ -~]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def normalize_escapes(line: bytes) -> str:
    """Return a line as the library's grammar can read it in one way only; raw bytes are escaped."""
    text = line.decode("latin-1")
    if "\\" not in text and text.isascii() and text.isprintable():
        return text
    return _ESCAPES.sub(_normalize_escape, text)


def _normalize_escape(match: re.Match[str]) -> str:
    escape = match[0]
    character = chr(int(match[1], 16)) if match[1] else escape
    if len(character) > 1:
        return escape
    if " " <= character <= "~" and character not in '"\\':
        return character
    return "\\n" if character == "\n" else f"\\{character}"


def to_printable(content: bytes) -> str:
    r"""Return text that any column can hold: bytes that are not UTF-8, and control characters, become ``\xhh``."""
    text = content.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
