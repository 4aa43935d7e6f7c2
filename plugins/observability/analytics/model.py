"""Parameters and answers of the analytics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

Granularity = Literal["auto", "hourly", "daily"]
Source = Literal["hourly", "daily", "raw"]
Basis = Literal["raw", "rollup"]
SortKey = Literal["hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms", "p95_latency_ms"]
ErrorFrom = Annotated[int, msgspec.Meta(ge=100, le=599)]
Percentage = Annotated[float, msgspec.Meta(ge=0, le=100)]
DEFAULT_ERROR_FROM = 500
R = TypeVar("R")


class WindowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that every question takes.

    Args:
        start: ISO date or time; how long before the end by default depends on the question.
        end: ISO date or time, inclusive; a date alone is the end of that day, UTC. Now by default.
        service: Of this service only; without case, as all three.
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
        granularity: Which rollups to read; ``auto`` takes hours for up to two days, days beyond.
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

    percentiles: Annotated[tuple[Percentage, ...], msgspec.Meta(max_length=20)] = ()


class TopQuery(TotalsQuery, frozen=True, kw_only=True):
    """Parameters of ``top-endpoints/``.

    Args:
        limit: Rows at most.
        sort_by: What is ranked by.
        direction: ``desc`` has the largest first.
        with_p95: Give each row its 95th percentile.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20
    sort_by: SortKey = "hits"
    direction: Literal["asc", "desc"] = "desc"
    with_p95: bool = False


class Percentile(msgspec.Struct, frozen=True):
    """A percentile and how exact it is.

    Args:
        percentile: From 0 to 100.
        value_ms: In ms; None without hits.
        max_relative_error: By how much of itself the value may be off; 0 is exact.
        basis: What it was computed from.
    """

    percentile: float
    value_ms: float | None
    max_relative_error: float
    basis: Basis


class Covered(msgspec.Struct, frozen=True):
    """What an answer really covers: whole buckets where events are gone, and nothing where rollups are gone as well.

    Args:
        start: Its first moment.
        end: Up to but without this.
    """

    start: datetime
    end: datetime


class Totals(msgspec.Struct, frozen=True):
    """Sums over events.

    Args:
        hits: How many.
        errors: Those with a status that is an error.
        latency_sum_ms: Of all of them.
        latency_max_ms: Of the slowest; None without hits.
    """

    hits: int = 0
    errors: int = 0
    latency_sum_ms: int = 0
    latency_max_ms: int | None = None

    @property
    def error_rate(self) -> float:
        """Errors per hit, to four places."""
        return round(self.errors / self.hits, 4) if self.hits else 0.0

    @property
    def avg_latency_ms(self) -> float | None:
        """The mean latency; None without hits."""
        return self.latency_sum_ms / self.hits if self.hits else None


class Kpis(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of ``kpis/``.

    Args:
        source: The coarsest level that was read.
        fresh_until: Up to when rollups know every event; what is later was read from the events.
        percentiles: Those that were asked for.
        p95_max_relative_error: By how much of itself ``p95_latency_ms`` may be off; left out where it is exact.
        covered: Where it is not what was asked for.
    """

    hits: int
    errors: int
    error_rate: float
    avg_latency_ms: float | None
    p95_latency_ms: float | None
    max_latency_ms: int | None
    source: Source
    fresh_until: datetime
    percentiles: Sequence[Percentile] = ()
    p95_max_relative_error: float | None = None
    covered: Covered | None = None


class Found(msgspec.Struct, Generic[R], frozen=True):
    """Rows, and how exact they are.

    Args:
        rows: In order.
        source: The coarsest level that was read.
        fresh_until: Up to when rollups know every event; what is later was read from the events.
        covered: Where it is not what was asked for.
        p95_max_relative_error: By how much of themselves percentiles may be off.
    """

    rows: Sequence[R]
    source: Source
    fresh_until: datetime
    covered: Covered | None = None
    p95_max_relative_error: float = 0.0

    @property
    def about(self) -> dict[str, str | float]:
        """What there is to say beside the rows; ``covered`` as an ISO 8601 interval."""
        about: dict[str, str | float] = {"source": self.source, "fresh_until": _iso(self.fresh_until)}
        if self.covered is not None:
            about["covered"] = f"{_iso(self.covered.start)}/{_iso(self.covered.end)}"
        if self.p95_max_relative_error:
            about["p95_max_relative_error"] = self.p95_max_relative_error
        return about


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


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
