"""What a report does not tell: secrets, values in statements, and who somebody is.

A report is sent to people who need not know what the service stores. It has names of routes, plugins, jobs, datasets,
tables, roles and programs, and numbers. It has no secrets, no values of statements, no addresses of clients, no names,
ids or e-mail addresses of users, no paths or query strings of requests. Reasons of failures are kept, their first line
without e-mail and IP addresses, because without them a report would say little: they may quote what failed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kernel.conversion import escape_controls
from kernel.masking import mask_text

REASON_MAX = 300
STATEMENT_MAX = 600
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IPV4 = re.compile(r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)")
# At least two groups and a double colon, or all eight of them: a time of day is no address.
_IPV6 = re.compile(
    r"(?<![\w:.])(?!::1?(?![\w:]))(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}"
    r"|(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6})(?![\w:])"
)
# Tokens of a statement, from left to right: a quote within a comment begins no text. What is cut off has no end.
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
_TOKEN = re.compile(
    r"(?P<kept>\"(?:[^\"]|\"\")*(?:\"|\Z)|\$\d+)"
    r"|(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<value>(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)"
    r"|\$(?P<tag>[A-Za-z_]\w*)?\$.*?(?:\$(?(tag)(?P=tag))\$|\Z)"
    r"|(?<![\w$.])\d[\w.]*)",
    re.DOTALL,
)
# Of a line of the log: what says what failed and where, and nothing of whose it was.
LOG_FIELDS = (
    "timestamp", "level", "event", "logger", "plugin", "method", "route", "status", "code", "reason", "place", "hook",
    "job", "job_id", "attempt", "request_id", "trace_id", "duration_ms", "took_s", "migration", "dataset", "prefix",
)  # fmt: skip
_FRAME = re.compile(r"^  File \"[^\"]*\", line \d+, in .*$")
_RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?$")
_CHAINED = frozenset(
    {
        "Traceback (most recent call last):",
        "During handling of the above exception, another exception occurred:",
        "The above exception was the direct cause of the following exception:",
    }
)


def scrub(text: object, max_length: int = REASON_MAX) -> str:
    """Return the first line of a text without secrets, e-mail addresses and IP addresses but those of this machine."""
    line = mask_text(str(text).strip().partition("\n")[0])
    line = _IPV6.sub("(address)", _IPV4.sub("(address)", _EMAIL.sub("(e-mail)", line)))
    return escape_controls(line)[:max_length]


def scrub_setting(value: str) -> str:
    """Return the value of a setting, which is masked already, without e-mail addresses."""
    return _EMAIL.sub("(e-mail)", value)


def strip_values(statement: str) -> str:
    """Return a statement of SQL on one line, with ``?`` in place of each value, and without comments.

    Args:
        statement: It may be cut off, as the server cuts off what it shows of long ones.
    """

    def replace(found: re.Match[str]) -> str:
        return found[0] if found["kept"] else " " if found["comment"] else "?"

    return escape_controls(" ".join(_TOKEN.sub(replace, statement).split()))[:STATEMENT_MAX]


def scrub_log_line(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report has of a line of the log: of its fields, those that are known to name nobody."""
    kept = {name: fields[name] for name in LOG_FIELDS if name in fields}
    shown = {name: scrub(value) if isinstance(value, str) else value for name, value in kept.items()}
    if isinstance(text := fields.get("exception"), str):
        shown["exception"] = scrub_traceback(text.splitlines())
    return shown


def scrub_traceback(lines: list[str]) -> list[str]:
    """Return the frames of a traceback, and type and first line of each exception: further lines quote values."""
    kept: list[str] = []
    is_within = False
    for line in lines:
        if line.strip() in _CHAINED or (is_within and _FRAME.match(line)):
            is_within = True
            kept.append(escape_controls(line))
        elif is_within and (raised := _RAISED.match(line)):
            is_within = False
            kept.append(f"{raised['type']}{': ' if raised['text'] else ''}{scrub(raised['text'] or '')}")
    return kept
