"""Charts: scales, gaps, stacks and labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from kernel.http.charts import BOTTOM, LEFT, LEVELS, RIGHT, TOP, Chart, HeatMap, Mark, Series, Unit, format_value

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def make_chart(*values: float | None, unit: Unit = "count", stacked: bool = False, step: timedelta = HOUR) -> Chart:
    """Make a chart with one series."""
    starts = [START + number * step for number in range(len(values))]
    return Chart(
        title="Requests", unit=unit, starts=starts, step=step, series=[Series("all", "first", values)], stacked=stacked
    )


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "ms", "\N{EN DASH}"),
        (0, "count", "0"),
        (9999, "count", "9,999"),
        (12_345, "count", "12.3k"),
        (2_500_000, "count", "2.5M"),
        (999, "ms", "999 ms"),
        (1500, "ms", "1.5 s"),
        (0.0035, "percent", "0.35 %"),
        (1, "percent", "100 %"),
        (0.25, "rate", "0.25 /min"),
        (0.00384, "rate", "0.0038 /min"),
        (0.00001, "rate", "0 /min"),
    ],
)
def test_values_are_short(value: float | None, unit: Unit, text: str) -> None:
    assert format_value(value, unit) == text


@pytest.mark.parametrize("peak", [0, 0.001, 1, 3, 7, 99, 101, 123_456])
def test_the_axis_reaches_from_zero_to_the_peak(peak: float) -> None:
    chart = make_chart(0, peak)
    [bottom, *_, top] = chart.y_ticks

    assert (bottom.at, bottom.label, top.at) == (BOTTOM, "0", TOP)
    assert 1 <= len(chart.y_ticks) - 1 <= 4
    assert all(TOP <= float(y) <= BOTTOM for y in re.findall(r" ([0-9.]+)", chart.paths[0][1]))


def test_a_line_is_interrupted_where_there_is_no_data() -> None:
    chart = make_chart(1, 2, None, 3, None, 4, 5)

    assert re.sub("[^ML]", "", chart.paths[0][1]) == "MLML"
    assert len(chart.points) == 1


def test_layers_of_bars_stand_on_each_other() -> None:
    layers = [Series("a", "good", [1, 0]), Series("b", "bad", [3, 2])]
    chart = Chart(title="Requests", unit="count", starts=[START, START + HOUR], step=HOUR, series=layers, stacked=True)
    first, second, third = chart.bars

    assert (first.y + first.height, second.y + second.height, second.y) == (BOTTOM, first.y, TOP)
    assert third.y + third.height == BOTTOM
    assert all(bar.x >= LEFT and bar.x + bar.width <= RIGHT for bar in chart.bars)


@pytest.mark.parametrize("step", [timedelta(minutes=1), HOUR, timedelta(days=1), timedelta(days=40)])
def test_times_below_are_few_and_inside(step: timedelta) -> None:
    ticks = make_chart(*range(90), step=step).x_ticks

    assert 2 <= len(ticks) <= 6
    assert all(LEFT < tick.at < RIGHT for tick in ticks)


def test_no_data_is_said() -> None:
    assert make_chart().summary == make_chart(None, None).summary == "Requests: no data."
    assert make_chart().y_ticks


def make_heat_map(*counts: list[int]) -> HeatMap:
    """Make a heat map with bins up to 1, 10 and 100 ms."""
    return HeatMap(
        title="Latency",
        starts=[START + number * HOUR for number in range(len(counts))],
        step=HOUR,
        bounds_ms=(1, 10, 100),
        counts=counts,
        href=lambda start, end, low, high: f"{start and start.hour}-{end and end.hour} {low}-{high}",
        share_href=str,
    )


def test_a_heat_map_has_a_cell_for_each_bin_with_requests() -> None:
    found = make_heat_map([0, 1, 0], [0, 0, 1000])
    low, high = found.cells

    assert (low.href, high.href) == ("0-1 1-10", "1-2 10-100")
    assert (low.level, high.level) == (1, LEVELS)
    assert (low.x, low.y + low.height, high.y) == (LEFT, BOTTOM, TOP)
    # Nothing is below the second bin.
    assert [tick.label for tick, _ in found.y_ticks] == ["100 ms", "10 ms"]
    assert [(row.label, row.hits, row.href) for row in found.rows] == [
        ("10 ms \N{EN DASH} 100 ms", 1000, "None-None 10-100"),
        ("1 ms \N{EN DASH} 10 ms", 1, "None-None 1-10"),
    ]
    assert [row.share for row in found.rows] == [1, 1 / 1001]
    assert [(level, label) for level, label in found.legend] == [(1, "1"), (LEVELS, "1,000")]


def test_an_empty_heat_map_says_so() -> None:
    assert make_heat_map([0, 0, 0]).summary == "Latency: no data."
    assert make_heat_map().cells == []


def test_marks_stand_at_their_time_and_not_outside() -> None:
    marks = [Mark(START + number * HOUR, str(number)) for number in (-1, 1, 2)]
    chart = Chart(
        title="Requests",
        unit="count",
        starts=[START, START + HOUR],
        step=HOUR,
        series=[Series("all", "first", [1, 2])],
        marks=marks,
    )
    [line] = chart.lines

    assert (line.x, line.label) == ((LEFT + RIGHT) / 2, "2026-01-01 01:00 1")


def test_an_overlay_and_levels_fit_on_the_axis() -> None:
    chart = Chart(
        title="Requests",
        unit="count",
        starts=[START, START + HOUR],
        step=HOUR,
        series=[Series("all", "good", [1, 2])],
        stacked=True,
        overlay=[Series("before", "before", [5, 9])],
        levels=[("20", 20.0)],
    )
    [level] = chart.level_ticks

    assert level.at == TOP
    assert [tone for tone, _ in chart.paths] == ["before"]
    assert len(chart.bars) == 2
    assert [len(values) for _, values in chart.rows] == [2, 2]
