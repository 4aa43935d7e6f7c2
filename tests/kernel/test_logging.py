"""Log lines: JSON or plain text, tracebacks, levels."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from kernel.logging import make_logger
from kernel.settings import LogSettings
from tests.kernel.fakes import raise_oops


def make_lines(settings: LogSettings, write: Callable[[Any], object]) -> str:
    """Return what a logger writes."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, write_through=True)
    write(make_logger(settings, stream))
    return buffer.getvalue().decode()


def test_json_lines_are_one_object_each() -> None:
    def write(log: Any) -> None:
        log.info("request", status=200, path="/a\nb", home=object)
        log.warning("second")

    first, second = map(msgspec.json.decode, make_lines(LogSettings(format="json"), write).splitlines())

    assert (first["event"], first["level"], first["status"], first["path"]) == ("request", "info", 200, "/a\nb")
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert (second["event"], second["level"]) == ("second", "warning")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_is_logged_without_local_variables(format_: Any) -> None:
    def write(log: Any) -> None:
        hunter = "".join(("hun", "ter2"))
        try:
            raise_oops(password=hunter)
        except RuntimeError:
            log.exception("failed")

    text = make_lines(LogSettings(format=format_), write)

    assert "RuntimeError: oops" in text
    assert "raise_oops" in text
    assert "hunter2" not in text


def test_console_lines_are_plain_text() -> None:
    text = make_lines(LogSettings(format="console"), lambda log: log.info("request", status=200))

    assert "request" in text
    assert "status=200" in text
    assert "{" not in text


def test_lines_below_the_level_are_not_logged() -> None:
    text = make_lines(LogSettings(level="error"), lambda log: (log.warning("quiet"), log.error("loud")))

    assert "loud" in text
    assert "quiet" not in text
