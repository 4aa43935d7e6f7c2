"""Detect the format of a log from its first lines: a format with a name, and the fields that follow it.

What stands behind a format tells its meaning by its shape alone. A field is read as a time only if nothing else looks
like it on all of these lines; what is assumed is put into words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from statistics import median
from typing import Any

import msgspec

from plugins.observability.importer.delimited_logs import DELIMITED_LOGS, detect_delimited_log
from plugins.observability.importer.formats import LogFormat, normalize_escapes, tail_format
from plugins.observability.importer.json_logs import JSON_LOGS, detect_json_log

JSON = "json"
DEFAULT = "combined"
# The most specific first: a line counts for the first that it has.
_CANDIDATES = ("vhost_combined", "traefik", "combined", "vhost_common", "common")
UNKNOWN = "unknown"

_TOKEN = re.compile(
    r' (?:(?P<key>[A-Za-z_][\w.-]*)[=:])?(?:"(?P<quoted>(?:[^"\\]|\\.)*)"'
    r'|(?P<bare>(?:-|\d+\.\d+)(?:(?:, | : )(?:-|\d+\.\d+))+(?= |$)|[^\s"]+))'
)
# Longer lines take long, and tell no more.
_LINE_MAX_BYTES = 16_384
_TAIL_MAX = 1024
# nginx writes three decimals, always; $gzip_ratio has two.
_SECONDS = re.compile(r"\d{1,5}\.\d{3}")
_SECONDS_LIST = re.compile(r"(?:-|\d{1,5}\.\d{3})(?:(?:,| : |, )(?:-|\d{1,5}\.\d{3}))*")
_DECIMAL = re.compile(r"\d{1,5}\.\d{1,6}")
_INTEGER = re.compile(r"\d{1,12}")
_WITH_UNIT = re.compile(r"\d+(?:\.\d+)?(?:ms|us|s)")
_KEYS = {
    **dict.fromkeys(("rt", "request_time", "req_time", "reqtime"), "request_time"),
    **dict.fromkeys(("urt", "upstream_response_time", "upstream_time"), "upstream_response_time"),
    # Times to connect, and until the header: parts of the response time.
    **dict.fromkeys(("uct", "uht", "upstream_connect_time", "upstream_header_time"), "ignored"),
}
_KEY_WITH_UNIT = re.compile(r"(?:duration|latency|elapsed|(?:request|response)_time)_(?P<unit>ms|us|s)")
# In front of numbers with a unit.
_DURATION_KEYS = frozenset(
    ("", "rt", "request_time", "response_time", "duration", "latency", "elapsed", "took", "time")
)
_ADDRESSES_NOTE = "field {} behind the format is read as the addresses of X-Forwarded-For"
# Microseconds are told from the other numbers that may stand alone by these.
_LONE_INTEGERS_MIN = 5
_REQUEST_SIZE_MIN = 16
_HEADERS_SIZE_MIN = 50
_HEADERS_SIZE_MAX = 16_384


class Detection(msgspec.Struct, frozen=True):
    """A format that was detected.

    Args:
        name: Of the format.
        notes: What is assumed.
    """

    name: str
    notes: Sequence[str] = ()


class _Line(msgspec.Struct, frozen=True):
    """The fields of a line, and what follows them."""

    fields: dict[str, Any]
    tokens: Sequence[tuple[str | None, str]] | None


class _Column(msgspec.Struct, frozen=True):
    """What some lines have at one position behind their format.

    Args:
        key: The key in front of the values.
        values: One for each line.
    """

    key: str | None
    values: Sequence[str]

    @property
    def present(self) -> Sequence[str]:
        """The values that are not a hyphen."""
        return [value for value in self.values if value not in ("-", "")]

    def all_match(self, pattern: re.Pattern[str]) -> bool:
        """Whether there are values, and all have some form."""
        return bool(self.present) and all(pattern.fullmatch(value) for value in self.present)


def detect_format(lines: Iterable[bytes]) -> Detection:
    """Detect the format that most of some lines have; ``combined`` if none fits."""
    formats = {name: tail_format(name) for name in _CANDIDATES}
    found: dict[str, list[_Line]] = {name: [] for name in (*_CANDIDATES, JSON, *JSON_LOGS, *DELIMITED_LOGS)}
    for line in lines:
        if len(line) > _LINE_MAX_BYTES:
            continue
        if line.lstrip().startswith(b"{"):
            found[detect_json_log(line) or JSON].append(_Line({}, None))
            continue
        delimited = detect_delimited_log(line)
        if delimited is not None:
            found[delimited].append(_Line({}, None))
            continue
        for name, log_format in formats.items():
            fields = match_unstretched(log_format, normalize_escapes(line))
            if fields is not None:
                found[name].append(_Line(fields, _tokens(fields["tail"])))
                break
    name = max(found, key=lambda name: len(found[name]))
    if not found[name]:
        return Detection(DEFAULT)
    return _detect_tail(name, found[name])


def match_unstretched(log_format: LogFormat, line: str) -> dict[str, Any] | None:
    """Match a line; None as well if one of its fields is not valid, or swallows others."""
    try:
        fields = log_format.match(line)
    except (ValueError, OverflowError, OSError):
        return None
    return None if fields is None or is_stretched(fields) else fields


def is_stretched(fields: dict[str, Any]) -> bool:
    """Tell whether the name of a user, which may have blanks, or the identity swallowed fields that a format lacks."""
    user, identity = fields.get("user", ""), fields.get("identity")
    if user.startswith("- ") or user.endswith(" -"):
        return True
    # Identities (RFC 1413) hardly exist any more.
    return identity is not None and (" " in user or _are_addresses(identity))


def _are_addresses(text: str) -> bool:
    """Tell whether a text is a list of IP addresses."""
    try:
        return all(ip_address(address.strip()) for address in text.split(","))
    except ValueError:
        return False


def _tokens(tail: str) -> Sequence[tuple[str | None, str]] | None:
    """Split what follows a format; None if that is not a list of fields, or longer than any."""
    if len(tail) > _TAIL_MAX:
        return None
    tokens: list[tuple[str | None, str]] = []
    position = 0
    while position < len(tail):
        token = _TOKEN.match(tail, position)
        if token is None:
            return None
        quoted = token["quoted"]
        tokens.append((token["key"], token["bare"] if quoted is None else quoted))
        position = token.end()
    return tokens


def _detect_tail(name: str, lines: Sequence[_Line]) -> Detection:
    longer = [line for line in lines if line.tokens != []]
    shapes = Counter(tuple(key for key, _ in line.tokens) for line in longer if line.tokens)
    if not shapes or 2 * max(shapes.values()) <= len(longer):
        return Detection(name)
    ((shape, _),) = shapes.most_common(1)
    alike = [line for line in lines if line.tokens and tuple(key for key, _ in line.tokens) == shape]
    columns = [
        _Column(key, [line.tokens[number][1] for line in alike if line.tokens]) for number, key in enumerate(shape)
    ]
    fields, notes = _name_columns(columns, [line.fields for line in alike])
    if all(field == UNKNOWN for field in fields):
        return Detection(name, notes)
    return Detection("+".join((name, *fields)), notes)


def _name_columns(columns: Sequence[_Column], lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what each column is, one of ``TAIL_FIELDS``, and what is assumed."""
    fields = [_name_alone(column) for column in columns]
    if fields.count("duration") > 1:
        fields = [UNKNOWN if field == "duration" else field for field in fields]
    notes = [_ADDRESSES_NOTE.format(at + 1) for at, field in enumerate(fields) if field == "forwarded_for"]
    # A key that is not known means something else.
    plain = [at for at, column in enumerate(columns) if column.key is None and fields[at] == UNKNOWN]
    seconds = [at for at in plain if columns[at].all_match(_SECONDS_LIST)]
    if seconds and "request_time" not in fields:
        for at, field in zip(seconds, _name_seconds([columns[at] for at in seconds]), strict=True):
            fields[at] = field
            if field not in ("ignored", UNKNOWN):
                notes.append(f"field {at + 1} behind the format is read as nginx's ${field}, in seconds")
    has_time = any(field not in (UNKNOWN, "ignored", "forwarded_for") for field in fields)
    integers = [at for at in plain if columns[at].all_match(_INTEGER)]
    if not has_time and integers:
        named, note = _name_integers([columns[at] for at in integers], lines)
        for at, field in zip(integers, named, strict=True):
            fields[at] = field
        notes.append(note)
    return fields, notes


