"""Run the queries of the analytics, all those of one question at one moment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kernel import Database
from plugins.observability.analytics.composing import (
    QUERIES,
    Condition,
    Kind,
    Place,
    Shape,
    Unit,
    bounds_of,
    compose,
    compose_beside,
    compose_see,
    parts_of,
)
from plugins.observability.analytics.model import Totals
from plugins.observability.rollups.bins import Histogram
from plugins.observability.rollups.plan import Kept, Level, Plan, Span, make_plan
from plugins.observability.rollups.touched import HOLD_EVENTS, Connected, read_known

# Up to this, each series is looked up by itself.
_SINGLE_SERIES_MAX = 100
_BESIDE = "beside_"
# How to find the events of a longer window is worth planning.
_FEW_EVENTS_UP_TO = timedelta(days=2)


class Scope(msgspec.Struct, frozen=True):
    """Which series a question is about.

    Args:
        account: Whose.
        service: Of this service.
        endpoint: Of this endpoint.
        method: Of this method.
        services: Of one of these services.
    """

    account: int
    service: str | None = None
    endpoint: str | None = None
    method: str | None = None
    services: tuple[str, ...] | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        """The names of what it is narrowed by; none if every series of the account is meant."""
        given = {"service": self.service, "endpoint": self.endpoint, "method": self.method, "services": self.services}
        return tuple(name for name, value in given.items() if value is not None)

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of queries."""
        services = None if self.services is None else list(self.services)
        return {**msgspec.structs.asdict(self), "services": services}


