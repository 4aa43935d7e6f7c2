"""How requests run over time, step by step, for charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from plugins.observability.analytics.answers import Analytics, covered_beyond
from plugins.observability.analytics.model import (
    DEFAULT_ERROR_FROM,
    Basis,
    Covered,
    ErrorFrom,
    Percentage,
    Source,
    Totals,
    WindowQuery,
)
from plugins.observability.analytics.reading import Moment, Reader
from plugins.observability.analytics.steps import level_of, read_step, refuse_too_fine, steps_of
from plugins.observability.analytics.window import read_window
from plugins.observability.rollups.bins import MAX_RELATIVE_ERROR
from plugins.observability.rollups.plan import DAY, Plan, Span

PercentilesMs = Mapping[str, float | None]


class TimeseriesQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of ``timeseries/``.

    Args:
        step: A number and m, h or d, from 1m to 1d. Steps begin where those of a clock do, UTC.
        method: HTTP method.
        error_from: The lowest status that is an error.
        percentiles: Percentiles of each step, from 0 to 100.
        approx: Percentiles from rollups, where the step is whole hours.
    """

    step: str = "1h"
    method: str | None = None
    error_from: ErrorFrom = DEFAULT_ERROR_FROM
    percentiles: Annotated[tuple[Percentage, ...], msgspec.Meta(max_length=20)] = ()
    approx: bool = False


class Step(msgspec.Struct, frozen=True):
    """What happened in one step.

    Args:
        start: When it begins. The first and the last step of a window hold what lies in the window.
        percentiles_ms: By percentile, such as ``99.9``; None without hits.
    """

    start: datetime
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    max_latency_ms: int | None
    percentiles_ms: PercentilesMs


class TimeseriesAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of ``timeseries/``.

    Args:
        step_s: Length of a step, in seconds.
        source: The coarsest level that was read.
        fresh_until: Up to when rollups know every event; what is later was read from the events.
        steps: All of the window, in order, those without hits as well.
        basis: What percentiles were computed from; left out without any.
        max_relative_error: By how much of itself a percentile may be off; 0 is exact.
        covered: Where it is not what was asked for.
    """

    step_s: int
    source: Source
    fresh_until: datetime
    steps: Sequence[Step]
    basis: Basis | None = None
    max_relative_error: float | None = None
    covered: Covered | None = None


class _Percentiles(msgspec.Struct, frozen=True):
    by_start: Mapping[datetime, PercentilesMs] = {}
    basis: Basis | None = None
    max_relative_error: float | None = None


class Timeseries:
    """Answers ``timeseries/``.

    Args:
        analytics: Knows the applications.
        reader: Reads the database.
        now: Tells the time.
    """

    def __init__(self, analytics: Analytics, reader: Reader, now: Callable[[], datetime]) -> None:
        self._analytics = analytics
        self._reader = reader
        self._now = now

    def answer(self, query: TimeseriesQuery) -> TimeseriesAnswer:
        """Return every step of a window.

        Raises:
            InvalidError: Window or step are wrong, or too fine for what is left.
            NotFoundError: There is no such application.
        """
        step = read_step(query.step)
        window = read_window(query.start, query.end, self._now(), DAY)
        starts = steps_of(window, step)
        scope = self._analytics.scope(query, query.method)
        with self._reader.moment(scope, window, approx=query.approx) as moment:
            # Rollups tell methods and states apart: totals are exact from any level.
            plan = _plan(moment, window, step)
            totals = moment.totals_by_step(plan, step, query.error_from)
            percentiles = _percentiles(moment, query, window, step)
            return TimeseriesAnswer(
                step_s=round(step.total_seconds()),
                source=plan.source,
                fresh_until=moment.fresh_until(self._now()),
                steps=[_step(start, totals.get(start, Totals()), query, percentiles) for start in starts],
                basis=percentiles.basis,
                max_relative_error=percentiles.max_relative_error,
                covered=covered_beyond(plan, window),
            )


def _plan(moment: Moment, window: Span, step: timedelta) -> Plan:
    """Return what to read for steps, none of it coarser than they are."""
    plan = moment.plan(window, level_of(step))
    if plan.source == "raw":
        return plan
    if level_of(step) == "raw":
        # Events are gone. Where hours are left, say so, and not that there are days.
        plan = moment.plan(window, "hour")
    refuse_too_fine(plan, step)
    return plan


def _percentiles(moment: Moment, query: TimeseriesQuery, window: Span, step: timedelta) -> _Percentiles:
    wanted = query.percentiles
    if not wanted:
        return _Percentiles()
    plan = moment.plan(window, "raw")
    if query.approx or plan.source != "raw":
        plan = _plan(moment, window, step)
    if plan.source == "raw":
        exact = moment.percentiles_by_step(plan, step, wanted)
        return _Percentiles({start: _named(wanted, values) for start, values in exact.items()}, "raw", 0.0)
    histograms = moment.histogram_by_step(plan, step)
    by_start: dict[datetime, PercentilesMs] = {
        start: _named(wanted, [histogram.percentile_ms(each) for each in wanted])
        for start, histogram in histograms.items()
    }
    return _Percentiles(by_start, "rollup", MAX_RELATIVE_ERROR)


def _named(percentiles: Sequence[float], values: Sequence[Any]) -> PercentilesMs:
    return {f"{each:.15g}": value for each, value in zip(percentiles, values, strict=True)}


def _step(start: datetime, totals: Totals, query: TimeseriesQuery, percentiles: _Percentiles) -> Step:
    return Step(
        start,
        totals.hits,
        totals.errors,
        totals.error_rate,
        totals.avg_latency_ms,
        totals.latency_max_ms,
        percentiles.by_start.get(start) or _named(query.percentiles, [None] * len(query.percentiles)),
    )
