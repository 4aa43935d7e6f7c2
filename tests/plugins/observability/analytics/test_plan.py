"""Plans: every time of a window is read once, from a resolution that is exact for it."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.observability.analytics.plan import ReadPlan, make_plan
from plugins.observability.resolution import DAY, HOUR, Resolution, Span, floor
from plugins.observability.retention.watermark import Watermarks

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
_dirty_hours = st.sets(_hours, max_size=30)
_resolutions: st.SearchStrategy[Resolution] = st.sampled_from(Resolution)
_watermarks = st.lists(st.integers(-1, DAYS), min_size=3, max_size=3).map(
    lambda days: Watermarks(*(START + number * DAY for number in sorted(days, reverse=True)))
)


def spans(plan: ReadPlan) -> list[Span]:
    return sorted((*plan.days, *plan.hours, *plan.raw))


def buckets(parts: tuple[Span, ...], step: timedelta) -> set[datetime]:
    return {part.start + number * step for part in parts for number in range((part.end - part.start) // step)}


@given(_windows, _dirty_hours, _watermarks, _resolutions)
def test_parts_follow_one_another_without_gap_or_overlap(
    window: Span, dirty: set[datetime], watermarks: Watermarks, coarsest: Resolution
) -> None:
    parts = spans(make_plan(window, dirty, watermarks, coarsest))

    assert all(part.start < part.end for part in parts)
    assert all(one.end == other.start for one, other in itertools.pairwise(parts))


@given(_windows, _dirty_hours, _resolutions)
def test_parts_cover_exactly_the_window_while_there_are_events(
    window: Span, dirty: set[datetime], coarsest: Resolution
) -> None:
    assert make_plan(window, dirty, Watermarks(), coarsest).covered == window


@given(_windows, _dirty_hours, _watermarks, _resolutions)
def test_only_removed_times_are_widened_to_whole_buckets_or_left_out(
    window: Span, dirty: set[datetime], watermarks: Watermarks, coarsest: Resolution
) -> None:
    covered = make_plan(window, dirty, watermarks, coarsest).covered

    if window.end <= watermarks.day:
        assert covered is None
        return
    start = max(window.start, watermarks.day)
    start = floor(start, DAY) if start < watermarks.hour else floor(start, HOUR) if start < watermarks.raw else start
    last = window.end - TICK
    end = (
        floor(last, DAY) + DAY
        if last < watermarks.hour
        else floor(last, HOUR) + HOUR
        if last < watermarks.raw
        else window.end
    )
    assert covered == Span(start, end)


@given(_windows, _dirty_hours, _watermarks, _resolutions)
def test_each_resolution_is_read_only_after_its_watermark(
    window: Span, dirty: set[datetime], watermarks: Watermarks, coarsest: Resolution
) -> None:
    plan = make_plan(window, dirty, watermarks, coarsest)

    assert all(part.start >= watermarks.raw for part in plan.raw)
    assert all(part.start >= watermarks.hour for part in plan.hours)


@given(_windows, _dirty_hours, _watermarks, _resolutions)
def test_dirty_hours_are_read_from_events_where_there_are_any(
    window: Span, dirty: set[datetime], watermarks: Watermarks, coarsest: Resolution
) -> None:
    plan = make_plan(window, dirty, watermarks, coarsest)

    assert not {hour for hour in buckets(plan.hours, HOUR) if hour >= watermarks.raw} & dirty
    assert not {day for day in buckets(plan.days, DAY) if day >= watermarks.raw} & {floor(hour, DAY) for hour in dirty}


@given(_windows, _dirty_hours, _watermarks, _resolutions)
def test_rollups_are_read_in_whole_buckets(
    window: Span, dirty: set[datetime], watermarks: Watermarks, coarsest: Resolution
) -> None:
    plan = make_plan(window, dirty, watermarks, coarsest)

    for parts, step in ((plan.days, DAY), (plan.hours, HOUR)):
        assert all(floor(part.start, step) == part.start and floor(part.end, step) == part.end for part in parts)


@given(_windows, _dirty_hours)
def test_no_event_of_a_clean_hour_is_read(window: Span, dirty: set[datetime]) -> None:
    plan = make_plan(window, dirty, Watermarks(), Resolution.DAY)

    for part in plan.raw:
        hours = {floor(part.start, HOUR) + number * HOUR for number in range(-(-(part.end - part.start) // HOUR) + 1)}
        inside = {hour for hour in hours if part.start <= hour and hour + HOUR <= part.end}
        assert inside <= dirty


@pytest.mark.parametrize(
    ("coarsest", "levels"),
    [(Resolution.DAY, (1, 2, 2)), (Resolution.HOUR, (0, 1, 2)), (Resolution.RAW, (0, 0, 1))],
)
def test_no_coarser_resolution_is_read_than_allowed(coarsest: Resolution, levels: tuple[int, int, int]) -> None:
    window = Span(START + 90 * TICK, START + 3 * DAY + HOUR * 3 / 2)

    plan = make_plan(window, (), Watermarks(), coarsest)

    assert (plan.source, (len(plan.days), len(plan.hours), len(plan.raw))) == (coarsest, levels)


@pytest.mark.parametrize("coarsest", Resolution)
def test_a_window_of_two_thousand_years_is_planned_at_once(coarsest: Resolution) -> None:
    window = Span(datetime(2, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    dirty = {START + number * 2 * HOUR for number in range(1000)}

    began = time.thread_time()
    plan = make_plan(window, dirty, Watermarks(raw=START), coarsest)

    assert plan.covered == window
    assert time.thread_time() - began < 0.5
