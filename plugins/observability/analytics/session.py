"""Query sessions: the database in one snapshot, for all queries of one request."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, LiteralString

import msgspec
from psycopg import Connection
from psycopg.rows import TupleRow

from kernel import Database
from plugins.observability.analytics.grouping import Dimension, GroupKey
from plugins.observability.analytics.models import DEFAULT_ERROR_FROM, RequestTotals
from plugins.observability.analytics.plan import ReadPlan, make_plan
from plugins.observability.analytics.scope import Scope
from plugins.observability.analytics.sql_builder import (
    QUERIES,
    Coarse,
    EventTime,
    Measures,
    QuerySpec,
    SeriesCondition,
    bounds,
    build_query,
    build_totals_and_percentiles,
    group_parameters,
    opening_query,
    series_of_groups_query,
    span_counts,
)
from plugins.observability.resolution import Resolution, Span
from plugins.observability.rollups.dirty_buckets import LOCK_EVENTS_SHARED, RollupState
from plugins.observability.rollups.histogram import Histogram

BucketKey = tuple[datetime, str, str]
# The start of a step, and the values of the dimensions of a group.
StepKey = tuple[Any, ...]

# Up to this number, series are looked up one by one.
_FEW_SERIES_MAX = 100
# A longer window may have so many events that planning each query with its parameters pays off.
_FEW_EVENTS_WINDOW_MAX = timedelta(days=2)
_PERCENTILES_PREFIX = "percentiles_"


class ActiveGroup(msgspec.Struct, frozen=True):
    """A group that has events.

    Args:
        key: The values of its dimensions.
        groups: How many groups there are.
        endpoints: How many endpoints the group has.
        methods: Its methods.
        hits: The number of its requests.
        errors: The number of those whose status is an error.
        error_rate: The share of these; not rounded.
        first_seen: When the first of them happened.
        last_seen: When the last of them happened.
    """

    key: GroupKey
    groups: int
    endpoints: int
    methods: Sequence[str]
    hits: int
    errors: int
    error_rate: float
    first_seen: datetime
    last_seen: datetime


class QuerySession:
    """A REPEATABLE READ transaction and the series of a request; ``open`` makes one.

    Every query takes a plan of this session: the plan and the rollups that it reads belong to one snapshot.

    Args:
        connection: In the transaction.
        scope: The scope of the request.
        state: The state of the rollups in the snapshot.
        series: The condition for the series of the scope.
        parameters: Of that condition and of the scope.
        coarse: How rollups by service and method tell these series from others; None if they cannot.
        keeps_plans: Whether each query is planned once for a connection. It is prepared at once then: a pool passes its
            connections round, and each would plan it several times before it is prepared by itself.
        has_continuous_aggregates: Whether rollups are these.
    """

    def __init__(
        self,
        connection: Connection[TupleRow],
        scope: Scope,
        state: RollupState,
        series: SeriesCondition,
        parameters: Mapping[str, Any],
        coarse: Coarse | None = None,
        *,
        keeps_plans: bool = False,
        has_continuous_aggregates: bool = False,
    ) -> None:
        self.state = state
        self._connection = connection
        self._scope = scope
        self._series: SeriesCondition = series
        self._parameters = parameters
        self._coarse: Coarse | None = coarse
        self._prepare = True if keeps_plans else None
        self._has_continuous_aggregates = has_continuous_aggregates

    @classmethod
    @contextmanager
    def open(cls, db: Database, scope: Scope, *, approx: bool) -> Iterator[QuerySession]:
        """Begin a REPEATABLE READ transaction, and look up the state of the rollups and the series of a scope.

        While it is open, retention removes no events.

        Args:
            db: The database.
            scope: The scope of the request.
            approx: Whether only dirty hours and the edges of the window are read from events.
        """
        with db.transaction(repeatable_read=True, begin_with=LOCK_EVENTS_SHARED) as connection:
            window = scope.window
            reads_few_events = approx or window.end - window.start <= _FEW_EVENTS_WINDOW_MAX
            parameters = {
                **scope.parameters,
                "start": window.start,
                "end": window.end,
                "approx": approx,
                "few_series_max": _FEW_SERIES_MAX if reads_few_events else 0,
            }
            (row,) = connection.execute(opening_query(scope.filters), parameters)
            dirty_hours, first_dirty_hour, from_times, plan_cache_mode, has_continuous_aggregates, *matching = row
            state = RollupState.from_columns(dirty_hours, first_dirty_hour, from_times)
            series: SeriesCondition
            if scope.filters:
                numbers, services, methods = matching
                series = _condition(numbers)
                of_series = {"series": numbers, "matching_services": services, "matching_methods": methods}
            else:
                (numbers,) = matching
                series = "all_series" if numbers is None else _condition(numbers)
                of_series = {"series": numbers}
            of_series |= scope.parameters
            coarse: Coarse | None = None
            if scope.is_coarse:
                coarse = "one_method" if scope.filters else "coarse_account"
            keeps_plans = plan_cache_mode == "force_generic_plan"
            yield cls(
                connection,
                scope,
                state,
                series,
                of_series,
                coarse,
                keeps_plans=keeps_plans,
                has_continuous_aggregates=has_continuous_aggregates,
            )

    def for_groups(self, dimensions: tuple[Dimension, ...], groups: Collection[GroupKey]) -> QuerySession:
        """Return a session in the same transaction for the series of some groups of the scope."""
        shown = group_parameters(dimensions, groups)
        if not shown:
            return self
        query = series_of_groups_query(dimensions, self._scope.filters)
        ((numbers,),) = self._connection.execute(query, {**self._parameters, **shown})
        return QuerySession(
            self._connection,
            self._scope,
            self.state,
            _condition(numbers),
            {**self._parameters, "series": numbers},
            keeps_plans=self._prepare is True,
            has_continuous_aggregates=self._has_continuous_aggregates,
        )

    def plan(self, coarsest: Resolution, window: Span | None = None) -> ReadPlan:
        """Plan what is read for the window of the scope, or for a part of it."""
        return make_plan(window or self._scope.window, self.state.dirty_hours, self.state.watermarks, coarsest)

    def fresh_until(self, now: datetime) -> datetime:
        """Return the time before which rollups include every event."""
        return self.state.first_dirty_hour or now

    def knows_latencies(self, plan: ReadPlan, dimensions: Collection[Dimension] = ()) -> bool:
        """Tell whether what a plan reads has the latencies of requests: rollups have none by status."""
        return plan.source is Resolution.RAW or ("status_code" not in dimensions and self._scope.statuses is None)

    def totals(self, plan: ReadPlan, error_from: int) -> RequestTotals:
        """Sum up all requests."""
        rows = self._run("totals", plan, "totals", coarse=self._coarse, error_from=error_from)
        return self._by_key(rows, 0, plan).get((), RequestTotals())

    def totals_by_group(
        self, plan: ReadPlan, error_from: int, dimensions: tuple[Dimension, ...]
    ) -> dict[GroupKey, RequestTotals]:
        """Sum up the requests of each group that has some."""
        # Rollups by service and method know statuses, and are a fraction of those by series.
        only_statuses = dimensions == ("status_code",)
        rows = self._run(
            "totals_by_status" if only_statuses else "totals_by_group",
            plan,
            _totals_measures(dimensions),
            coarse=self._coarse if only_statuses else None,
            group_by=dimensions,
            error_from=error_from,
        )
        return self._by_key(rows, len(dimensions), plan, dimensions)

    def active_groups(
        self, plan: ReadPlan, dimensions: tuple[Dimension, ...], order: tuple[str, ...], limit: int, offset: int
    ) -> Sequence[ActiveGroup]:
        """Return groups with their first and last event in the window.

        Args:
            plan: For the whole window.
            dimensions: Those of the groups, except for the status.
            order: Names of columns; a leading ``-`` sorts descending.
            limit: Groups at most.
            offset: Groups to skip.
        """
        seen = _since(plan.days, self.state.watermarks.raw)
        rows = self._run(
            "activity_by_group",
            plan,
            "totals",
            group_by=dimensions,
            order=order,
            error_from=DEFAULT_ERROR_FROM,
            seen_starts=[span.start for span in seen],
            seen_ends=[span.end for span in seen],
            start=self._scope.window.start,
            end=self._scope.window.end,
            limit=limit,
            offset=offset,
        )
        width = len(dimensions)
        return [ActiveGroup(row[:width], *row[width:]) for row in rows]

    def totals_by_bucket(
        self, plan: ReadPlan, bucket: Resolution, error_from: int, limit: int
    ) -> dict[BucketKey, RequestTotals]:
        """Sum up the requests of each hour or day, service and endpoint; the newest bucket first."""
        rows = self._run("totals_by_bucket", plan, "totals", bucket=bucket, error_from=error_from, limit=limit)
        return {(start, service, endpoint): RequestTotals(*sums) for start, service, endpoint, *sums in rows}

    def totals_by_step(
        self, plan: ReadPlan, step: timedelta, error_from: int, dimensions: tuple[Dimension, ...] = ()
    ) -> dict[StepKey, RequestTotals]:
        """Sum up the requests of each step, or of each step and group, that has some."""
        name: LiteralString = "totals_by_step_and_group"
        if not dimensions:
            name = "totals_by_step"
        elif dimensions == ("status_code",):
            name = "totals_by_step_and_status"
        rows = self._run(
            name,
            plan,
            _totals_measures(dimensions),
            coarse=None if name == "totals_by_step_and_group" else self._coarse,
            group_by=dimensions,
            step=step,
            error_from=error_from,
        )
        return self._by_key(rows, 1 + len(dimensions), plan, dimensions)

    def totals_and_histogram(self, plan: ReadPlan, error_from: int) -> tuple[RequestTotals, Histogram]:
        """Return the totals and the latency histogram of all requests, in one query."""
        rows = self._run(
            "totals_and_histogram",
            plan,
            "totals_and_histograms",
            coarse=self._coarse,
            error_from=error_from,
        )
        return (
            (RequestTotals(*rows[0][:-1]), Histogram(rows[0][-1] or "")) if rows else (RequestTotals(), Histogram(""))
        )

    def totals_and_percentiles(
        self, plan: ReadPlan, events: ReadPlan, error_from: int, percentiles: Sequence[float]
    ) -> tuple[RequestTotals, Sequence[float | None]]:
        """Return totals and exact percentiles of all requests, in one query.

        Args:
            plan: For the totals.
            events: For the percentiles; has nothing but events.
            error_from: The lowest status that is an error.
            percentiles: From 0 to 100.
        """
        fractions = _fractions(percentiles)
        if plan == events:
            rows = self._run("totals_and_percentiles", plan, "latencies", error_from=error_from, fractions=fractions)
            *sums, found = rows[0] if rows else (None,)
        else:
            query = build_totals_and_percentiles(
                self._spec("totals", plan, "totals", coarse=self._coarse),
                self._spec("percentiles", events, "latencies", prefix=_PERCENTILES_PREFIX),
            )
            parameters = {
                **self._parameters,
                "error_from": error_from,
                "fractions": fractions,
                **bounds(plan),
                **bounds(events, _PERCENTILES_PREFIX),
            }
            ((*sums, found),) = self._connection.execute(query, parameters, prepare=self._prepare)
        return RequestTotals(*sums), found or _no_percentiles(percentiles)

    def hits_up_to(self, events: ReadPlan, latency_ms: int) -> tuple[int, int]:
        """Return how many requests took at most some time, and how many have a latency at all.

        Args:
            events: A plan that has nothing but events.
            latency_ms: The time.
        """
        rows = self._run("latencies_up_to", events, "latencies", latency_ms=latency_ms)
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    def histogram(self, plan: ReadPlan) -> Histogram:
        """Return the latency histogram of all requests."""
        rows = self._run("histogram", plan, "histograms", coarse=self._coarse)
        return Histogram(rows[0][0] or "" if rows else "")

    def histogram_by_group(self, plan: ReadPlan, dimensions: tuple[Dimension, ...]) -> dict[GroupKey, Histogram]:
        """Return the latency histogram of each group. Rollups have none by status."""
        self._connection.execute(QUERIES["raise_work_mem"])
        rows = self._run("histogram_by_group", plan, "histograms", group_by=dimensions)
        return {tuple(key): Histogram(packed or "") for *key, packed in rows}

    def histogram_by_bucket(self, plan: ReadPlan, bucket: Resolution) -> dict[BucketKey, Histogram]:
        """Return the latency histogram of each hour or day, service and endpoint."""
        self._connection.execute(QUERIES["raise_work_mem"])
        rows = self._run("histogram_by_bucket", plan, "histograms", bucket=bucket)
        return {(start, service, endpoint): Histogram(packed or "") for start, service, endpoint, packed in rows}

    def histogram_by_step(
        self, plan: ReadPlan, step: timedelta, dimensions: tuple[Dimension, ...] = ()
    ) -> dict[StepKey, Histogram]:
        """Return the latency histogram of each step, or of each step and group, that has requests."""
        rows = self._run(
            "histogram_by_step_and_group" if dimensions else "histogram_by_step",
            plan,
            "histograms",
            coarse=None if dimensions else self._coarse,
            group_by=dimensions,
            step=step,
        )
        return {tuple(key): Histogram(packed or "") for *key, packed in rows}

    def percentiles_by_group(
        self, events: ReadPlan, dimensions: tuple[Dimension, ...], percentiles: Sequence[float]
    ) -> dict[GroupKey, Sequence[float | None]]:
        """Compute exact percentiles of each group. The plan has nothing but events."""
        fractions = _fractions(percentiles)
        rows = self._run("percentiles_by_group", events, "latencies", group_by=dimensions, fractions=fractions)
        return {tuple(key): values or _no_percentiles(percentiles) for *key, values in rows}

    def percentiles_by_bucket(
        self, events: ReadPlan, bucket: Resolution, percentiles: Sequence[float]
    ) -> dict[BucketKey, Sequence[float | None]]:
        """Compute exact percentiles of each hour or day, service and endpoint. The plan has nothing but events."""
        fractions = _fractions(percentiles)
        rows = self._run("percentiles_by_bucket", events, "latencies", bucket=bucket, fractions=fractions)
        return {tuple(key): values or _no_percentiles(percentiles) for *key, values in rows}

    def percentiles_by_step(
        self, events: ReadPlan, step: timedelta, percentiles: Sequence[float], dimensions: tuple[Dimension, ...] = ()
    ) -> dict[StepKey, Sequence[float | None]]:
        """Compute exact percentiles of each step, or of each step and group. The plan has nothing but events."""
        rows = self._run(
            "percentiles_by_step_and_group" if dimensions else "percentiles_by_step",
            events,
            "latencies",
            group_by=dimensions,
            step=step,
            fractions=_fractions(percentiles),
        )
        return {tuple(key): values or _no_percentiles(percentiles) for *key, values in rows}

    def _run(
        self,
        name: LiteralString,
        plan: ReadPlan,
        measures: Measures,
        *,
        coarse: Coarse | None = None,
        bucket: Resolution | None = None,
        group_by: tuple[Dimension, ...] = (),
        order: tuple[str, ...] = (),
        **parameters: Any,
    ) -> Sequence[TupleRow]:
        if not plan.parts:
            return []
        event_time: EventTime = "no_time"
        if "step" in parameters:
            event_time = "step_of_event"
        elif bucket or name == "activity_by_group":
            event_time = "hour_of_event"
        spec = self._spec(
            name, plan, measures, coarse=coarse, event_time=event_time, bucket=bucket, group_by=group_by, order=order
        )
        return self._connection.execute(
            build_query(spec), {**self._parameters, **parameters, **bounds(plan)}, prepare=self._prepare
        ).fetchall()

    def _spec(self, name: LiteralString, plan: ReadPlan, measures: Measures, **given: Any) -> QuerySpec:
        some_statuses = self._scope.statuses is not None
        if some_statuses and measures == "totals":
            measures = "totals_of_statuses"
        return QuerySpec(
            name,
            measures,
            self._series,
            span_counts(plan),
            some_statuses=some_statuses,
            has_continuous_aggregates=self._has_continuous_aggregates,
            **given,
        )

    def _by_key(
        self, rows: Sequence[TupleRow], width: int, plan: ReadPlan, dimensions: Collection[Dimension] = ()
    ) -> dict[tuple[Any, ...], RequestTotals]:
        """Return totals by the first columns of their rows, without latencies where not all of them are known."""
        totals = {tuple(row[:width]): RequestTotals(*row[width:]) for row in rows}
        if self.knows_latencies(plan, dimensions):
            return totals
        return {key: RequestTotals(each.hits, each.errors) for key, each in totals.items()}


def _condition(series: str) -> SeriesCondition:
    """Return the condition for the series whose numbers are in an array, such as ``{1,2}``."""
    return "many_series" if series.count(",") >= _FEW_SERIES_MAX else "few_series"


def _since(spans: Sequence[Span], start: datetime) -> Sequence[Span]:
    """Return what is left of spans from a time on."""
    return [Span(max(span.start, start), span.end) for span in spans if span.end > start]


def _totals_measures(dimensions: Collection[Dimension]) -> Measures:
    return "totals_by_status" if "status_code" in dimensions else "totals"


def _no_percentiles(percentiles: Sequence[float]) -> Sequence[float | None]:
    """Return the percentiles of requests none of which has a latency."""
    return [None] * len(percentiles)


def _fractions(percentiles: Sequence[float]) -> list[float]:
    return [percentile / 100 for percentile in percentiles]
