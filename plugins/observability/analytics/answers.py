"""Answer questions: totals from rollups, percentiles from the events or, on request, from histograms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from plugins.observability.analytics.model import (
    DEFAULT_ERROR_FROM,
    BucketsQuery,
    Covered,
    DayRow,
    EndpointRow,
    HourRow,
    KpiQuery,
    Kpis,
    Percentile,
    Source,
    TopQuery,
    Totals,
    TotalsQuery,
    WindowQuery,
)
from plugins.observability.analytics.reading import Moment, Reader, Scope, Unit
from plugins.observability.analytics.window import read_window
from plugins.observability.rollups.bins import MAX_RELATIVE_ERROR, percentile_ms
from plugins.observability.rollups.plan import DAY, Level, Plan, Span
from plugins.observability.series import LOCAL_ACCOUNT

# Up to this, hours are few enough; beyond, days are read.
HOURLY_UP_TO = timedelta(days=2)
P95 = 95.0
ServicesOf = Callable[[str], tuple[str, ...]]


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
        with self._reader.moment(self.scope(query, query.method)) as moment:
            plan = moment.plan(window, _coarsest(query, window))
            totals = moment.totals(plan, query.error_from)
            wanted = (P95, *query.percentiles)
            p95, *others = _percentiles(moment, window, wanted, approx=query.approx)
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
                covered=covered_beyond(plan, window),
            )

    def top_endpoints(self, query: TopQuery) -> tuple[Sequence[EndpointRow], Source]:
        """Return endpoints, ranked, and the coarsest level that was read."""
        window = read_window(query.start, query.end, self._now(), DAY)
        with self._reader.moment(self.scope(query, query.method)) as moment:
            by_p95 = query.sort_by == "p95_latency_ms"
            coarsest: Level = "raw" if by_p95 and not query.approx else _coarsest(query, window)
            plan = moment.plan(window, coarsest)
            totals = moment.totals_by_endpoint(plan, query.error_from)
            p95 = _p95_by_endpoint(moment, window, approx=query.approx) if by_p95 or query.with_p95 else {}
        rows = [_endpoint_row(key, sums, p95.get(key)) for key, sums in sorted(totals.items())]
        rows.sort(key=lambda row: _sort_value(row, query.sort_by), reverse=query.direction == "desc")
        return rows[: query.limit], plan.source

    def hourly(self, query: BucketsQuery) -> tuple[Sequence[HourRow], Source]:
        """Return a row for each hour, service and endpoint; the newest hour first."""
        rows, _, source = self._buckets(query, "hour", DAY, with_p95=False)
        return [
            HourRow(*key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, sums.latency_max_ms)
            for key, sums in rows.items()
        ], source

    def daily(self, query: BucketsQuery) -> tuple[Sequence[DayRow], Source]:
        """Return a row for each day, service and endpoint; the newest day first."""
        rows, p95, source = self._buckets(query, "day", 7 * DAY, with_p95=True)
        return [
            DayRow(
                *key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, p95.get(key), sums.latency_max_ms
            )
            for key, sums in rows.items()
        ], source

    def _buckets(
        self, query: BucketsQuery, unit: Unit, length: timedelta, *, with_p95: bool
    ) -> tuple[Mapping[tuple[datetime, str, str], Totals], Mapping[tuple[Any, ...], float | None], Source]:
        window = read_window(query.start, query.end, self._now(), length)
        p95: Mapping[tuple[Any, ...], float | None] = {}
        with self._reader.moment(self.scope(query, None)) as moment:
            plan = moment.plan(window, unit)
            rows = moment.totals_by_bucket(plan, unit, DEFAULT_ERROR_FROM, query.limit)
            if with_p95 and rows:
                oldest = min(bucket for bucket, _, _ in rows)
                shown = Span(max(window.start, oldest), window.end)
                p95 = _p95_by_bucket(moment, shown, unit, approx=query.approx)
        return rows, p95, plan.source

    def scope(self, query: WindowQuery, method: str | None) -> Scope:
        """Return which series a question is about.

        Raises:
            NotFoundError: There is no such application.
        """
        services = None
        if query.application is not None:
            services = tuple(service.lower() for service in self._services_of(query.application))
        return Scope(LOCAL_ACCOUNT, query.service, query.endpoint, method, services)


def _coarsest(query: TotalsQuery, window: Span) -> Level:
    if not query.approx and (query.method is not None or query.error_from != DEFAULT_ERROR_FROM):
        return "raw"
    if query.granularity == "auto":
        return "hour" if window.end - window.start <= HOURLY_UP_TO else "day"
    return "hour" if query.granularity == "hourly" else "day"


def covered_beyond(plan: Plan, window: Span) -> Covered | None:
    """Return what is really read, where that is more than was asked for."""
    covered = plan.covered
    if covered is None or (window.start <= covered.start and covered.end <= window.end):
        return None
    return Covered(covered.start, covered.end)


def _percentiles(moment: Moment, window: Span, wanted: Sequence[float], *, approx: bool) -> list[Percentile]:
    plan = moment.plan(window, "day" if approx else "raw")
    if plan.source == "raw":
        values = moment.percentiles(plan, wanted)
        return [Percentile(each, value, 0.0, "raw") for each, value in zip(wanted, values, strict=True)]
    bins = moment.histogram(plan)
    return [Percentile(each, percentile_ms(bins, each), MAX_RELATIVE_ERROR, "rollup") for each in wanted]


def _p95_by_endpoint(moment: Moment, window: Span, *, approx: bool) -> Mapping[tuple[Any, ...], float | None]:
    plan = moment.plan(window, "day" if approx else "raw")
    if plan.source == "raw":
        return moment.percentiles_by_endpoint(plan, P95)
    return {key: percentile_ms(bins, P95) for key, bins in moment.histogram_by_endpoint(plan).items()}


def _p95_by_bucket(moment: Moment, window: Span, unit: Unit, *, approx: bool) -> Mapping[tuple[Any, ...], float | None]:
    plan = moment.plan(window, unit if approx else "raw")
    if plan.source == "raw":
        return moment.percentiles_by_bucket(plan, unit, P95)
    return {key: percentile_ms(bins, P95) for key, bins in moment.histogram_by_bucket(plan, unit).items()}


def _endpoint_row(key: tuple[str, str], sums: Totals, p95: float | None) -> EndpointRow:
    return EndpointRow(*key, sums.hits, sums.errors, sums.error_rate, sums.avg_latency_ms, p95, sums.latency_max_ms)


def _sort_value(row: EndpointRow, name: str) -> float:
    value = getattr(row, name)
    return float("-inf") if value is None else float(value)
