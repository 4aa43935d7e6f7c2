"""Compose and run the queries of the analytics: one for each question, over all parts of a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, LiteralString

import msgspec
from psycopg import sql

from kernel import Database, load_queries
from plugins.observability.analytics.model import Totals
from plugins.observability.rollups.bins import between_ms
from plugins.observability.rollups.plan import Kept, Level, Plan, Span, make_plan
from plugins.observability.rollups.touched import Connected, fresh_until, hold_events, kept_since, touched_hours

QUERIES = load_queries(__package__)
Unit = Literal["hour", "day"]
Kind = Literal["cells", "cells_coarse", "bins", "bins_coarse", "bins_of_endpoint", "latencies"]
_BINS: Mapping[Level, LiteralString] = {
    "day": QUERIES["bins_day"],
    "hour": QUERIES["bins_hour"],
    "raw": QUERIES["bins_raw"],
}
_PARTS: Mapping[Kind, Mapping[Level, LiteralString]] = {
    "cells": {"day": QUERIES["cells_day"], "hour": QUERIES["cells_hour"], "raw": QUERIES["cells_raw"]},
    "cells_coarse": {
        "day": QUERIES["cells_coarse_day"],
        "hour": QUERIES["cells_coarse_hour"],
        "raw": QUERIES["cells_coarse_raw"],
    },
    "bins": _BINS,
    "bins_coarse": {
        "day": QUERIES["bins_coarse_day"],
        "hour": QUERIES["bins_coarse_hour"],
        "raw": QUERIES["bins_coarse_raw"],
    },
    "bins_of_endpoint": _BINS,
    "latencies": {"raw": QUERIES["latencies_raw"]},
}
_PLACES: Mapping[Kind, str] = {
    "cells": "cells",
    "cells_coarse": "cells",
    "bins": "bins",
    "bins_coarse": "bins",
    "bins_of_endpoint": "bins",
    "latencies": "latencies",
}
# A part with bounds of its own reads no partition in vain; of more than these, planning costs more than it saves.
_SINGLE_SPANS_MAX = 6
# What a question is narrowed to: parameters, and the columns of what matches.
_FOUND = ("series", "found_services", "found_methods")
# Up to this, each series is looked up by itself.
_SINGLE_SERIES_MAX = 100
# Of an event, what it is counted under: events need no finer place than the bucket they are asked for.
_HOUR_OF_EVENT = sql.SQL("date_trunc('hour', time, 'UTC')")
_STEP_OF_EVENT = sql.SQL(QUERIES["step_of_event"])
_ANY_TIME = sql.SQL("NULL::timestamptz")


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
    def is_everything(self) -> bool:
        """Whether every series of the account is meant."""
        return all(each is None for each in (self.service, self.endpoint, self.method, self.services))

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
    """

    def __init__(self, connection: Connected, scope: Scope) -> None:
        self._connection = connection
        self._scope = scope
        self._values: dict[str, Any] = {**scope.values, **dict.fromkeys(_FOUND)}
        self._touched: dict[Span, Collection[datetime]] = {}
        self._condition = sql.SQL(QUERIES["of_account"])
        if not scope.is_everything:
            self._narrow("match_series")
        self.kept: Kept = kept_since(connection)

    def _narrow(self, name: Literal["match_series", "match_endpoints"], **values: Any) -> None:
        rows = self._connection.execute(QUERIES[name], {**self._values, **values}).fetchall()
        self._values |= {name: list({row[at] for row in rows}) for at, name in enumerate(_FOUND)}
        is_long = len(rows) > _SINGLE_SERIES_MAX
        self._condition = sql.SQL(QUERIES["of_many_series" if is_long else "of_series"])

    def narrow_to(self, endpoints: Collection[tuple[str, str]]) -> None:
        """Ask about these services and endpoints only from now on, of those the question is about."""
        services, names = [service for service, _ in endpoints], [endpoint for _, endpoint in endpoints]
        self._narrow("match_endpoints", shown_services=services, shown_endpoints=names)

    @property
    def _cells(self) -> Kind:
        return "cells_coarse" if self._scope.endpoint is None else "cells"

    @property
    def _bins(self) -> Kind:
        return "bins_coarse" if self._scope.endpoint is None else "bins"

    def plan(self, window: Span, coarsest: Level) -> Plan:
        """Cut a window into what is read from where."""
        if window not in self._touched:
            self._touched[window] = touched_hours(self._connection, window)
        return make_plan(window, self._touched[window], self.kept, coarsest)

    def fresh_until(self, now: datetime) -> datetime:
        """Return up to when rollups know every event."""
        return fresh_until(self._connection, now)

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

    def histogram(self, plan: Plan) -> dict[int, int]:
        """Return hits by bin, from the coarser level where that can tell the series of the question apart."""
        return dict(self._run("histogram", plan, self._bins))

    def histogram_percentile_by_endpoint(self, plan: Plan, percentile: float) -> dict[tuple[str, str], float]:
        """Compute a percentile of each service and endpoint from histograms."""
        rows = self._run("histogram_percentile_by_endpoint", plan, "bins_of_endpoint", fraction=percentile / 100)
        return {(service, endpoint): between_ms(*place) for service, endpoint, *place in rows}

    def histogram_by_bucket(self, plan: Plan, unit: Unit) -> dict[tuple[Any, ...], dict[int, int]]:
        """Return hits by bin of each hour or day, service and endpoint."""
        return _nested(self._run("histogram_by_bucket", plan, "bins", unit=unit))

    def percentiles(self, plan: Plan, percentiles: Sequence[float]) -> Sequence[float | None]:
        """Compute percentiles from the events, exactly. The plan has nothing but events."""
        rows = self._run("percentiles", plan, "latencies", fractions=_fractions(percentiles))
        return rows[0][0] if rows and rows[0][0] is not None else [None] * len(percentiles)

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

    def histogram_by_step(self, plan: Plan, step: timedelta) -> dict[tuple[Any, ...], dict[int, int]]:
        """Return hits by bin of each step of time, from the coarser level where that will do."""
        return _nested(self._run("histogram_by_step", plan, self._bins, step=step))

    def percentiles_by_step(
        self, plan: Plan, step: timedelta, percentiles: Sequence[float]
    ) -> dict[datetime, Sequence[float]]:
        """Compute percentiles of each step of time from the events, exactly. The plan has nothing but events."""
        return dict(self._run("percentiles_by_step", plan, "latencies", step=step, fractions=_fractions(percentiles)))

    def _run(self, name: str, plan: Plan, kind: Kind, **values: Any) -> Sequence[Any]:
        at = _STEP_OF_EVENT if "step" in values else _HOUR_OF_EVENT if "unit" in values else _ANY_TIME
        parts, bounds = self._parts(plan, kind, at)
        if not parts:
            return []
        filled: dict[str, sql.Composable] = {_PLACES[kind]: sql.SQL(" UNION ALL ").join(parts)}
        if "unit" in values:
            filled["unit"] = sql.Literal(values.pop("unit"))
        query = sql.SQL(QUERIES[name]).format(**filled)
        return self._connection.execute(query, {**self._values, **values, **bounds}).fetchall()

    def _parts(self, plan: Plan, kind: Kind, at: sql.Composable) -> tuple[list[sql.Composable], dict[str, Any]]:
        parts: list[sql.Composable] = []
        bounds: dict[str, Any] = {}
        levels: tuple[tuple[Level, Sequence[Span]], ...] = (("day", plan.days), ("hour", plan.hours), ("raw", plan.raw))
        for level, spans in levels:
            if len(spans) > _SINGLE_SPANS_MAX:
                bounds |= {f"{level}_starts": [span.start for span in spans]}
                bounds |= {f"{level}_ends": [span.end for span in spans]}
                start_time, end_time = sql.Identifier("span", "start_time"), sql.Identifier("span", "end_time")
                part = self._part(kind, level, start_time, end_time, at)
                starts, ends = sql.Placeholder(f"{level}_starts"), sql.Placeholder(f"{level}_ends")
                parts.append(sql.SQL(QUERIES["each_span"]).format(starts=starts, ends=ends, part=part))
                continue
            for span in spans:
                start, end = f"start_{len(parts)}", f"end_{len(parts)}"
                bounds |= {start: span.start, end: span.end}
                parts.append(self._part(kind, level, sql.Placeholder(start), sql.Placeholder(end), at))
        return parts, bounds

    def _part(
        self, kind: Kind, level: Level, start: sql.Composable, end: sql.Composable, at: sql.Composable
    ) -> sql.Composable:
        condition = self._condition
        if kind == "bins_of_endpoint":
            condition = sql.SQL(QUERIES["of_endpoint"])
        elif kind in ("cells_coarse", "bins_coarse") and level != "raw":
            condition = sql.SQL(QUERIES["of_coarse"])
        part = sql.SQL(_PARTS[kind][level])
        return part.format(start=start, end=end, scope=condition, at=at)


class Reader:
    """Opens moments.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextmanager
    def moment(self, scope: Scope) -> Iterator[Moment]:
        """See the database at one moment: rollups, and which of them to trust, must belong together."""
        with self._db.transaction(at_one_moment=True) as connection:
            hold_events(connection)
            yield Moment(connection, scope)


def _fractions(percentiles: Sequence[float]) -> list[float]:
    return [percentile / 100 for percentile in percentiles]


def _nested(rows: Sequence[Any]) -> dict[Any, dict[int, int]]:
    found: dict[Any, dict[int, int]] = {}
    for *key, number, hits in rows:
        found.setdefault(tuple(key), {})[number] = hits
    return found
