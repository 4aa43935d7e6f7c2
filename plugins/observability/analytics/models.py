"""Parameters and responses of the analytics, with the names of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from plugins.observability.resolution import Adjective, Resolution, Span

Granularity = Literal["auto", "hourly", "daily"]
Basis = Literal["raw", "rollup"]
SortKey = Literal["hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms", "p95_latency_ms"]
ErrorFrom = Annotated[int, msgspec.Meta(ge=100, le=599)]
Percentages = Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=100)], ...], msgspec.Meta(max_length=20)]
PercentilesMs = Mapping[str, float | None]
Row = TypeVar("Row")

DEFAULT_ERROR_FROM = 500


class WindowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of every analytics endpoint.

    Args:
        start: ISO 8601 date or time; the default is some time before the end, how long depends on the endpoint.
        end: ISO 8601 date or time, inclusive; a date alone is the end of that day, UTC. Now by default.
        service: Of this service only; case-insensitive, as are endpoint and method.
        endpoint: Of this endpoint only.
        application: Of the services that this application owns only.
    """

    start: str | None = None
    end: str | None = None
    service: str | None = None
    endpoint: str | None = None
    application: str | None = None


class BucketsQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of ``hourly/`` and ``daily/``.

    Args:
        limit: Rows at most.
        approx: Percentiles from rollups.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    approx: bool = False


class TotalsQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters that ``kpis/`` and ``top-endpoints/`` share.

    Args:
        method: HTTP method; read from the events unless ``approx``.
        error_from: The lowest status that is an error; any but 500 is read from the events unless ``approx``.
        granularity: Which rollups to read; ``auto`` reads hourly ones for up to two days, daily ones beyond.
        approx: Answer every filter, and percentiles, from rollups.
    """

    method: str | None = None
    error_from: ErrorFrom = DEFAULT_ERROR_FROM
    granularity: Granularity = "auto"
    approx: bool = False


class KpiQuery(TotalsQuery, frozen=True, kw_only=True):
    """Parameters of ``kpis/``.

    Args:
        percentiles: Further percentiles, from 0 to 100.
    """

    percentiles: Percentages = ()


class TopQuery(TotalsQuery, frozen=True, kw_only=True):
    """Parameters of ``top-endpoints/``.

    Args:
        limit: Rows at most.
        sort_by: The figure to rank by.
        direction: ``desc`` has the largest first.
        with_p95: Give each row its 95th percentile.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20
    sort_by: SortKey = "hits"
    direction: Literal["asc", "desc"] = "desc"
    with_p95: bool = False


class TimeseriesQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of ``timeseries/``.

    Args:
        step: A number and m, h or d, from 1m to 1d. Steps are aligned to 2000-01-01T00:00Z.
        method: HTTP method.
        error_from: The lowest status that is an error.
        percentiles: Percentiles of each step, from 0 to 100.
        approx: Percentiles from rollups, where the step is whole hours.
    """

    step: str = "1h"
    method: str | None = None
    error_from: ErrorFrom = DEFAULT_ERROR_FROM
    percentiles: Percentages = ()
    approx: bool = False


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

    def figures(self) -> dict[str, Any]:
        """Return the fields that every response has; the error rate is rounded to four places."""
        return {
            "hits": self.hits,
            "errors": self.errors,
            "error_rate": round(self.errors / self.hits, 4) if self.hits else 0.0,
            "avg_latency_ms": self.latency_avg_ms,
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


class CoveredWindow(msgspec.Struct, frozen=True):
    """The window that a response covers, where it differs from the requested one.

    It begins or ends with a whole bucket where events were removed, and is smaller where rollups were removed as well.

    Args:
        start: Inclusive.
        end: Exclusive.
    """

    start: datetime
    end: datetime


class Kpis(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response of ``kpis/``.

    Args:
        source: The coarsest resolution that was read.
        fresh_until: Rollups include every event before this; later ones were read as such.
        percentiles: Those that were asked for.
        p95_max_relative_error: The bound of the error of ``p95_latency_ms``; left out where it is exact.
        covered: Left out where it is the requested window.
    """

    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    p95_latency_ms: float | None
    max_latency_ms: int | None
    source: Adjective
    fresh_until: datetime
    percentiles: Sequence[Percentile] = ()
    p95_max_relative_error: float | None = None
    covered: CoveredWindow | None = None


class EndpointRow(msgspec.Struct, frozen=True):
    """A row of ``top-endpoints/``; the percentile is None unless it was asked for."""

    service: str
    endpoint: str
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    p95_latency_ms: float | None
    max_latency_ms: int | None


class HourRow(msgspec.Struct, frozen=True):
    """A row of ``hourly/``."""

    bucket: datetime
    service: str
    endpoint: str
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    max_latency_ms: int | None


class DayRow(msgspec.Struct, frozen=True):
    """A row of ``daily/``."""

    bucket: datetime
    service: str
    endpoint: str
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    p95_latency_ms: float | None
    max_latency_ms: int | None


class RowSet(msgspec.Struct, Generic[Row], frozen=True):
    """The rows of a list, and where they come from; the fields are explained at ``Kpis``."""

    rows: Sequence[Row]
    source: Adjective
    fresh_until: datetime
    covered: CoveredWindow | None = None
    p95_max_relative_error: float = 0.0

    @property
    def metadata(self) -> dict[str, str | float]:
        """All but the rows, for headers and envelopes; ``covered`` is an ISO 8601 interval."""
        metadata: dict[str, str | float] = {"source": self.source, "fresh_until": iso_time(self.fresh_until)}
        if self.covered is not None:
            metadata["covered"] = f"{iso_time(self.covered.start)}/{iso_time(self.covered.end)}"
        if self.p95_max_relative_error:
            metadata["p95_max_relative_error"] = self.p95_max_relative_error
        return metadata


class TimeseriesStep(msgspec.Struct, frozen=True):
    """The requests of one step.

    Args:
        start: When it begins. The first and the last step of a window include only what lies in the window.
        percentiles_ms: By percentile, such as ``99.9``; None without hits.
    """

    start: datetime
    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    max_latency_ms: int | None
    percentiles_ms: PercentilesMs


class Timeseries(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response of ``timeseries/``.

    Args:
        step_s: Length of a step, in seconds.
        source: The coarsest resolution that was read.
        fresh_until: Rollups include every event before this; later ones were read as such.
        steps: All of the window, in order, those without hits as well.
        basis: What percentiles were computed from; left out without any.
        max_relative_error: The bound of the error of percentiles, relative to the value; 0 is exact.
        covered: Left out where it is the requested window.
    """

    step_s: int
    source: Adjective
    fresh_until: datetime
    steps: Sequence[TimeseriesStep]
    basis: Basis | None = None
    max_relative_error: float | None = None
    covered: CoveredWindow | None = None


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
