"""Parameters and responses of the analytics, with the names of the HTTP API."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from plugins.observability.analytics.grouping import (
    ENDPOINTS,
    P95,
    DimensionName,
    Direction,
    percentile_field,
)
from plugins.observability.models import INT32_MAX, StatusClass, StatusCode, status_range
from plugins.observability.resolution import Adjective, Resolution, Span
from plugins.observability.time_window import TimeWindowQuery

Granularity = Literal["auto", "hourly", "daily"]
Basis = Literal["raw", "rollup"]
ErrorFrom = Annotated[int, msgspec.Meta(ge=100, le=599)]
Percentages = Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=100)], ...], msgspec.Meta(max_length=20)]
GroupsMax = Annotated[int, msgspec.Meta(ge=1, le=200)]
# By percentile, from 0 to 100.
PercentilesMs = Mapping[float, float | None]
# Members in order. What it has depends on the request: a member for each dimension and for each percentile.
Row = dict[str, Any]

DEFAULT_ERROR_FROM = 500


class WindowQuery(TimeWindowQuery, frozen=True, kw_only=True):
    """Parameters of every analytics endpoint.

    Args:
        start: ISO 8601 date or time; the default is some time before the end, how long depends on the endpoint.
        end: ISO 8601 date or time, inclusive; a date alone is the end of that day, UTC. Now by default.
        service: Of this service only; case-insensitive, as are endpoint and method.
        endpoint: Of this endpoint only.
        application: Of the services that this application owns only.
    """

    service: str | None = None
    endpoint: str | None = None
    application: str | None = None


class BucketsQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of ``hourly/`` and ``daily/``.

    Args:
        limit: Rows at most.
        percentiles: Percentiles of latency, from 0 to 100; each is a column such as ``p99_latency_ms``.
        approx: Percentiles from rollups.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    percentiles: Percentages = ()
    approx: bool = False


class GroupedQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters that ``kpis/``, ``top-endpoints/`` and ``timeseries/`` share.

    Args:
        method: HTTP method; read from the events unless ``approx``.
        status_code: HTTP status; read from the events unless ``approx``: rollups know no latencies by status.
        status_class: The same of all statuses of a class, such as ``5xx``.
        error_from: The lowest status that is an error; any but 500 is read from the events unless ``approx``.
        percentiles: Percentiles of latency, from 0 to 100; each is a column such as ``p99_latency_ms``.
        group_by: Divide by ``service``, ``endpoint``, ``method``, ``status`` or ``application``, or several of them.
        sort_by: What groups are ordered by: ``hits`` by default, ``errors``, ``error_rate``, ``avg_latency_ms``,
            ``max_latency_ms``, or any percentile of latency, such as ``p99``.
        direction: ``desc``, the default, has the largest first.
        limit: Groups at most, 20 by default.
        approx: Answer every filter, and percentiles, from rollups.
    """

    method: str | None = None
    status_code: StatusCode | None = None
    status_class: StatusClass | None = None
    error_from: ErrorFrom = DEFAULT_ERROR_FROM
    percentiles: Percentages = ()
    group_by: tuple[DimensionName, ...] = ()
    sort_by: str | None = None
    direction: Direction | None = None
    limit: GroupsMax | None = None
    approx: bool = False

    @property
    def statuses(self) -> range | None:
        """The statuses that are let through; None for all."""
        return status_range(self.status_code, self.status_class)


class TotalsQuery(GroupedQuery, frozen=True, kw_only=True):
    """Parameters that ``kpis/`` and ``top-endpoints/`` share.

    Args:
        granularity: Which rollups to read; ``auto`` reads hourly ones for up to two days, daily ones beyond.
    """

    granularity: Granularity = "auto"


class KpiQuery(TotalsQuery, frozen=True, kw_only=True):
    """Parameters of ``kpis/``.

    Args:
        latency_ms: Also tell which share of requests took at most so long.
    """

    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] | None = None


class TopQuery(TotalsQuery, frozen=True, kw_only=True):
    """Parameters of ``top-endpoints/``.

    Args:
        group_by: What a row is about: ``service``, ``endpoint``, ``method``, ``status`` or ``application``, or several.
        sort_by: The figure to rank by: ``hits``, ``errors``, ``error_rate``, ``avg_latency_ms``, ``max_latency_ms``, or
            any percentile of latency, such as ``p99``.
        direction: ``desc`` has the largest first.
        limit: Rows at most.
        with_p95: Give each row its 95th percentile.
    """

    group_by: tuple[DimensionName, ...] = ENDPOINTS
    sort_by: str = "hits"
    direction: Direction = "desc"
    limit: GroupsMax = 20
    with_p95: bool = False