def _name_alone(column: _Column) -> str:
    """Return what a column is, as far as its own values and key tell."""
    key = (column.key or "").lower()
    unit = _KEY_WITH_UNIT.fullmatch(key)
    if unit is not None and (column.all_match(_INTEGER) or column.all_match(_DECIMAL)):
        return f"duration_{unit['unit']}"
    if key in _KEYS and (column.all_match(_DECIMAL) or column.all_match(_SECONDS_LIST)):
        return _KEYS[key]
    if key in _DURATION_KEYS and column.all_match(_WITH_UNIT):
        return "duration"
    # The field that nginx's packages put behind "combined".
    if column.key is None and column.present and all(map(_are_addresses, column.present)):
        return "forwarded_for"
    return UNKNOWN


def _name_seconds(columns: Sequence[_Column]) -> list[str]:
    """Return what columns of seconds are: nothing takes longer than the request, and only servers come as lists."""
    if len(columns) == 1:
        (column,) = columns
        is_upstream = len(column.present) < len(column.values) or not column.all_match(_SECONDS)
        return ["upstream_response_time" if is_upstream else "request_time"]
    whole = next((at for at in range(len(columns)) if _is_longest(columns, at)), None)
    if whole is None:
        return [UNKNOWN] * len(columns)
    others = "upstream_response_time" if len(columns) == 2 else "ignored"
    return ["request_time" if at == whole else others for at in range(len(columns))]


