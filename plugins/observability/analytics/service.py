"""Compute analytics: totals from rollups, percentiles from the events or, on request, from histograms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kernel import Database, InvalidError
from plugins.observability.analytics.models import (
    DEFAULT_ERROR_FROM,
    BucketsQuery,
    DayRow,
    EndpointRow,
    HourRow,
    KpiQuery,
    Kpis,
    Percentile,
    PercentilesMs,
    RequestTotals,
    RowSet,
    Timeseries,
    TimeseriesQuery,
    TimeseriesStep,
    TopQuery,
    TotalsQuery,
    WindowQuery,
    basis_of,
    covered_window,
)
from plugins.observability.analytics.plan import ReadPlan
from plugins.observability.analytics.scope import Scope, parse_step, parse_window, step_starts
from plugins.observability.analytics.session import EndpointKey, QuerySession
from plugins.observability.filters import ensure_no_nul
from plugins.observability.resolution import DAY, HOUR, Resolution, Span
from plugins.observability.rollups.histogram import MAX_RELATIVE_ERROR, Histogram
from plugins.observability.series import LOCAL_ACCOUNT

# Up to this, ``granularity=auto`` reads hourly rollups.
HOURLY_WINDOW_MAX = timedelta(days=2)
P95 = 95.0
ServicesOf = Callable[[str], tuple[str, ...]]


class AnalyticsService:
    """Computes analytics: KPIs, rows by hour, day and endpoint, and time series.

    Args:
        db: The database.
        now: The clock.
        services_of: Returns the services that an application owns, by its slug; raises for an unknown one.
    """

    def __init__(self, db: Database, now: Callable[[], datetime], services_of: ServicesOf) -> None:
        self._db = db
        self._now = now
        self._services_of = services_of

    def kpis(self, query: KpiQuery) -> Kpis:
        """Return totals and percentiles over a window.

        Raises:
            InvalidError: A parameter is wrong.
            NotFoundError: There is no such application.
        """
        scope = self._scope(query, DAY, query.method)
        coarsest = _coarsest(query, scope.window)
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            plan = session.plan(coarsest)
            percentile_resolution = _percentile_resolution(approx=query.approx)
            percentile_plan = plan if percentile_resolution is coarsest else session.plan(percentile_resolution)
            totals, (p95, *percentiles) = _totals_and_percentiles(
                session, plan, percentile_plan, query.error_from, (P95, *query.percentiles)
            )
            return Kpis(
                **totals.figures(),
                p95_latency_ms=p95.value_ms,
                source=plan.source.adjective,
                fresh_until=session.fresh_until(self._now()),
                percentiles=tuple(percentiles),
                p95_max_relative_error=p95.max_relative_error or None,
                covered=covered_window(plan.covered, scope.window),
            )

    def top_endpoints(self, query: TopQuery) -> RowSet[EndpointRow]:
        """Return endpoints, ranked. Raises as ``kpis``.

        What does not rank them is read of those that are shown only.
        """
        scope = self._scope(query, DAY, query.method)
        p95 = _P95ByKey({})
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            if query.sort_by == "p95_latency_ms":
                plan = session.plan(_coarsest(query, scope.window) if query.approx else Resolution.RAW)
                p95 = _p95_by_endpoint(session, approx=query.approx)
                shown = _rank(p95.values_ms, query)
                totals = session.for_endpoints(shown).totals_by_endpoint(plan, query.error_from)
            else:
                plan = session.plan(_coarsest(query, scope.window))
                totals = session.totals_by_endpoint(plan, query.error_from)
                shown = _rank({key: _sort_figure(each, query) for key, each in totals.items()}, query)
                if query.with_p95:
                    p95 = _p95_by_endpoint(session.for_endpoints(shown), approx=query.approx)
            fresh_until = session.fresh_until(self._now())
        return RowSet(
            rows=[EndpointRow(*key, **totals[key].figures(), p95_latency_ms=p95.values_ms.get(key)) for key in shown],
            source=plan.source.adjective,
            fresh_until=fresh_until,
            covered=covered_window(plan.covered, scope.window),
            p95_max_relative_error=p95.max_relative_error,
        )

    def hourly(self, query: BucketsQuery) -> RowSet[HourRow]:
        """Return a row for each hour, service and endpoint; the newest hour first. Raises as ``kpis``."""
        scope = self._scope(query, DAY)
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            # Before the watermark of hours there are only days.
            with_hours = Span(max(scope.window.start, session.state.watermarks.hour), scope.window.end)
            plan = session.plan(Resolution.HOUR, with_hours)
            totals = session.totals_by_bucket(plan, Resolution.HOUR, DEFAULT_ERROR_FROM, query.limit)
            fresh_until = session.fresh_until(self._now())
        return RowSet(
            rows=[HourRow(*key, **each.figures()) for key, each in totals.items()],
            source=plan.source.adjective,
            fresh_until=fresh_until,
            covered=covered_window(plan.covered, scope.window),
        )

    def daily(self, query: BucketsQuery) -> RowSet[DayRow]:
        """Return a row for each day, service and endpoint; the newest day first. Raises as ``kpis``."""
        scope = self._scope(query, 7 * DAY)
        p95 = _P95ByKey({})
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            plan = session.plan(Resolution.DAY)
            totals = session.totals_by_bucket(plan, Resolution.DAY, DEFAULT_ERROR_FROM, query.limit)
            if totals:
                oldest = min(day for day, _, _ in totals)
                shown = Span(max(scope.window.start, oldest), scope.window.end)
                p95 = _p95_by_day(session, shown, approx=query.approx)
            fresh_until = session.fresh_until(self._now())
        return RowSet(
            rows=[
                DayRow(*key, **each.figures(), p95_latency_ms=p95.values_ms.get(key)) for key, each in totals.items()
            ],
            source=plan.source.adjective,
            fresh_until=fresh_until,
            covered=covered_window(plan.covered, scope.window),
            p95_max_relative_error=p95.max_relative_error,
        )

    def timeseries(self, query: TimeseriesQuery) -> Timeseries:
        """Return every step of a window. Raises as ``kpis``, also if the step is too fine for what retention left."""
        step = parse_step(query.step)
        scope = self._scope(query, DAY, query.method)
        starts = step_starts(scope.window, step)
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            # Rollups know methods and statuses: totals are exact from any resolution.
            plan = _plan_steps(session, step)
            totals = session.totals_by_step(plan, step, query.error_from)
            percentiles = _percentiles_by_step(session, query, step)
            fresh_until = session.fresh_until(self._now())
        no_requests = RequestTotals()
        no_percentiles = _named(query.percentiles, [None] * len(query.percentiles))
        return Timeseries(
            step_s=round(step.total_seconds()),
            source=plan.source.adjective,
            fresh_until=fresh_until,
            steps=[
                TimeseriesStep(
                    start,
                    **totals.get(start, no_requests).figures(),
                    percentiles_ms=percentiles.by_start.get(start, no_percentiles),
                )
                for start in starts
            ],
            basis=None if percentiles.resolution is None else basis_of(percentiles.resolution),
            max_relative_error=percentiles.max_relative_error,
            covered=covered_window(plan.covered, scope.window),
        )

    def _scope(self, query: WindowQuery, default_length: timedelta, method: str | None = None) -> Scope:
        window = parse_window(query.start, query.end, self._now(), default_length)
        ensure_no_nul(service=query.service, endpoint=query.endpoint, method=method)
        services = None if query.application is None else self._services_of(query.application)
        return Scope(window, LOCAL_ACCOUNT, query.service, query.endpoint, method, services)


class _P95ByKey(msgspec.Struct, frozen=True):
    """95th percentiles in ms, by endpoint or by day and endpoint, and the bound of their error."""

    values_ms: Mapping[Any, float | None]
    max_relative_error: float = 0.0


class _PercentilesByStep(msgspec.Struct, frozen=True):
    """Percentiles of each step with hits, by its start, and what they were computed from; empty if none are wanted."""

    by_start: Mapping[datetime, PercentilesMs] = {}
    resolution: Resolution | None = None
    max_relative_error: float | None = None


def _coarsest(query: TotalsQuery, window: Span) -> Resolution:
    """Return the coarsest resolution from which totals may be computed."""
    if not query.approx and (query.method is not None or query.error_from != DEFAULT_ERROR_FROM):
        return Resolution.RAW
    if query.granularity == "auto":
        return Resolution.HOUR if window.end - window.start <= HOURLY_WINDOW_MAX else Resolution.DAY
    return Resolution.HOUR if query.granularity == Resolution.HOUR.adjective else Resolution.DAY


def _percentile_resolution(*, approx: bool) -> Resolution:
    return Resolution.DAY if approx else Resolution.RAW


def _totals_and_percentiles(
    session: QuerySession, plan: ReadPlan, percentile_plan: ReadPlan, error_from: int, percentiles: Sequence[float]
) -> tuple[RequestTotals, list[Percentile]]:
    """Return both, from one query wherever one can tell both."""
    if percentile_plan.source is Resolution.RAW:
        totals, values = session.totals_and_percentiles(plan, percentile_plan, error_from, percentiles)
        return totals, [Percentile(each, ms, 0.0, "raw") for each, ms in zip(percentiles, values, strict=True)]
    if percentile_plan == plan:
        totals, histogram = session.totals_and_histogram(plan, error_from)
    else:
        totals, histogram = session.totals(plan, error_from), session.histogram(percentile_plan)
    return totals, [
        Percentile(each, histogram.percentile_ms(each), MAX_RELATIVE_ERROR, "rollup") for each in percentiles
    ]


def _p95_by_endpoint(session: QuerySession, *, approx: bool) -> _P95ByKey:
    plan = session.plan(_percentile_resolution(approx=approx))
    if plan.source is Resolution.RAW:
        return _P95ByKey(session.percentiles_by_endpoint(plan, P95))
    return _p95_of(session.histogram_by_endpoint(plan))


def _p95_by_day(session: QuerySession, window: Span, *, approx: bool) -> _P95ByKey:
    plan = session.plan(_percentile_resolution(approx=approx), window)
    if plan.source is Resolution.RAW:
        return _P95ByKey(session.percentiles_by_bucket(plan, Resolution.DAY, P95))
    return _p95_of(session.histogram_by_bucket(plan, Resolution.DAY))


def _p95_of(histograms: Mapping[Any, Histogram]) -> _P95ByKey:
    return _P95ByKey({key: histogram.percentile_ms(P95) for key, histogram in histograms.items()}, MAX_RELATIVE_ERROR)


def _rank(figures: Mapping[EndpointKey, float | None], query: TopQuery) -> Sequence[EndpointKey]:
    """Return the endpoints to show, in order.

    Those with equal figures are in order of service and name, those without a figure are last, in either direction.
    """
    by_name = sorted(figures)
    ranked = [key for key in by_name if figures[key] is not None]
    ranked.sort(key=lambda key: figures[key] or 0, reverse=query.direction == "desc")
    return [*ranked, *(key for key in by_name if figures[key] is None)][: query.limit]


def _sort_figure(totals: RequestTotals, query: TopQuery) -> float | None:
    match query.sort_by:
        case "errors":
            return totals.errors
        case "error_rate":
            return totals.errors / totals.hits
        case "avg_latency_ms":
            return totals.latency_avg_ms
        case "max_latency_ms":
            return totals.latency_max_ms
        case _:
            return totals.hits


def _plan_steps(session: QuerySession, step: timedelta) -> ReadPlan:
    """Plan a read in which no resolution is coarser than the steps.

    Raises:
        InvalidError: Retention left nothing as fine as that of a part of the window.
    """
    finest = _resolution_of(step)
    plan = session.plan(finest)
    if plan.source is Resolution.RAW:
        return plan
    if finest is Resolution.RAW:
        # Events were removed. The error should name hours, where there are hours, not days.
        plan = session.plan(Resolution.HOUR)
    for spans, length, name in ((plan.days, DAY, "1d"), (plan.hours, HOUR, "1h")):
        if spans and step % length:
            message = f"Expected a multiple of {name}: nothing finer is left of a part of the window."
            raise InvalidError(errors={"step": [message]})
    return plan


def _resolution_of(step: timedelta) -> Resolution:
    """Return the coarsest resolution whose buckets make up a step."""
    if not step % DAY:
        return Resolution.DAY
    return Resolution.RAW if step % HOUR else Resolution.HOUR


def _percentiles_by_step(session: QuerySession, query: TimeseriesQuery, step: timedelta) -> _PercentilesByStep:
    percentiles = query.percentiles
    if not percentiles:
        return _PercentilesByStep()
    plan = session.plan(Resolution.RAW)
    if query.approx or plan.source is not Resolution.RAW:
        plan = _plan_steps(session, step)
    if plan.source is Resolution.RAW:
        values = session.percentiles_by_step(plan, step, percentiles)
        return _PercentilesByStep(
            {start: _named(percentiles, values_ms) for start, values_ms in values.items()}, plan.source, 0.0
        )
    histograms = session.histogram_by_step(plan, step)
    return _PercentilesByStep(
        {
            start: _named(percentiles, [histogram.percentile_ms(each) for each in percentiles])
            for start, histogram in histograms.items()
        },
        plan.source,
        MAX_RELATIVE_ERROR,
    )


def _named(percentiles: Sequence[float], values_ms: Sequence[float | None]) -> PercentilesMs:
    return {f"{each:.15g}": value for each, value in zip(percentiles, values_ms, strict=True)}
