"""Compute analytics: totals from rollups, percentiles from the events or, on request, from histograms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kernel import Database, InvalidError
from plugins.observability.access import SYSTEM, Access, OwnedServices
from plugins.observability.analytics.grouping import (
    ENDPOINTS,
    P95,
    Dimension,
    GroupKey,
    Ranking,
    label,
    parse_dimensions,
    parse_sort_key,
    percentile_name,
)
from plugins.observability.analytics.models import (
    DEFAULT_ERROR_FROM,
    ActiveEndpoint,
    ActiveService,
    ActivityQuery,
    BucketsQuery,
    EndpointsQuery,
    GroupedQuery,
    KpiQuery,
    Kpis,
    LatencyShare,
    Percentile,
    PercentilesMs,
    RequestTotals,
    Row,
    RowSet,
    ServicesQuery,
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
from plugins.observability.analytics.scope import Scope, parse_step, step_starts, window_of
from plugins.observability.analytics.session import ActiveGroup, BucketKey, QuerySession, StepKey
from plugins.observability.filters import ensure_no_nul, parse_ordering, search_terms
from plugins.observability.resolution import DAY, HOUR, Resolution, Span
from plugins.observability.rollups.histogram import BIN_WIDTH, BOUNDS_MS, MAX_RELATIVE_ERROR, Histogram

# Up to this, ``granularity=auto`` reads hourly rollups.
HOURLY_WINDOW_MAX = timedelta(days=2)
# Of all groups of a time series.
GROUPED_STEPS_MAX = 50_000
_DEFAULT_GROUPS = 20
_DEFAULT_TIMESERIES_GROUPS = 10


class AnalyticsService:
    """Computes analytics: KPIs, rankings, rows by hour and day, time series, and lists of services and endpoints.

    Args:
        db: The database.
        now: The clock.
        owned_services: Tells which services applications own.
    """

    def __init__(self, db: Database, now: Callable[[], datetime], owned_services: OwnedServices) -> None:
        self._db = db
        self._now = now
        self._owned_services = owned_services

    def kpis(self, query: KpiQuery, access: Access = SYSTEM) -> Kpis:
        """Return totals and percentiles over a window, and of groups in it.

        Raises:
            InvalidError: A parameter is wrong.
            NotFoundError: There is no such application.
        """
        grouping = _optional_grouping(query, _DEFAULT_GROUPS)
        scope = self._grouped_scope(query, access, grouping.dimensions)
        coarsest = _coarsest(query, scope.window, grouping)
        percentiles = (P95, *query.percentiles)
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            plan = session.plan(coarsest)
            percentile_resolution = _percentile_resolution(approx=query.approx)
            percentile_plan = plan if percentile_resolution is coarsest else session.plan(percentile_resolution)
            totals, found = _totals_and_percentiles(session, plan, percentile_plan, query.error_from, percentiles)
            groups = None
            if grouping.dimensions:
                groups = _rank_groups(session, plan, query, grouping, percentiles).rows()
            return Kpis(
                figures=totals.figures({each.percentile: each.value_ms for each in found}),
                source=plan.source.adjective,
                fresh_until=session.fresh_until(self._now()),
                percentiles=found[1:],
                latency_share=_latency_share(session, percentile_plan, query.latency_ms),
                groups=groups,
                p95_max_relative_error=found[0].max_relative_error or None,
                covered=covered_window(plan.covered, scope.window),
            )

    def top_endpoints(self, query: TopQuery, access: Access = SYSTEM) -> RowSet:
        """Return endpoints, or other groups, ranked. Raises as ``kpis``."""
        dimensions = parse_dimensions(query.group_by) or ENDPOINTS
        grouping = _Grouping(dimensions, Ranking(parse_sort_key(query.sort_by), query.direction, query.limit))
        scope = self._grouped_scope(query, access, dimensions)
        percentiles = (P95, *query.percentiles) if query.with_p95 else query.percentiles
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            plan = session.plan(_coarsest(query, scope.window, grouping))
            groups = _rank_groups(session, plan, query, grouping, percentiles)
            fresh_until = session.fresh_until(self._now())
        # Every row has a 95th percentile: None unless it was asked for.
        shown = {P95, *groups.percentiles.of}
        return RowSet(
            columns=[*dimensions, *RequestTotals().figures(dict.fromkeys(shown))],
            rows=groups.rows(shown),
            source=plan.source.adjective,
            fresh_until=fresh_until,
            covered=covered_window(plan.covered, scope.window),
            percentiles=groups.percentiles.of,
            max_relative_error=groups.percentiles.max_relative_error,
        )

    def hourly(self, query: BucketsQuery, access: Access = SYSTEM) -> RowSet:
        """Return a row for each hour, service and endpoint; the newest hour first. Raises as ``kpis``."""
        return self._buckets(query, access, DAY, Resolution.HOUR, query.percentiles)

    def daily(self, query: BucketsQuery, access: Access = SYSTEM) -> RowSet:
        """Return a row for each day, service and endpoint; the newest day first. Raises as ``kpis``."""
        return self._buckets(query, access, 7 * DAY, Resolution.DAY, (P95, *query.percentiles))

    def timeseries(self, query: TimeseriesQuery, access: Access = SYSTEM) -> Timeseries:
        """Return every step of a window. Raises as ``kpis``, also if the step is too fine for what retention left."""
        step = parse_step(query.step)
        grouping = _optional_grouping(query, _DEFAULT_TIMESERIES_GROUPS)
        scope = self._grouped_scope(query, access, grouping.dimensions)
        starts = step_starts(scope.window, step)
        if grouping.dimensions:
            _ensure_few_steps(len(starts), grouping.ranking.limit)
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            # Rollups know methods and statuses: totals are exact from any resolution.
            needs_events = (grouping.needs_events or query.statuses is not None) and not query.approx
            plan = _plan_steps(session, step, Resolution.RAW if needs_events else _resolution_of(step))
            totals = session.totals_by_step(plan, step, query.error_from)
            histograms = None
            if query.histogram:
                histograms = _histograms_by_step(session, _plan_latencies(session, query, step), step)
            percentiles = _percentiles_by_step(session, query, step, totals, histograms=histograms)
            groups = None
            if grouping.dimensions:
                groups = _groups_by_step(session, plan, query, grouping, step, starts)
            fresh_until = session.fresh_until(self._now())
        steps = _steps(starts, (), totals, percentiles)
        bounds_ms = None
        if histograms is not None:
            bounds_ms, steps = _with_histograms(steps, histograms)
        return Timeseries(
            step_s=round(step.total_seconds()),
            source=plan.source.adjective,
            fresh_until=fresh_until,
            steps=steps,
            groups=groups,
            basis=basis_of(percentiles.resolution) if percentiles.of else None,
            max_relative_error=percentiles.max_relative_error if percentiles.of else None,
            covered=covered_window(plan.covered, scope.window),
            histogram_bounds_ms=bounds_ms,
        )

    def services(
        self, query: ServicesQuery, limit: int, offset: int, access: Access = SYSTEM
    ) -> tuple[Sequence[ActiveService], int]:
        """List services that have events.

        Args:
            query: Which of them, and their order.
            limit: Services at most.
            offset: Services to skip.
            access: Of whoever asks.

        Returns:
            Services, and how many there are in all; that is 0 if all of them are skipped.

        Raises:
            InvalidError: A parameter is wrong.
            NotFoundError: There is no such application.
        """
        found = self._active(query, ("service",), "service_search", limit, offset, access)
        rows = [ActiveService(**_activity(each, ("service",)), endpoints=each.endpoints) for each in found]
        return rows, found[0].groups if found else 0

    def endpoints(
        self, query: EndpointsQuery, limit: int, offset: int, access: Access = SYSTEM
    ) -> tuple[Sequence[ActiveEndpoint], int]:
        """List endpoints that have events; as ``services``."""
        found = self._active(query, ENDPOINTS, "endpoint_search", limit, offset, access)
        rows = [ActiveEndpoint(**_activity(each, ENDPOINTS), methods=each.methods) for each in found]
        return rows, found[0].groups if found else 0

    def _active(
        self,
        query: ActivityQuery,
        dimensions: tuple[Dimension, ...],
        search: str,
        limit: int,
        offset: int,
        access: Access,
    ) -> Sequence[ActiveGroup]:
        sortable = (*dimensions, "hits", "errors", "error_rate", "first_seen", "last_seen")
        ordering = parse_ordering(query.ordering, sortable, dimensions)
        ensure_no_nul(search=query.search)
        scope = self._scope(query, access, None)
        if query.search:
            scope = msgspec.structs.replace(scope, **{search: tuple(search_terms(query.search))})
        sorted_by = {each.removeprefix("-") for each in ordering}
        order = (*ordering, *(name for name in dimensions if name not in sorted_by))
        with QuerySession.open(self._db, scope, approx=True) as session:
            return session.active_groups(session.plan(Resolution.DAY), dimensions, order, limit, offset)

    def _buckets(
        self,
        query: BucketsQuery,
        access: Access,
        default_length: timedelta,
        bucket: Resolution,
        percentiles: Sequence[float],
    ) -> RowSet:
        scope = self._scope(query, access, default_length)
        found = _PercentilesByKey()
        with QuerySession.open(self._db, scope, approx=query.approx) as session:
            window = scope.window
            if bucket is Resolution.HOUR:
                # Before the watermark of hours there are only days.
                window = Span(max(window.start, session.state.watermarks.hour), window.end)
            plan = session.plan(bucket, window)
            totals = session.totals_by_bucket(plan, bucket, DEFAULT_ERROR_FROM, query.limit)
            if totals and percentiles:
                found = _percentiles_by_bucket(session, window, totals, bucket, percentiles, approx=query.approx)
            fresh_until = session.fresh_until(self._now())
        dimensions = ("bucket", *ENDPOINTS)
        return RowSet(
            columns=[*dimensions, *RequestTotals().figures(dict.fromkeys(percentiles))],
            rows=[
                {**dict(zip(dimensions, key, strict=True)), **each.figures(found.at(key, percentiles))}
                for key, each in totals.items()
            ],
            source=plan.source.adjective,
            fresh_until=fresh_until,
            covered=covered_window(plan.covered, scope.window),
            percentiles=percentiles,
            max_relative_error=found.max_relative_error,
        )

    def _grouped_scope(self, query: GroupedQuery, access: Access, dimensions: Collection[Dimension]) -> Scope:
        scope = self._scope(query, access, DAY, query.method, dimensions)
        return msgspec.structs.replace(scope, statuses=query.statuses)

    def _scope(
        self,
        query: WindowQuery,
        access: Access,
        default_length: timedelta | None,
        method: str | None = None,
        dimensions: Collection[Dimension] = (),
    ) -> Scope:
        window = window_of(query.start, query.end, self._now(), default_length)
        ensure_no_nul(service=query.service, endpoint=query.endpoint, method=method)
        services = access.services_of(query.application, self._owned_services)
        owners = self._owned_services(query.application) if "application" in dimensions else {}
        return Scope(
            window,
            access.account,
            query.service,
            query.endpoint,
            method,
            services,
            visible_sites=access.sites,
            visible_services=None if access.services is None else tuple(sorted(access.services)),
            owners={slug: owned for slug, owned in owners.items() if access.may_read(slug)},
        )


class _Grouping(msgspec.Struct, frozen=True):
    """How an answer is divided into groups; not at all without dimensions."""

    dimensions: tuple[Dimension, ...] = ()
    ranking: Ranking = Ranking()

    @property
    def needs_events(self) -> bool:
        """Whether exact answers are read from the events: rollups have no latencies by status."""
        return "status_code" in self.dimensions or self.ranking.percentile is not None


class _PercentilesByKey(msgspec.Struct, frozen=True):
    """Percentiles by group, by bucket or by step.

    Args:
        values_ms: By key, in the order of ``of``; keys without requests are left out.
        of: The percentiles; empty if none are wanted.
        resolution: What they were computed from.
    """

    values_ms: Mapping[Any, Sequence[float | None]] = {}
    of: Sequence[float] = ()
    resolution: Resolution = Resolution.RAW

    @property
    def max_relative_error(self) -> float:
        """The bound of their error; 0 is exact."""
        return 0.0 if self.resolution is Resolution.RAW else MAX_RELATIVE_ERROR

    def at(self, key: Any, shown: Collection[float] | None = None) -> PercentilesMs:
        """Return the percentiles of one key, or those of them that are shown; None where there are no requests."""
        found = dict(zip(self.of, self.values_ms.get(key, [None] * len(self.of)), strict=True))
        return found if shown is None else {each: found.get(each) for each in shown}


class _Groups(msgspec.Struct, frozen=True):
    """The groups that are shown, in order; what the others have is left out."""

    dimensions: tuple[Dimension, ...]
    shown: Sequence[GroupKey]
    totals: Mapping[GroupKey, RequestTotals]
    percentiles: _PercentilesByKey

    def rows(self, percentiles: Collection[float] | None = None) -> list[Row]:
        """Return a row for each group, with all percentiles or the given ones."""
        return [
            {**label(self.dimensions, key), **self.totals[key].figures(self.percentiles.at(key, percentiles))}
            for key in self.shown
        ]


def _activity(group: ActiveGroup, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Return what services and endpoints have in common."""
    figures = RequestTotals(group.hits, group.errors).figures()
    return {
        **label(dimensions, group.key),
        **{name: figures[name] for name in ("hits", "errors", "error_rate")},
        "first_seen": group.first_seen,
        "last_seen": group.last_seen,
    }