def _is_longest(columns: Sequence[_Column], at: int) -> bool:
    if not all(_SECONDS.fullmatch(value) for value in columns[at].values):
        return False
    # They are rounded, each by itself.
    return all(
        float(longest) >= float(value) - 0.002
        for column in columns
        for longest, value in zip(columns[at].values, column.values, strict=True)
        if _SECONDS.fullmatch(value)
    )


def _name_integers(columns: Sequence[_Column], lines: Sequence[dict[str, Any]]) -> tuple[list[str], str]:
    """Return what columns of whole numbers are, and what that is assumed from."""
    numbers = [[int(value) for value in column.values if value.isdigit()] for column in columns]
    is_complete = all(len(column) == len(lines) for column in numbers)
    if len(columns) == 2 and is_complete:
        for fine, coarse in ((0, 1), (1, 0)):
            units = [
                unit
                for unit, per_s in (("duration_us", 1_000_000), ("duration_ms", 1000))
                if all(s == n // per_s for n, s in zip(numbers[fine], numbers[coarse], strict=True))
            ]
            # A column of zeros may be anything.
            agree = any(numbers[coarse]) or _are_microseconds(numbers[fine], lines)
            if len(units) == 1 and agree:
                fields = ["duration_s", "duration_s"]
                fields[fine] = units[0]
                return fields, f"two fields behind the format are read as one time, as {units[0]} and duration_s"
        received, sent = numbers
        if min(received) >= _REQUEST_SIZE_MIN and _are_sizes_with_headers(sent, lines):
            return ["ignored", "ignored"], "two fields behind the format are read as sizes, Apache's %I and %O"
    if len(columns) == 1 and is_complete and _are_microseconds(numbers[0], lines):
        return (
            ["duration_us"],
            "a whole number behind the format is read as microseconds, Apache's %D; "
            "+duration_ms, +duration_s or +ignored in place of +duration_us in --format says otherwise",
        )
    return (
        [UNKNOWN] * len(columns),
        "a whole number behind the format may be a time in any unit, or a size: no latency is read from it; "
        "--format says which, such as combined+duration_us (Apache's %D), +duration_ms (Tomcat's) or +duration_s (%T)",
    )


def _are_microseconds(numbers: Sequence[int], lines: Sequence[dict[str, Any]]) -> bool:
    """Tell whether whole numbers can be nothing but microseconds."""
    if len(numbers) < _LONE_INTEGERS_MIN:
        return False
    # As milliseconds, half of the requests would take seconds; nothing is answered within 30 microseconds.
    is_time = min(numbers) >= 30 and median(numbers) >= 2000
    # Numbers of ports and processes lie closer together, and so do the sizes of requests without a body.
    is_spread = max(numbers) >= max(10 * min(numbers), _HEADERS_SIZE_MAX)
    return is_time and is_spread and not _are_sizes_with_headers(numbers, lines)


def _are_sizes_with_headers(numbers: Sequence[int], lines: Sequence[dict[str, Any]]) -> bool:
    """Tell whether numbers can be the sizes of responses with their headers, as those without are known."""
    sizes = [line.get("bytes", 0) for line in lines]
    return all(
        size + _HEADERS_SIZE_MIN <= number <= size + _HEADERS_SIZE_MAX
        for number, size in zip(numbers, sizes, strict=True)
    )
