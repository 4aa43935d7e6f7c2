"""Charts: scales, gaps, stacks and labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from kernel.http.charts import BOTTOM, LEFT, RIGHT, TOP, Chart, Series, Unit, format_value

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
