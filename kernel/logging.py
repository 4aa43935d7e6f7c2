"""Structured logging: one JSON object per line, or a console for people. Loggers are made and passed, never global.

Lines go to standard error and, if one is configured, to a file. Neither may break what is logged: a line that cannot be
rendered or written is lost, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec

from kernel.conversion import escape_controls, escape_json
from kernel.files import open_log, open_own
from kernel.imports import without_package
from kernel.masking import mask_text
from kernel.settings import LogSettings

with without_package("rich"):
    # It would write tracebacks, which are not written with it here, and takes a fifth of the start of each command.
    import structlog
    from structlog.types import EventDict

Logger = structlog.typing.FilteringBoundLogger
_Render = Callable[[EventDict], bytes]

_FILE_MODE = 0o640
_EXCEPTION = "exception"
# What structlog itself makes lines of.
_TRACEBACKS = frozenset({"exc_info", "stack_info", "stack", _EXCEPTION})


def make_logger(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Make a logger.

    Args:
        settings: ``format`` is ``json`` or ``console``; ``level`` is the lowest level that is written.
        stream: Where to write, besides the log file; standard error by default.
    """
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    return cast(
        "Logger",
        structlog.wrap_logger(
            _Sink(settings, out),
            processors=_common_processors(),
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=True,
        ),
    )


def stdlib_config(settings: LogSettings) -> dict[str, Any]:
    """Return a ``logging.config`` dictionary that formats the log lines of libraries like our own."""
    handlers: dict[str, Any] = {"stderr": {"class": "logging.StreamHandler", "formatter": "stderr"}}
    formatters = {"stderr": _stdlib_formatter(settings, colors=sys.stderr.isatty())}
    file = log_file(settings)
    if file is not None:
        handlers["file"] = {"()": partial(_FileHandler, file), "formatter": "file"}
        formatters["file"] = _stdlib_formatter(settings, colors=False)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": formatters,
        "handlers": handlers,
        "root": {"level": settings.level.upper(), "handlers": [*handlers]},
        "loggers": {"psycopg.pool": {"level": "WARNING", "handlers": [*handlers], "propagate": False}},
    }


# --- rendering ------------------------------------------------------------------------------------------------------


def _common_processors() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderers(settings: LogSettings, *, colors: bool) -> list[structlog.typing.Processor]:
    """Return processors that make text of an event."""
    if settings.format == "json":
        return [structlog.processors.format_exc_info, _json]
    return [_escape_values, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback)]


def _json(_logger: Any, _method: str, event: EventDict) -> str:
    if _EXCEPTION in event:
        event[_EXCEPTION] = mask_text(event[_EXCEPTION])
    return escape_json(msgspec.json.encode(event, enc_hook=str).decode())


def _escape_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escape what the console would obey: most values come from clients."""
    for name, value in event.items():
        if name not in _TRACEBACKS and not isinstance(value, int | float | None):
            event[name] = escape_controls(value if isinstance(value, str) else repr(value))
    return event


def _write_traceback(out: TextIO, exc_info: Any) -> None:
    """Write a traceback without the local variables of its frames, which may hold passwords."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(escape_controls(mask_text(text.getvalue()), keep_lines=True))


def _make_render(settings: LogSettings, *, colors: bool) -> _Render:
    processors = _renderers(settings, colors=colors)

    def render(event: EventDict) -> bytes:
        result: Any = event
        for process in processors:
            result = process(None, "", result)
        return f"{result}\n".encode(errors="backslashreplace")

    return render


def _stdlib_formatter(settings: LogSettings, *, colors: bool) -> dict[str, Any]:
    return {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(settings, colors=colors),
        ],
        "foreign_pre_chain": _common_processors(),
    }


# --- writing --------------------------------------------------------------------------------------------------------


class _Sink:
    """What a logger writes events to: a stream and the log file."""

    def __init__(self, settings: LogSettings, stream: TextIO) -> None:
        self._stream = stream
        self._outputs = [(_make_render(settings, colors=stream.isatty()), self._write_to_stream)]
        file = log_file(settings)
        if file is not None:
            self._outputs.append((_make_render(settings, colors=False), file.write))

    def msg(self, /, **event: Any) -> None:
        """Write an event."""
        for render, write in self._outputs:
            try:
                write(render(dict(event)))
            except Exception as ex:
                # Most of all OSError, because a disk or a pipe is full or closed. There is nowhere else to report it.
                _report(f"a log line is lost: {type(ex).__name__}: {ex}")

    # structlog calls the method that has the name of the level.
    debug = info = warning = error = critical = exception = msg

    def _write_to_stream(self, line: bytes) -> None:
        stream = self._stream.buffer
        stream.write(line)
        stream.flush()


class _FileHandler(logging.Handler):
    """Writes the records of libraries to the log file."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:
            self.handleError(record)


class LogFile:
    """A log file that several processes append to, and that is renamed to ``NAME.1`` when it is full.

    Each line is one write to the end of the file, so lines of several processes do not mix. Before it, the process
    looks whether the file still has the name, and else opens the new one: another process may have renamed it, or
    logrotate. The one that finds it full renames it, under a lock on ``NAME.lock`` for which none waits.

    A failure to write is reported once, on standard error, and never raised: lines are lost until it works again.

    Args:
        path: Its name; directories are created.
        max_bytes: A line that would make it larger begins a new file.
        backups: How many full files are kept: ``NAME.1`` is the latest.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._descriptor: int | None = None
        self._is_failing = False
        # Whether the last write was incomplete.
        self._is_torn = False
        self._lock, self._lock_owner = threading.Lock(), os.getpid()

    def write(self, line: bytes) -> None:
        """Append a line, with its line feed."""
        if self._lock_owner != os.getpid():
            # Forked: a thread that does not exist here may have held the lock.
            self._lock, self._lock_owner = threading.Lock(), os.getpid()
        with self._lock:
            try:
                self._append(line)
            except OSError as ex:
                if not self._is_failing:
                    _report(f"{self.path}: log lines are lost: {ex.strerror or ex}")
                self._is_failing = True
            else:
                self._is_failing = False

    def ensure_writable(self) -> None:
        """Ensure that the file can be opened, and create it if it is missing.

        Raises:
            OSError: It cannot.
        """
        with self._lock:
            self._open()

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        size = os.fstat(descriptor).st_size
        if size and size + len(line) > self._max_bytes:
            # If it cannot be renamed, it grows.
            with contextlib.suppress(OSError):
                self._rotate()
            descriptor = self._open()
        if self._is_torn:
            line = b"\n" + line
        written = os.write(descriptor, line)
        self._is_torn = 0 < written < len(line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        """Return a descriptor of the file that has the name now."""
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self.path.stat(), os.fstat(self._descriptor)):
                    return self._descriptor
            os.close(self._descriptor)
            self._descriptor = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_log(self.path, _FILE_MODE)
        return self._descriptor

    def _rotate(self) -> None:
        lock = open_own(self._lock_path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have done it since this one measured the file.
            if self._descriptor is not None and os.path.samestat(self.path.stat(), os.fstat(self._descriptor)):
                for number in range(self._backups - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        self._backup(number).replace(self._backup(number + 1))
                self.path.replace(self._backup(1))
        finally:
            os.close(lock)

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def log_file(settings: LogSettings) -> LogFile | None:
    """Return the configured log file, unopened; None if there is none."""
    if settings.file is None:
        return None
    return LogFile(settings.file.absolute(), settings.file_max_bytes, settings.file_backups)


def _report(problem: str) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(f"tiercel: {escape_controls(problem)}\n")
        sys.stderr.flush()
