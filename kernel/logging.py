"""Structured logging: one JSON object per line, or a console for people. Loggers are made and passed, never global."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.types import EventDict, WrappedLogger

from kernel.settings import LogSettings

Logger = structlog.typing.FilteringBoundLogger


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _common_processors() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderer(settings: LogSettings, stream: TextIO) -> list[structlog.typing.Processor]:
    if settings.format == "json":
        return [structlog.processors.format_exc_info, _json]
    # The default formatter prints the local variables of every frame, which may hold passwords.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]


def make_logger(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Make a logger.

    Args:
        settings: ``format`` is ``json`` or ``console``; ``level`` is the lowest level that is written.
        stream: Where to write; standard error by default.
    """
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    sink: Any = (
        structlog.BytesLogger(cast("Any", out.buffer)) if settings.format == "json" else structlog.PrintLogger(out)
    )
    return cast(
        "Logger",
        structlog.wrap_logger(
            sink,
            processors=[*_common_processors(), *_renderer(settings, out)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=True,
        ),
    )


def stdlib_config(settings: LogSettings) -> dict[str, Any]:
    """Return a ``logging.config`` dictionary that formats the log lines of libraries like our own."""
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderer(settings, sys.stderr),
        ],
        "foreign_pre_chain": _common_processors(),
    }
    if settings.format == "json":
        # A StreamHandler writes text, and our renderer returns bytes.
        formatter["processors"] = [
            *cast("list[Any]", formatter["processors"])[:-1],
            structlog.processors.JSONRenderer(),
        ]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"tiercel": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "tiercel"}},
        "root": {"level": settings.level.upper(), "handlers": ["stderr"]},
        "loggers": {"psycopg.pool": {"level": "WARNING", "handlers": ["stderr"], "propagate": False}},
    }
