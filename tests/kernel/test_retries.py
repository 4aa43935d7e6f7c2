"""Waits before retries: the header ``Retry-After``, and exponential backoff."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.retries import backoff_s, retry_after_s

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("9" * 400, 99999999999999999999.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Saturday, 21-Nov-26 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, NOW) == wait_s


@given(st.text())
def test_any_text_in_retry_after_is_parsed_or_ignored(header: str) -> None:
    wait_s = retry_after_s(header, NOW)

    assert wait_s is None or wait_s >= 0


def test_waits_double_up_to_a_minute() -> None:
    assert [backoff_s(attempt, 1.0, 60.0, 0.0) for attempt in (1, 2, 3, 7, 20)] == [1.0, 2.0, 4.0, 60.0, 60.0]


@given(st.integers(1, 20), st.floats(0, 1))
def test_jitter_takes_up_to_half_of_a_wait(attempt: int, jitter: float) -> None:
    full_s = backoff_s(attempt, 1.0, 60.0, 0.0)

    assert full_s / 2 <= backoff_s(attempt, 1.0, 60.0, jitter) <= full_s
