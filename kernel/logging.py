"""Log lines: one JSON object a line, or a console for people. No global state: a logger is built and handed on."""

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


def _shared() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderer(settings: LogSettings, stream: TextIO) -> list[structlog.typing.Processor]:
    if settings.format == "json":
        return [structlog.processors.format_exc_info, _json]
    # The default formatter shows local variables of every frame, passwords among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]


def make_logger(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Make a logger that writes to standard error (or the given stream).

    Args:
        settings: ``format`` is ``json`` or ``console``; ``level`` is the least that is written.
        stream: For tests.
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
            processors=[*_shared(), *_renderer(settings, out)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=True,
        ),
    )


class _SlowClient(logging.Filter):
    """Make one line of a client that stopped in the middle: to gunicorn it is an error with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args, record.exc_info = "dropped a client that stopped sending", (), None
        return True


def stdlib_config(settings: LogSettings) -> dict[str, Any]:
    """Return a ``logging.config`` dictionary that shapes the lines of libraries and gunicorn like our own."""
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderer(settings, sys.stderr),
        ],
        "foreign_pre_chain": _shared(),
    }
    if settings.format == "json":
        # ProcessorFormatter hands text on to a stream handler.
        formatter["processors"] = [
            *cast("list[Any]", formatter["processors"])[:-1],
            structlog.processors.JSONRenderer(),
        ]
    level = settings.level.upper()
    quiet = {"level": "WARNING", "handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"tiercel": formatter},
        "filters": {"slow_client": {"()": _SlowClient}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "tiercel"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {
                "level": level,
                "handlers": ["stderr"],
                "propagate": False,
                "filters": ["slow_client"],
            },
            "gunicorn.access": quiet,
            "psycopg.pool": quiet,
        },
    }