def _optional_grouping(query: GroupedQuery, default_limit: int) -> _Grouping:
    """Return the grouping that a request asks for.

    Raises:
        InvalidError: A parameter is wrong, or is about groups though there are none.
    """
    given = {name: getattr(query, name) for name in ("sort_by", "direction", "limit")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not query.group_by:
        message = "This is about groups: give group_by as well, such as group_by=service."
        raise InvalidError(errors={name: [message] for name in given})
    return _Grouping(
        parse_dimensions(query.group_by),
        Ranking(parse_sort_key(query.sort_by or "hits"), query.direction or "desc", query.limit or default_limit),
    )


def _coarsest(query: TotalsQuery, window: Span, grouping: _Grouping) -> Resolution:
    """Return the coarsest resolution from which totals may be computed."""
    is_of_events = (
        query.method is not None
        or query.statuses is not None
        or query.error_from != DEFAULT_ERROR_FROM
        or grouping.needs_events
    )
    if is_of_events and not query.approx:
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
    if not session.knows_latencies(percentile_plan):
        totals, histogram = session.totals(plan, error_from), Histogram("")
    elif percentile_plan == plan:
        totals, histogram = session.totals_and_histogram(plan, error_from)
    else:
        totals, histogram = session.totals(plan, error_from), session.histogram(percentile_plan)
    values = _of_histogram(histogram, totals, percentiles)
    return totals, [
        Percentile(each, ms, MAX_RELATIVE_ERROR, "rollup") for each, ms in zip(percentiles, values, strict=True)
    ]


def _latency_share(session: QuerySession, plan: ReadPlan, latency_ms: int | None) -> LatencyShare | None:
    if latency_ms is None:
        return None
    if plan.source is Resolution.RAW:
        hits, all_hits = session.hits_up_to(plan, latency_ms)
        max_relative_error = 0.0
    else:
        histogram = session.histogram(plan) if session.knows_latencies(plan) else Histogram("")
        hits, all_hits = histogram.hits_up_to(latency_ms), histogram.hits
        max_relative_error = BIN_WIDTH
    share = hits / all_hits if all_hits else None
    return LatencyShare(latency_ms, hits, share, max_relative_error, basis_of(plan.source))


def _rank_groups(
    session: QuerySession, plan: ReadPlan, query: GroupedQuery, grouping: _Grouping, percentiles: Sequence[float]
) -> _Groups:
    """Return the groups to show, with their totals and percentiles.

    What does not rank them is read of those that are shown only.

    Args:
        session: Of the request.
        plan: For the totals.
        query: The request.
        grouping: The groups.
        percentiles: In addition to the one that ranks them.
    """
    dimensions, ranking = grouping.dimensions, grouping.ranking
    percentile_plan = session.plan(_percentile_resolution(approx=query.approx))
    if ranking.percentile is None:
        totals = session.totals_by_group(plan, query.error_from, dimensions)
        shown = ranking.rank({key: _figure(each, str(ranking.by)) for key, each in totals.items()})
        of_shown = session.for_groups(dimensions, shown)
        found = _percentiles_by_group(of_shown, percentile_plan, totals, dimensions, percentiles)
        return _Groups(dimensions, shown, totals, found)
    is_exact = percentile_plan.source is Resolution.RAW
    if not session.knows_latencies(percentile_plan, dimensions):
        message = (
            f"Rollups know no latencies by status: expected hits, errors or error_rate, got {query.sort_by!r:.80}."
        )
        raise InvalidError(errors={"sort_by": [message]})
    # An approximate percentile is ranked as it is shown: within what the totals of its group say.
    totals = {} if is_exact else session.totals_by_group(plan, query.error_from, dimensions)
    found = _percentiles_by_group(session, percentile_plan, totals, dimensions, (ranking.percentile, *percentiles))
    shown = ranking.rank({key: values[0] for key, values in found.values_ms.items()})
    if is_exact:
        totals = session.for_groups(dimensions, shown).totals_by_group(plan, query.error_from, dimensions)
    return _Groups(dimensions, shown, totals, found)


def _figure(totals: RequestTotals, name: str) -> float | None:
    """Return a figure to rank by: the error rate is not rounded."""
    match name:
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


def _percentiles_by_group(
    session: QuerySession,
    plan: ReadPlan,
    totals: Mapping[GroupKey, RequestTotals],
    dimensions: tuple[Dimension, ...],
    percentiles: Sequence[float],
) -> _PercentilesByKey:
    """Return percentiles of each group; without any where they can only be read from rollups, which have none."""
    if not percentiles:
        return _PercentilesByKey()
    if plan.source is Resolution.RAW:
        return _PercentilesByKey(session.percentiles_by_group(plan, dimensions, percentiles), percentiles)
    knows_latencies = session.knows_latencies(plan, dimensions)
    histograms = session.histogram_by_group(plan, dimensions) if knows_latencies else {}
    return _of_histograms(histograms, totals, percentiles, plan)


def _percentiles_by_bucket(
    session: QuerySession,
    window: Span,
    totals: Mapping[BucketKey, RequestTotals],
    bucket: Resolution,
    percentiles: Sequence[float],
    *,
    approx: bool,
) -> _PercentilesByKey:
    shown = Span(max(window.start, min(start for start, _, _ in totals)), window.end)
    plan = session.plan(bucket if approx else Resolution.RAW, shown)
    if plan.source is Resolution.RAW:
        return _PercentilesByKey(session.percentiles_by_bucket(plan, bucket, percentiles), percentiles)
    return _of_histograms(session.histogram_by_bucket(plan, bucket), totals, percentiles, plan)


def _percentiles_by_step(
    session: QuerySession,
    query: TimeseriesQuery,
    step: timedelta,
    totals: Mapping[StepKey, RequestTotals],
    dimensions: tuple[Dimension, ...] = (),
    histograms: Mapping[StepKey, Histogram] | None = None,
) -> _PercentilesByKey:
    percentiles = query.percentiles
    if not percentiles:
        return _PercentilesByKey()
    plan = _plan_latencies(session, query, step)
    if plan.source is Resolution.RAW:
        values_ms = session.percentiles_by_step(plan, step, percentiles, dimensions)
        return _PercentilesByKey(values_ms, percentiles)
    if histograms is None:
        histograms = _histograms_by_step(session, plan, step, dimensions)
    return _of_histograms(histograms, totals, percentiles, plan)


def _plan_latencies(session: QuerySession, query: TimeseriesQuery, step: timedelta) -> ReadPlan:
    """Plan the read of percentiles and histograms of steps: of events, unless rollups are asked for or all is left."""
    plan = session.plan(Resolution.RAW)
    if query.approx or plan.source is not Resolution.RAW:
        return _plan_steps(session, step, _resolution_of(step))
    return plan


def _histograms_by_step(
    session: QuerySession, plan: ReadPlan, step: timedelta, dimensions: tuple[Dimension, ...] = ()
) -> Mapping[StepKey, Histogram]:
    """Return the histogram of each step; none where they can only be read from rollups, which have none by status."""
    return session.histogram_by_step(plan, step, dimensions) if session.knows_latencies(plan, dimensions) else {}


def _with_histograms(
    steps: Sequence[TimeseriesStep], histograms: Mapping[StepKey, Histogram]
) -> tuple[Sequence[int], list[TimeseriesStep]]:
    """Return steps with their histograms, and the bounds of these, up to the highest that has hits."""
    none = Histogram("")
    counts = []
    for each in steps:
        up_to = [histograms.get((each.start,), none).hits_up_to(bound) for bound in BOUNDS_MS]
        counts.append([high - low for low, high in zip((0, *up_to), up_to, strict=False)])
    used = max((position + 1 for row in counts for position, hits in enumerate(row) if hits), default=0)
    return BOUNDS_MS[:used], [
        msgspec.structs.replace(each, histogram=row[:used]) for each, row in zip(steps, counts, strict=True)
    ]


def _of_histograms(
    histograms: Mapping[Any, Histogram],
    totals: Mapping[Any, RequestTotals],
    percentiles: Sequence[float],
    plan: ReadPlan,
) -> _PercentilesByKey:
    unknown = RequestTotals()
    values_ms = {
        key: _of_histogram(histogram, totals.get(key, unknown), percentiles) for key, histogram in histograms.items()
    }
    return _PercentilesByKey(values_ms, percentiles, plan.source)


def _of_histogram(histogram: Histogram, totals: RequestTotals, percentiles: Sequence[float]) -> Sequence[float | None]:
    """Return percentiles of the same requests that the totals are of, within the lowest and highest latency."""
    return [histogram.percentile_ms(each, totals.latency_min_ms, totals.latency_max_ms) for each in percentiles]


def _plan_steps(session: QuerySession, step: timedelta, coarsest: Resolution) -> ReadPlan:
    """Plan a read in which no resolution is coarser than the steps.

    Raises:
        InvalidError: Retention left nothing as fine as that of a part of the window.
    """
    plan = session.plan(coarsest)
    if plan.source is Resolution.RAW:
        return plan
    if coarsest is Resolution.RAW:
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


def _ensure_few_steps(steps: int, groups: int) -> None:
    """Check how long a time series of groups may get.

    Raises:
        InvalidError: It has more than ``GROUPED_STEPS_MAX`` steps.
    """
    if steps * groups > GROUPED_STEPS_MAX:
        message = (
            f"Expected at most {GROUPED_STEPS_MAX} steps of all groups, got {groups} groups of {steps} steps: take a "
            f"lower limit, a longer step or a shorter window."
        )
        raise InvalidError(errors={"limit": [message]})


def _groups_by_step(
    session: QuerySession,
    plan: ReadPlan,
    query: TimeseriesQuery,
    grouping: _Grouping,
    step: timedelta,
    starts: Sequence[datetime],
) -> list[Row]:
    """Return a row for each group, with its steps."""
    dimensions = grouping.dimensions
    groups = _rank_groups(session, plan, query, grouping, ())
    of_shown = session.for_groups(dimensions, groups.shown)
    totals = of_shown.totals_by_step(plan, step, query.error_from, dimensions)
    percentiles = _percentiles_by_step(of_shown, query, step, totals, dimensions)
    return [
        {**row, "steps": _steps(starts, key, totals, percentiles)}
        for key, row in zip(groups.shown, groups.rows(), strict=True)
    ]


def _steps(
    starts: Sequence[datetime], group: GroupKey, totals: Mapping[StepKey, RequestTotals], percentiles: _PercentilesByKey
) -> list[TimeseriesStep]:
    """Return every step of a group, or of everything."""
    no_requests = RequestTotals()
    return [
        TimeseriesStep(
            start,
            **totals.get((start, *group), no_requests).figures(),
            percentiles_ms={percentile_name(each): ms for each, ms in percentiles.at((start, *group)).items()},
        )
        for start in starts
    ]
