"""``start`` and ``end``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kernel import InvalidError
from kernel.conversion import convert_fields
from plugins.observability.analytics.models import WindowQuery
from plugins.observability.analytics.scope import TICK, window_of
from plugins.observability.resolution import DAY, Span

NOW = datetime(2026, 3, 1, 12, 34, 56, 789, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def parse_window(start: str | None, end: str | None, now: datetime, default_length: timedelta | None) -> Span:
    """Return the window that parameters of a request select."""
    given = {name: text for name, text in (("start", start), ("end", end)) if text is not None}
    values, errors = convert_fields(given, WindowQuery, strict=False)
    if errors:
        raise InvalidError(errors=errors)
    query = WindowQuery(**values)
    return window_of(query.start, query.end, now, default_length)


def test_the_window_ends_now_and_begins_one_length_before() -> None:
    assert parse_window(None, None, NOW, 7 * DAY) == Span(NOW - 7 * DAY, NOW + TICK)


def test_the_start_is_one_length_before_the_end_that_is_given() -> None:
    assert parse_window(None, "2025-12-14T10:00:00Z", NOW, DAY).start == utc("2025-12-13T10:00:00")


@pytest.mark.parametrize("end", ["2025-12-14", " 2025-12-14 ", "20251214", "2025-W50-7", "2025W507"])
def test_a_date_alone_is_the_end_of_that_day(end: str) -> None:
    assert parse_window("2025-12-14", end, NOW, DAY) == Span(utc("2025-12-14"), utc("2025-12-15"))


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("2025-12-14T00:00", "2025-12-14T00:00:00"),
        ("2025-12-14T00:00:00.000001Z", "2025-12-14T00:00:00.000001"),
        ("2025-12-14T01:00:00+02:00", "2025-12-13T23:00:00"),
        ("2025-12-14T01:00:00 02:00", "2025-12-13T23:00:00"),
    ],
)
def test_an_end_belongs_to_the_window(end: str, last: str) -> None:
    assert parse_window("2025-12-01", end, NOW, DAY).end == utc(last) + TICK


def test_start_and_end_may_be_one_moment() -> None:
    window = parse_window("2025-12-14T10:00:00Z", "2025-12-14T10:00:00Z", NOW, DAY)

    assert window.end - window.start == TICK


def test_a_window_may_be_all_time_there_is() -> None:
    window = parse_window("0001-01-01", "9999-12-31", NOW, DAY)

    assert window.start < utc("0002-01-01")
    assert window.end > utc("9999-01-01")


@pytest.mark.parametrize(
    "text", ["yesterday", "", "2025-13-01", "2025-12-14-05:00", "10000-01-01", "2025-12-14\x00", "1765705600"]
)
@pytest.mark.parametrize("name", ["start", "end"])
def test_what_is_no_time_is_refused_by_name_and_value(name: str, text: str) -> None:
    given = {"start": None, "end": None, name: text}

    with pytest.raises(InvalidError) as caught:
        parse_window(given["start"], given["end"], NOW, 7 * DAY)

    (message,) = (caught.value.errors or {})[name]
    assert message == f"Expected an ISO 8601 date or time, got {text!r}."


def test_a_start_after_the_end_is_refused_with_both() -> None:
    with pytest.raises(InvalidError) as caught:
        parse_window("2025-12-15", "2025-12-14T23:00:00Z", NOW, timedelta(0))

    (message,) = (caught.value.errors or {})["start"]
    assert "2025-12-14T23:00:00" in message
    assert "2025-12-15T00:00:00" in message
