"""The last errors of log files: that of the service, and that of the embedded PostgreSQL."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kernel.doctor.privacy import scrub, scrub_log_line, scrub_traceback
from kernel.settings import Settings

_LINES_MAX = 50
_TAIL_BYTES = 4 * 1024 * 1024
_LEVELS = frozenset({"warning", "error", "critical", "exception"})
# What the console format writes: time, level, event, fields.
_CONSOLE = re.compile(r"^(?P<timestamp>\S+) \[(?P<level>\w+) *\] (?P<event>.*?)(?:\s{2,}(?P<fields>\w+=.*))?$")
_FIELD = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S+)")
# What says that the server started, stopped, crashed or is short of something. An ERROR is that of a statement: it
# quotes values, and the log of the service has it.
_SERVER_LINE = re.compile(
    r"^(?P<timestamp>\S+ \S+ \S+) \[(?P<pid>\d+)\] (?P<level>LOG|WARNING|FATAL|PANIC):  (?P<event>.*)$"
)
_ROUTINE = re.compile(r"checkpoint (starting|complete)")


def read_log(settings: Settings) -> dict[str, Any]:
    """Return the last warnings and errors of the log file, and of the full one before it."""
    file = settings.log.file
    if file is None:
        return {"file": None, "note": "log.file is not set: lines are where standard error goes, such as journalctl"}
    found: deque[dict[str, Any]] = deque(maxlen=_LINES_MAX)
    for path in (file.with_name(f"{file.name}.1"), file):
        found.extend(_read_failures(path))
    return {"file": str(file.absolute()), "lines": list(found)}


def _read_failures(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, in either format, that are warnings or errors; tracebacks belong to the line above."""
    current: dict[str, Any] | None = None
    traceback: list[str] = []
    for line in _read_tail(path):
        fields = _parse(line)
        if fields is None:
            traceback.append(line)
            continue
        yield from _finish(current, traceback)
        current, traceback = (scrub_log_line(fields) if fields.get("level") in _LEVELS else None), []
    yield from _finish(current, traceback)


def _finish(fields: dict[str, Any] | None, traceback: list[str]) -> Iterator[dict[str, Any]]:
    if fields is not None:
        scrubbed = scrub_traceback(traceback)
        yield {**fields, "exception": scrubbed} if scrubbed else fields


def _parse(line: str) -> dict[str, Any] | None:
    """Return the fields of a line; None for a line that continues another."""
    if line.startswith("{"):
        try:
            decoded = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return None
        return decoded if isinstance(decoded, dict) else None
    found = _CONSOLE.match(line)
    if found is None:
        return None
    fields = {name: text.strip("'\"") for name, text in _FIELD.findall(found["fields"] or "")}
    return {**fields, "timestamp": found["timestamp"], "level": found["level"], "event": found["event"].strip()}


def read_server_log(data: Path) -> list[dict[str, Any]]:
    """Return the last lines that the embedded PostgreSQL has logged of itself.

    Args:
        data: Its data directory.
    """
    folder = data / "log"
    files = sorted(folder.glob("postgresql-*.log"), key=lambda path: path.stat().st_mtime)[-2:]
    lines = [line for path in (*files, data / "start.log") for line in _read_tail(path)]
    found = [match for line in lines if (match := _SERVER_LINE.match(line)) and not _ROUTINE.match(match["event"])]
    return [{**match.groupdict(), "event": scrub(match["event"])} for match in found[-_LINES_MAX:]]


def _read_tail(path: Path) -> list[str]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    with os.fdopen(file, "rb") as opened:
        size_bytes = opened.seek(0, os.SEEK_END)
        opened.seek(max(size_bytes - _TAIL_BYTES, 0))
        # The first line may be the end of one.
        lines = opened.read(_TAIL_BYTES).decode(errors="backslashreplace").splitlines()
    return lines[1:] if size_bytes > _TAIL_BYTES else lines