class Moment:
    """The database at one moment, for the queries of one question.

    Args:
        connection: In a transaction that sees one moment.
        scope: What the question is about.
        window: The time it is about.
        approx: Whether what rollups know is not read from the events.
    """

    def __init__(self, connection: Connected, scope: Scope, window: Span, *, approx: bool) -> None:
        self._connection = connection
        self._is_coarse = scope.endpoint is None
        self._values = scope.values
        reads_few_events = approx or window.end - window.start <= _FEW_EVENTS_UP_TO
        given = {**self._values, "few_series_max": _SINGLE_SERIES_MAX if reads_few_events else 0}
        self._known, (_, *found) = read_known(connection, window, compose_see(scope.filters), given)
        self._condition: Condition
        if scope.filters:
            series, services, methods = found
            self._values |= {"found_services": services, "found_methods": methods}
            self._narrow(series)
        else:
            (is_alone,) = found
            self._condition = "of_everyone" if is_alone else "of_account"

    def _narrow(self, series: Sequence[int]) -> None:
        self._values["series"] = series
        self._condition = "of_many_series" if len(series) > _SINGLE_SERIES_MAX else "of_series"

    def narrow_to(self, endpoints: Collection[tuple[str, str]]) -> None:
        """Ask about these services and endpoints only from now on, of those the question is about."""
        services, names = [service for service, _ in endpoints], [endpoint for _, endpoint in endpoints]
        given = {**self._values, "shown_services": services, "shown_endpoints": names}
        ((series,),) = self._connection.execute(QUERIES["match_endpoints"], given)
        self._is_coarse = False
        self._narrow(series)

    @property
    def kept(self) -> Kept:
        """From when on each level has everything."""
        return self._known.kept

    @property
    def _cells(self) -> Kind:
        return "cells_coarse" if self._is_coarse else "cells"

    @property
    def _histograms(self) -> Kind:
        return "histograms_coarse" if self._is_coarse else "histograms"

    @property
    def _both(self) -> Kind:
        return "both_coarse" if self._is_coarse else "both"

    def plan(self, window: Span, coarsest: Level) -> Plan:
        """Cut the window, or a part of it, into what is read from where."""
        return make_plan(window, self._known.touched, self.kept, coarsest)

    def fresh_until(self, now: datetime) -> datetime:
        """Return up to when rollups know every event."""
        return self._known.first_touched or now

    def totals(self, plan: Plan, error_from: int) -> Totals:
        """Sum up everything, from the coarser level where that can tell the series of the question apart."""
        rows = self._run("totals", plan, self._cells, error_from=error_from)
        return Totals(*rows[0]) if rows else Totals()

    def totals_by_endpoint(self, plan: Plan, error_from: int) -> dict[tuple[str, str], Totals]:
        """Sum up each service and endpoint."""
        rows = self._run("totals_by_endpoint", plan, "cells", error_from=error_from)
        return {(service, endpoint): Totals(*sums) for service, endpoint, *sums in rows}

    def totals_by_bucket(
        self, plan: Plan, unit: Unit, error_from: int, limit: int
    ) -> dict[tuple[datetime, str, str], Totals]:
        """Sum up each hour or day, service and endpoint; the newest first."""
        rows = self._run("totals_by_bucket", plan, "cells", unit=unit, error_from=error_from, limit=limit)
        return {(bucket, service, endpoint): Totals(*sums) for bucket, service, endpoint, *sums in rows}

    def histogram(self, plan: Plan) -> Histogram:
        """Return hits by bin, from the coarser level where that can tell the series of the question apart."""
        rows = self._run("histogram", plan, self._histograms)
        return Histogram(rows[0][0] or "" if rows else "")

    def totals_and_histogram(self, plan: Plan, error_from: int) -> tuple[Totals, Histogram]:
        """Return both at once."""
        rows = self._run("totals_and_histogram", plan, self._both, error_from=error_from)
        return (Totals(*rows[0][:4]), Histogram(rows[0][4] or "")) if rows else (Totals(), Histogram(""))

    def totals_and_percentiles(
        self, plan: Plan, error_from: int, percentiles: Sequence[float]
    ) -> tuple[Totals, Sequence[float | None]]:
        """Return both at once, from the events, exactly. The plan has nothing but events."""
        fractions = _fractions(percentiles)
        rows = self._run("totals_and_percentiles", plan, "latencies", error_from=error_from, fractions=fractions)
        found = rows[0] if rows else (0, 0, 0, None, None)
        return Totals(*found[:4]), found[4] or [None] * len(percentiles)

    def totals_beside_percentiles(
        self, plan: Plan, events: Plan, error_from: int, percentiles: Sequence[float]
    ) -> tuple[Totals, Sequence[float | None]]:
        """Return both at once: totals by one plan, percentiles by another that has nothing but events."""
        shape = self._shape("percentiles", events, "latencies", "any_time")
        query = compose_beside(
            self._shape("totals", plan, self._cells, "any_time"), msgspec.structs.replace(shape, prefix=_BESIDE)
        )
        values = {"error_from": error_from, "fractions": _fractions(percentiles)}
        bounds = {**bounds_of(plan), **bounds_of(events, _BESIDE)}
        ((*sums, found),) = self._connection.execute(query, {**self._values, **values, **bounds})
        return Totals(*sums), found or [None] * len(percentiles)

    def histogram_by_endpoint(self, plan: Plan) -> dict[tuple[Any, ...], Histogram]:
        """Return hits by bin of each service and endpoint."""
        self._connection.execute(QUERIES["make_room_to_sort"])
        return _by_key(self._run("histogram_by_endpoint", plan, "histograms"))

    def histogram_by_bucket(self, plan: Plan, unit: Unit) -> dict[tuple[Any, ...], Histogram]:
        """Return hits by bin of each hour or day, service and endpoint."""
        self._connection.execute(QUERIES["make_room_to_sort"])
        return _by_key(self._run("histogram_by_bucket", plan, "histograms", unit=unit))

    def percentiles_by_endpoint(self, plan: Plan, percentile: float) -> dict[tuple[Any, ...], float]:
        """Compute a percentile of each service and endpoint from the events, exactly."""
        rows = self._run("percentiles_by_endpoint", plan, "latencies", fractions=_fractions([percentile]))
        return {tuple(key): values[0] for *key, values in rows}

    def percentiles_by_bucket(self, plan: Plan, unit: Unit, percentile: float) -> dict[tuple[Any, ...], float]:
        """Compute a percentile of each hour or day, service and endpoint from the events, exactly."""
        fractions = _fractions([percentile])
        rows = self._run("percentiles_by_bucket", plan, "latencies", unit=unit, fractions=fractions)
        return {tuple(key): values[0] for *key, values in rows}

    def totals_by_step(self, plan: Plan, step: timedelta, error_from: int) -> dict[datetime, Totals]:
        """Sum up each step of time that has hits."""
        rows = self._run("totals_by_step", plan, self._cells, step=step, error_from=error_from)
        return {start: Totals(*sums) for start, *sums in rows}

    def histogram_by_step(self, plan: Plan, step: timedelta) -> dict[datetime, Histogram]:
        """Return hits by bin of each step of time, from the coarser level where that will do."""
        rows = self._run("histogram_by_step", plan, self._histograms, step=step)
        return {start: Histogram(packed) for start, packed in rows}

    def percentiles_by_step(
        self, plan: Plan, step: timedelta, percentiles: Sequence[float]
    ) -> dict[datetime, Sequence[float]]:
        """Compute percentiles of each step of time from the events, exactly. The plan has nothing but events."""
        return dict(self._run("percentiles_by_step", plan, "latencies", step=step, fractions=_fractions(percentiles)))

    def _run(self, name: str, plan: Plan, kind: Kind, unit: Unit | None = None, **values: Any) -> Sequence[Any]:
        place: Place = "step_of_event" if "step" in values else "hour_of_event" if unit else "any_time"
        shape = self._shape(name, plan, kind, place, unit)
        if not shape.parts:
            return []
        return self._connection.execute(compose(shape), {**self._values, **values, **bounds_of(plan)}).fetchall()

    def _shape(self, name: str, plan: Plan, kind: Kind, place: Place, unit: Unit | None = None) -> Shape:
        return Shape(name, kind, self._condition, place, unit, parts_of(plan))


class Reader:
    """Opens moments.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextmanager
    def moment(self, scope: Scope, window: Span, *, approx: bool) -> Iterator[Moment]:
        """See the database at one moment: rollups, and which of them to trust, must belong together."""
        with self._db.transaction(repeatable_read=True, begin_with=HOLD_EVENTS) as connection:
            yield Moment(connection, scope, window, approx=approx)


def _fractions(percentiles: Sequence[float]) -> list[float]:
    return [percentile / 100 for percentile in percentiles]


def _by_key(rows: Sequence[Any]) -> dict[tuple[Any, ...], Histogram]:
    return {tuple(key): Histogram(packed) for *key, packed in rows}