class TimeseriesQuery(GroupedQuery, frozen=True, kw_only=True):
    """Parameters of ``timeseries/``.

    Args:
        step: A number and m, h or d, from 1m to 1d. Steps are aligned to 2000-01-01T00:00Z.
        method: HTTP method.
        error_from: The lowest status that is an error.
        percentiles: Percentiles of each step, from 0 to 100.
        limit: Groups at most, 10 by default.
        approx: Percentiles from rollups, where the step is whole hours.
        histogram: Give each step its histogram of latencies.
    """

    step: str = "1h"
    histogram: bool = False


class ActivityQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of ``services/`` and ``endpoints/``.

    Args:
        start: ISO 8601 date or time: only what has events since then. All events by default.
        end: The same, inclusive: only what has events until then.
        search: Terms, all of which the name contains; case-insensitive.
        ordering: Members to sort by; a leading ``-`` sorts descending. By name by default.
        page: Number of the page, from 1.
        page_size: Items of a page.
    """

    search: str | None = None
    ordering: tuple[str, ...] = ()
    page: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None


class ServicesQuery(ActivityQuery, frozen=True, kw_only=True):
    """Parameters of ``services/``."""


class EndpointsQuery(ActivityQuery, frozen=True, kw_only=True):
    """Parameters of ``endpoints/``.

    Args:
        search: Terms, each of which the service or the endpoint contains; case-insensitive.
    """


class ActiveService(msgspec.Struct, frozen=True):
    """A service that has events.

    Args:
        service: Its name.
        endpoints: How many endpoints it has.
        first_seen: The time of its first event. Where events were removed, the hour or the day of it.
        last_seen: The same of its last event.
    """

    service: str
    endpoints: int
    hits: int
    errors: int
    error_rate: float
    first_seen: datetime
    last_seen: datetime


class ActiveEndpoint(msgspec.Struct, frozen=True):
    """An endpoint that has events; the times are those of ``ActiveService``.

    Args:
        methods: In order of their names.
    """

    service: str
    endpoint: str
    methods: Sequence[str]
    hits: int
    errors: int
    error_rate: float
    first_seen: datetime
    last_seen: datetime


class RequestTotals(msgspec.Struct, frozen=True):
    """Sums over requests.

    Args:
        hits: Their number.
        errors: The number of those whose status is an error.
        latency_hits: The number of those whose latency was measured.
        latency_sum_ms: The sum of their latencies.
        latency_min_ms: The lowest latency; None without any.
        latency_max_ms: The highest latency; None without any.
    """

    hits: int = 0
    errors: int = 0
    latency_hits: int = 0
    latency_sum_ms: int = 0
    latency_min_ms: int | None = None
    latency_max_ms: int | None = None

    @property
    def latency_avg_ms(self) -> float | None:
        """The average latency; None without any."""
        return self.latency_sum_ms / self.latency_hits if self.latency_hits else None

    def figures(self, percentiles_ms: PercentilesMs = MappingProxyType({})) -> Row:
        """Return the members that every response has; the error rate is rounded to four places.

        Args:
            percentiles_ms: Percentiles of latency; each is a member.
        """
        return {
            "hits": self.hits,
            "errors": self.errors,
            "error_rate": round(self.errors / self.hits, 4) if self.hits else 0.0,
            "avg_latency_ms": self.latency_avg_ms,
            **{percentile_field(each): percentiles_ms[each] for each in sorted(percentiles_ms)},
            "max_latency_ms": self.latency_max_ms,
        }


class Percentile(msgspec.Struct, frozen=True):
    """A percentile and how exact it is.

    Args:
        percentile: From 0 to 100.
        value_ms: In ms; None without hits.
        max_relative_error: The bound of the error, relative to the value; 0 is exact.
        basis: What it was computed from.
    """

    percentile: float
    value_ms: float | None
    max_relative_error: float
    basis: Basis


class LatencyShare(msgspec.Struct, frozen=True):
    """Which share of requests took at most some time.

    Args:
        latency_ms: The time.
        hits: The number of these requests.
        share: Of all whose latency was measured; None without any.
        max_relative_error: The share is that of a latency which is at most so much longer; 0 is exact.
        basis: What it was computed from.
    """

    latency_ms: int
    hits: int
    share: float | None
    max_relative_error: float
    basis: Basis


class CoveredWindow(msgspec.Struct, frozen=True):
    """The window that a response covers, where it differs from the requested one.

    It begins or ends with a whole bucket where events were removed, and is smaller where rollups were removed as well.

    Args:
        start: Inclusive.
        end: Exclusive.
    """

    start: datetime
    end: datetime


class Kpis(msgspec.Struct, frozen=True):
    """The response of ``kpis/``.

    Args:
        figures: Hits, errors and latencies.
        source: The coarsest resolution that was read.
        fresh_until: Rollups include every event before this; later ones were read as such.
        percentiles: Those that were asked for; empty are left out.
        latency_share: Which share of requests took at most ``latency_ms``; left out unless it was asked for.
        groups: A row for each group, in order; left out unless they were asked for.
        p95_max_relative_error: The bound of the error of ``p95_latency_ms``; left out where it is exact.
        covered: Left out where it is the requested window.
    """

    figures: Row
    source: Adjective
    fresh_until: datetime
    percentiles: Sequence[Percentile] = ()
    latency_share: LatencyShare | None = None
    groups: Sequence[Row] | None = None
    p95_max_relative_error: float | None = None
    covered: CoveredWindow | None = None

    @property
    def members(self) -> Row:
        """The members of the response."""
        members = {**self.figures, "source": self.source, "fresh_until": self.fresh_until}
        if self.percentiles:
            members["percentiles"] = self.percentiles
        optional = ("latency_share", "groups", "p95_max_relative_error", "covered")
        return members | {name: getattr(self, name) for name in optional if getattr(self, name) is not None}


class RowSet(msgspec.Struct, frozen=True):
    """The rows of a list, and where they come from; the fields are explained at ``Kpis``.

    Args:
        columns: The members of each row.
        rows: In order.
        percentiles: Those that were computed.
        max_relative_error: The bound of their error; 0 is exact.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    source: Adjective
    fresh_until: datetime
    covered: CoveredWindow | None = None
    percentiles: Collection[float] = ()
    max_relative_error: float = 0.0

    @property
    def metadata(self) -> dict[str, str | float]:
        """All but the rows, for headers and envelopes; ``covered`` is an ISO 8601 interval."""
        metadata: dict[str, str | float] = {"source": self.source, "fresh_until": iso_time(self.fresh_until)}
        if self.covered is not None:
            metadata["covered"] = f"{iso_time(self.covered.start)}/{iso_time(self.covered.end)}"
        if self.max_relative_error and P95 in self.percentiles:
            metadata["p95_max_relative_error"] = self.max_relative_error
        if self.max_relative_error and any(each != P95 for each in self.percentiles):
            metadata["percentiles_max_relative_error"] = self.max_relative_error
        return metadata


