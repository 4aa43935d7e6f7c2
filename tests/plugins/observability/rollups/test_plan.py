"""Plans: each moment of a window is read once, from a level that knows it."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.observability.rollups.plan import DAY, HOUR, Kept, Level, Plan, Span, floor, make_plan

START = datetime(2025, 12, 10, tzinfo=UTC)
TICK = datetime.resolution
DAYS = 6

_hours = st.integers(0, DAYS * 24).map(lambda number: START + number * HOUR)
_moments = st.builds(
    lambda hour, offset: hour + offset, _hours, st.sampled_from([timedelta(0), TICK, HOUR / 2, HOUR - TICK])
)
_windows = (
    st.tuples(_moments, _moments).filter(lambda ends: ends[0] != ends[1]).map(lambda ends: Span(min(ends), max(ends)))
)
_touched = st.sets(_hours, max_size=30)
_levels: st.SearchStrategy[Level] = st.sampled_from(["raw", "hour", "day"])
_kept = st.lists(st.integers(-1, DAYS), min_size=3, max_size=3).map(
    lambda days: Kept(*(START + number * DAY for number in sorted(days, reverse=True)))
)


def spans(plan: Plan) -> list[Span]:
    return sorted((*plan.days, *plan.hours, *plan.raw))


def buckets(parts: tuple[Span, ...], step: timedelta) -> set[datetime]:
    return {part.start + number * step for part in parts for number in range((part.end - part.start) // step)}


@given(_windows, _touched, _kept, _levels)
def test_parts_follow_one_another_without_gap_or_overlap(
    window: Span, touched: set[datetime], kept: Kept, coarsest: Level
) -> None:
    parts = spans(make_plan(window, touched, kept, coarsest))

    assert all(part.start < part.end for part in parts)
    assert all(one.end == other.start for one, other in itertools.pairwise(parts))


@given(_windows, _touched, _levels)
def test_parts_make_exactly_the_window_while_there_are_events(
    window: Span, touched: set[datetime], coarsest: Level
) -> None:
    assert make_plan(window, touched, Kept(), coarsest).covered == window


@given(_windows, _touched, _kept, _levels)
def test_only_what_is_gone_is_widened_to_whole_buckets_or_left_out(
    window: Span, touched: set[datetime], kept: Kept, coarsest: Level
) -> None:
    covered = make_plan(window, touched, kept, coarsest).covered

    if window.end <= kept.day:
        assert covered is None
        return
    start = max(window.start, kept.day)
    start = floor(start, DAY) if start < kept.hour else floor(start, HOUR) if start < kept.raw else start
    last = window.end - TICK
    end = floor(last, DAY) + DAY if last < kept.hour else floor(last, HOUR) + HOUR if last < kept.raw else window.end
    assert covered == Span(start, end)


@given(_windows, _touched, _kept, _levels)
def test_events_are_read_only_where_they_are_left(
    window: Span, touched: set[datetime], kept: Kept, coarsest: Level
) -> None:
    plan = make_plan(window, touched, kept, coarsest)

    assert all(part.start >= kept.raw for part in plan.raw)
    assert all(part.start >= kept.hour for part in plan.hours)


@given(_windows, _touched, _kept, _levels)
def test_touched_hours_are_read_from_events_where_there_are_any(
    window: Span, touched: set[datetime], kept: Kept, coarsest: Level
) -> None:
    plan = make_plan(window, touched, kept, coarsest)

    assert not {hour for hour in buckets(plan.hours, HOUR) if hour >= kept.raw} & touched
    assert not {day for day in buckets(plan.days, DAY) if day >= kept.raw} & {floor(hour, DAY) for hour in touched}


@given(_windows, _touched, _kept, _levels)
def test_rollups_are_read_in_whole_buckets(window: Span, touched: set[datetime], kept: Kept, coarsest: Level) -> None:
    plan = make_plan(window, touched, kept, coarsest)

    for parts, step in ((plan.days, DAY), (plan.hours, HOUR)):
        assert all(floor(part.start, step) == part.start and floor(part.end, step) == part.end for part in parts)


@given(_windows, _touched)
def test_no_event_is_read_that_rollups_know(window: Span, touched: set[datetime]) -> None:
    plan = make_plan(window, touched, Kept(), "day")

    for part in plan.raw:
        hours = {floor(part.start, HOUR) + number * HOUR for number in range(-(-(part.end - part.start) // HOUR) + 1)}
        inside = {hour for hour in hours if part.start <= hour and hour + HOUR <= part.end}
        assert inside <= touched


@pytest.mark.parametrize(
    ("coarsest", "source", "levels"),
    [("day", "daily", (1, 2, 2)), ("hour", "hourly", (0, 1, 2)), ("raw", "raw", (0, 0, 1))],
)
def test_a_window_is_read_from_no_coarser_level_than_is_allowed(
    coarsest: Level, source: str, levels: tuple[int, int, int]
) -> None:
    window = Span(START + 90 * TICK, START + 3 * DAY + HOUR * 3 / 2)

    plan = make_plan(window, (), Kept(), coarsest)

    assert (plan.source, (len(plan.days), len(plan.hours), len(plan.raw))) == (source, levels)


@pytest.mark.parametrize("coarsest", ["raw", "hour", "day"])
def test_a_window_of_two_thousand_years_is_planned_at_once(coarsest: Level) -> None:
    window = Span(datetime(2, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    touched = {START + number * 2 * HOUR for number in range(1000)}

    began = time.perf_counter()
    plan = make_plan(window, touched, Kept(raw=START), coarsest)

    assert plan.covered == window
    assert time.perf_counter() - began < 0.5
