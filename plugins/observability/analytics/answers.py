"""Answer questions: totals from rollups, percentiles from the events or, on request, from histograms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from plugins.observability.analytics.model import (
    DEFAULT_ERROR_FROM,
    BucketsQuery,
    Covered,
    DayRow,
    EndpointRow,
    Found,
    HourRow,
    KpiQuery,
    Kpis,
    Percentile,
    TopQuery,
    Totals,
    TotalsQuery,
    WindowQuery,
)
from plugins.observability.analytics.reading import Moment, Reader, Scope
from plugins.observability.analytics.window import read_window
from plugins.observability.filters import refuse_null_characters
from plugins.observability.rollups.bins import MAX_RELATIVE_ERROR, Histogram
from plugins.observability.rollups.plan import DAY, Level, Plan, Span
from plugins.observability.series import LOCAL_ACCOUNT

# Up to this, hours are few enough; beyond, days are read.
HOURLY_UP_TO = timedelta(days=2)
P95 = 95.0
ServicesOf = Callable[[str], tuple[str, ...]]
Endpoint = tuple[str, str]


class P95s(msgspec.Struct, frozen=True):
    """95th percentiles, in ms.

    Args:
        values: By endpoint, or by day and endpoint.
        max_relative_error: By how much of themselves they may be off.
    """

    values: Mapping[Any, float | None]
    max_relative_error: float = 0.0


class Analytics:
    """Answers questions about many requests.

    Args:
        reader: Reads the database.
        now: Tells the time.
        services_of: From the slug of an application to the services it owns; raises for an unknown one.
    """

    def __init__(self, reader: Reader, now: Callable[[], datetime], services_of: ServicesOf) -> None:
        self._reader = reader
        self._now = now
        self._services_of = services_of

    def kpis(self, query: KpiQuery) -> Kpis:
        """Return totals and percentiles over a window."""
        window = read_window(query.start, query.end, self._now(), DAY)
        with self._reader.moment(self.scope(query, query.method), window, approx=query.approx) as moment:
            coarsest = _coarsest(query, window)
            plan = moment.plan(window, coarsest)
            of_percentiles: Level = "day" if query.approx else "raw"
            fine = plan if of_percentiles == coarsest else moment.plan(window, of_percentiles)
            wanted = (P95, *query.percentiles)
            totals, (p95, *others) = _totals_and_percentiles(moment, plan, fine, query.error_from, wanted)
            return Kpis(
                hits=totals.hits,
                errors=totals.errors,
                error_rate=totals.error_rate,
                avg_latency_ms=totals.avg_latency_ms,
                p95_latency_ms=p95.value_ms,
                max_latency_ms=totals.latency_max_ms,
                source=plan.source,
                fresh_until=moment.fresh_until(self._now()),
                percentiles=tuple(others),
                p95_max_relative_error=p95.max_relative_error or None,
                covered=covered_beyond(plan, window),
            )

    def top_endpoints(self, query: TopQuery) -> Found[EndpointRow]:
        """Return endpoints, ranked."""
        window = read_window(query.start, query.end, self._now(), DAY)
        by_p95 = query.sort_by == "p95_latency_ms"
        p95 = P95s({})
        with self._reader.moment(self.scope(query, query.method), window, approx=query.approx) as moment:
            plan = moment.plan(window, "raw" if by_p95 and not query.approx else _coarsest(query, window))
            if by_p95:
                p95 = _p95_by_endpoint(moment, window, approx=query.approx)
                ranked = _rank(p95.values, query)
                moment.narrow_to(ranked)
                totals = moment.totals_by_endpoint(plan, query.error_from)
            else:
                totals = moment.totals_by_endpoint(plan, query.error_from)
                ranked = _rank({key: _rank_value(sums, query) for key, sums in totals.items()}, query)
                if query.with_p95:
                    moment.narrow_to(ranked)
                    p95 = _p95_by_endpoint(moment, window, approx=query.approx)
            fresh_until = moment.fresh_until(self._now())
        rows = [_endpoint_row(key, totals[key], p95.values.get(key)) for key in ranked]
        return Found(rows, plan.source, fresh_until, covered_beyond(plan, window), p95.max_relative_error)

    def hourly(self, query: BucketsQuery) -> Found[HourRow]:
        """Return a row for each hour, service and endpoint; the newest hour first."""
        window = read_window(query.start, query.end, self._now(), DAY)
        with self._reader.moment(self.scope(query, None), window, approx=query.approx) as moment:
            # Of days whose hours are gone, no hour can tell.
            left = Span(max(window.start, moment.kept.hour), window.end)
            plan = moment.plan(left, "hour")
            totals = moment.totals_by_bucket(plan, "hour", DEFAULT_ERROR_FROM, query.limit)
            fresh_until = moment.fresh_until(self._now())
        rows = [
            HourRow(*key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, sums.latency_max_ms)
            for key, sums in totals.items()
        ]
        return Found(rows, plan.source, fresh_until, covered_beyond(plan, window))

    def daily(self, query: BucketsQuery) -> Found[DayRow]:
        """Return a row for each day, service and endpoint; the newest day first."""
        window = read_window(query.start, query.end, self._now(), 7 * DAY)
        p95 = P95s({})
        with self._reader.moment(self.scope(query, None), window, approx=query.approx) as moment:
            plan = moment.plan(window, "day")
            totals = moment.totals_by_bucket(plan, "day", DEFAULT_ERROR_FROM, query.limit)
            if totals:
                oldest = min(day for day, _, _ in totals)
                shown = Span(max(window.start, oldest), window.end)
                p95 = _p95_by_day(moment, shown, approx=query.approx)
            fresh_until = moment.fresh_until(self._now())
        rows = [_day_row(key, sums, p95.values.get(key)) for key, sums in totals.items()]
        return Found(rows, plan.source, fresh_until, covered_beyond(plan, window), p95.max_relative_error)

    def scope(self, query: WindowQuery, method: str | None) -> Scope:
        """Return which series a question is about.

        Raises:
            InvalidError: A text holds what no text in the database can.
            NotFoundError: There is no such application.
        """
        refuse_null_characters(service=query.service, endpoint=query.endpoint, method=method)
        services = None if query.application is None else self._services_of(query.application)
        return Scope(LOCAL_ACCOUNT, query.service, query.endpoint, method, services)


def _coarsest(query: TotalsQuery, window: Span) -> Level:
    if not query.approx and (query.method is not None or query.error_from != DEFAULT_ERROR_FROM):
        return "raw"
    if query.granularity == "auto":
        return "hour" if window.end - window.start <= HOURLY_UP_TO else "day"
    return "hour" if query.granularity == "hourly" else "day"


def covered_beyond(plan: Plan, window: Span) -> Covered | None:
    """Return what is really read, where that is not what was asked for."""
    covered = plan.covered or Span(window.end, window.end)
    return Covered(covered.start, covered.end) if covered != window else None


def _totals_and_percentiles(
    moment: Moment, plan: Plan, fine: Plan, error_from: int, wanted: Sequence[float]
) -> tuple[Totals, list[Percentile]]:
    """Ask once where one question can tell both."""
    if fine == plan and plan.source != "raw":
        totals, histogram = moment.totals_and_histogram(plan, error_from)
        return totals, _from_histogram(histogram, wanted)
    if fine.source != "raw":
        return moment.totals(plan, error_from), _from_histogram(moment.histogram(fine), wanted)
    if fine == plan:
        totals, values = moment.totals_and_percentiles(plan, error_from, wanted)
    else:
        totals, values = moment.totals_beside_percentiles(plan, fine, error_from, wanted)
    return totals, _from_events(values, wanted)


def _from_events(values: Sequence[float | None], wanted: Sequence[float]) -> list[Percentile]:
    return [Percentile(each, value, 0.0, "raw") for each, value in zip(wanted, values, strict=True)]


def _from_histogram(histogram: Histogram, wanted: Sequence[float]) -> list[Percentile]:
    return [Percentile(each, histogram.percentile_ms(each), MAX_RELATIVE_ERROR, "rollup") for each in wanted]


def _p95_by_endpoint(moment: Moment, window: Span, *, approx: bool) -> P95s:
    plan = moment.plan(window, "day" if approx else "raw")
    if plan.source == "raw":
        return P95s(moment.percentiles_by_endpoint(plan, P95))
    return _p95_of(moment.histogram_by_endpoint(plan))


def _p95_by_day(moment: Moment, window: Span, *, approx: bool) -> P95s:
    plan = moment.plan(window, "day" if approx else "raw")
    if plan.source == "raw":
        return P95s(moment.percentiles_by_bucket(plan, "day", P95))
    return _p95_of(moment.histogram_by_bucket(plan, "day"))


def _p95_of(histograms: Mapping[Any, Histogram]) -> P95s:
    return P95s({key: histogram.percentile_ms(P95) for key, histogram in histograms.items()}, MAX_RELATIVE_ERROR)


def _rank(values: Mapping[Any, float | None], query: TopQuery) -> Sequence[Endpoint]:
    """Return the endpoints to show, in order; equal ones by service and name, whatever the direction."""
    by_value = sorted(sorted(values), key=lambda key: values[key] or 0, reverse=query.direction == "desc")
    return by_value[: query.limit]


def _rank_value(sums: Totals, query: TopQuery) -> float:
    match query.sort_by:
        case "errors":
            return sums.errors
        case "error_rate":
            return sums.errors / sums.hits
        case "avg_latency_ms":
            return sums.latency_sum_ms / sums.hits
        case "max_latency_ms":
            return sums.latency_max_ms or 0
        case _:
            return sums.hits


def _endpoint_row(key: Endpoint, sums: Totals, p95: float | None) -> EndpointRow:
    return EndpointRow(*key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, p95, sums.latency_max_ms)


def _day_row(key: tuple[datetime, str, str], sums: Totals, p95: float | None) -> DayRow:
    return DayRow(*key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, p95, sums.latency_max_ms)