class TimeseriesStep(msgspec.Struct, frozen=True):
    """The requests of one step.

    Args:
        start: When it begins. The first and the last step of a window include only what lies in the window.
        percentiles_ms: By percentile, such as ``99.9``; None without hits.
        histogram: How many requests took at most each of ``histogram_bounds_ms``, and longer than the one before; left
            out unless it was asked for, and in groups.
    """

    start: datetime
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    max_latency_ms: int | None
    percentiles_ms: Mapping[str, float | None]
    histogram: Sequence[int] | msgspec.UnsetType = msgspec.UNSET


class Timeseries(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response of ``timeseries/``.

    Args:
        step_s: Length of a step, in seconds.
        source: The coarsest resolution that was read.
        fresh_until: Rollups include every event before this; later ones were read as such.
        steps: All of the window, in order, those without hits as well.
        groups: A row for each group, in order, with its figures over the window and its ``steps``; left out unless they
            were asked for.
        basis: What percentiles were computed from; left out without any.
        max_relative_error: The bound of the error of percentiles, relative to the value; 0 is exact.
        covered: Left out where it is the requested window.
        histogram_bounds_ms: The upper bounds of the latencies of ``histogram``, which may be 2 % longer.
    """

    step_s: int
    source: Adjective
    fresh_until: datetime
    steps: Sequence[TimeseriesStep]
    groups: Sequence[Row] | None = None
    basis: Basis | None = None
    max_relative_error: float | None = None
    covered: CoveredWindow | None = None
    histogram_bounds_ms: Sequence[int] | None = None


def basis_of(resolution: Resolution) -> Basis:
    """Return the API's name of what percentiles of a resolution are computed from."""
    return "raw" if resolution is Resolution.RAW else "rollup"


def covered_window(covered: Span | None, window: Span) -> CoveredWindow | None:
    """Return what was read, None of it if ``covered`` is None; None if that is the requested window."""
    covered = covered or Span(window.end, window.end)
    return CoveredWindow(covered.start, covered.end) if covered != window else None


def iso_time(time: datetime) -> str:
    """Format a time as JSON responses have it."""
    return time.isoformat().replace("+00:00", "Z")
