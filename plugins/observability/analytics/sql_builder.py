"""Compose the queries of the analytics from the fragments in queries.sql.

A query has an outer SELECT, such as ``totals_by_endpoint``, over ``{parts}``: a UNION ALL of one part for each span of
rollups that its plan reads, and one part for all spans of events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, LiteralString

import msgspec
from psycopg import sql

from kernel import load_queries
from plugins.observability.analytics.grouping import Dimension, GroupKey
from plugins.observability.analytics.plan import ReadPlan
from plugins.observability.resolution import Resolution
from plugins.observability.rollups.dirty_buckets import ROLLUP_STATE
from plugins.observability.timescale import HAS_CONTINUOUS_AGGREGATES

QUERIES = load_queries(__package__)
# What the rows of the parts hold. Latencies are those of single events, which rollups do not know.
Measures = Literal[
    "totals", "totals_of_statuses", "totals_by_status", "histograms", "totals_and_histograms", "latencies"
]
# The condition for the series of a scope; each is a fragment.
SeriesCondition = Literal["all_series", "few_series", "many_series"]
# The condition for the same in coarse rollups, those by service and method; each is a fragment.
Coarse = Literal["coarse_account", "one_method"]
# The time that a part groups events by, apart from their series; each is a fragment.
EventTime = Literal["no_time", "hour_of_event", "step_of_event"]
# A part with separate bounds skips the partitions outside. Of more spans than this, planning so many parts costs more
# than it saves: they share one part.
_SINGLE_SPANS_MAX = 6
_ANY_NUMBER = -1


class _Fragments(msgspec.Struct, frozen=True):
    """The fragments that select some measures.

    Args:
        view: The view of rollups, without ``_hour`` or ``_day``; see migrations/0002_rollups.sql.
        hour: Selects from the view by hour.
        day: Selects from the view by day.
        events: Selects from events.
    """

    view: str
    hour: str
    day: str
    events: str


# By measures, and whether coarse rollups are read: those by service and method.
_FRAGMENTS: Mapping[tuple[Measures, bool], _Fragments] = {
    ("totals", False): _Fragments("cells", "rollup_totals", "rollup_totals", "event_totals"),
    ("totals", True): _Fragments("cells_coarse", "rollup_totals_coarse", "rollup_totals_coarse", "event_totals_coarse"),
    ("totals_of_statuses", False): _Fragments(
        "cells", "rollup_totals_of_statuses", "rollup_totals_of_statuses", "event_totals"
    ),
    ("totals_of_statuses", True): _Fragments(
        "cells_coarse", "rollup_totals_of_statuses_coarse", "rollup_totals_of_statuses_coarse", "event_totals_coarse"
    ),
    ("totals_by_status", False): _Fragments(
        "cells", "rollup_totals_by_status", "rollup_totals_by_status", "event_totals_by_status"
    ),
    ("totals_by_status", True): _Fragments(
        "cells_coarse",
        "rollup_totals_by_status_coarse",
        "rollup_totals_by_status_coarse",
        "event_totals_by_status_coarse",
    ),
    ("histograms", False): _Fragments(
        "histograms", "rollup_histograms_by_bin", "rollup_histograms", "event_histograms"
    ),
    ("histograms", True): _Fragments(
        "histograms_coarse", "rollup_histograms_coarse", "rollup_histograms_coarse", "event_histograms_coarse"
    ),
    ("totals_and_histograms", False): _Fragments("both", "rollup_both_by_bin", "rollup_both", "event_both"),
    ("totals_and_histograms", True): _Fragments("both_coarse", "rollup_both", "rollup_both", "event_both"),
    ("latencies", False): _Fragments("", "", "", "event_latencies"),
}


class QuerySpec(msgspec.Struct, frozen=True):
    """All that the text of a query depends on. There are few texts, so that the server prepares each only once.

    Args:
        name: The outer SELECT.
        measures: What it aggregates.
        series: The condition for series.
        span_counts: How many spans of each resolution are read; ``_ANY_NUMBER`` if they share a part.
        coarse: The condition for rollups by service and method, where they suffice in place of those by series.
        event_time: What events are grouped by.
        bucket: The resolution of the rows, if they are by bucket.
        group_by: The dimensions of the rows, if they are by group.
        order: Column names, if the rows are in order; a leading ``-`` sorts descending.
        some_statuses: Whether only events with some statuses are read.
        has_continuous_aggregates: Whether rollups are these: a row has one status, and old hours are columns, which are
            not looked up one series at a time.
        prefix: Of the names of bounds, to tell them from those of another query in the same statement.
    """

    name: LiteralString
    measures: Measures
    series: SeriesCondition
    span_counts: tuple[tuple[Resolution, int], ...]
    coarse: Coarse | None = None
    event_time: EventTime = "no_time"
    bucket: Resolution | None = None
    group_by: tuple[Dimension, ...] = ()
    order: tuple[str, ...] = ()
    some_statuses: bool = False
    has_continuous_aggregates: bool = False
    prefix: str = ""


def span_counts(plan: ReadPlan) -> tuple[tuple[Resolution, int], ...]:
    """Return what a ``QuerySpec`` says of the spans of a plan."""
    return tuple(
        (resolution, len(spans) if len(spans) <= _SINGLE_SPANS_MAX else _ANY_NUMBER) for resolution, spans in plan.parts
    )


def bounds(plan: ReadPlan, prefix: str = "") -> Mapping[str, Any]:
    """Return the parameters for the bounds of the spans of a plan."""
    parameters: dict[str, Any] = {}
    for resolution, spans in plan.parts:
        if len(spans) > _SINGLE_SPANS_MAX:
            parameters[f"{prefix}{resolution}_starts"] = [span.start for span in spans]
            parameters[f"{prefix}{resolution}_ends"] = [span.end for span in spans]
            continue
        for number, span in enumerate(spans):
            parameters[f"{prefix}{resolution}_start_{number}"] = span.start
            parameters[f"{prefix}{resolution}_end_{number}"] = span.end
    return parameters


@lru_cache
def opening_query(filters: tuple[str, ...]) -> bytes:
    """Return the first query of a session: the state of the rollups, and the series that some filters match.

    Args:
        filters: Names of ``Scope.filters``.
    """
    fragments = {
        "rollup_state": sql.SQL(ROLLUP_STATE),
        "has_continuous_aggregates": sql.SQL(HAS_CONTINUOUS_AGGREGATES),
    }
    if not filters:
        query = sql.SQL(QUERIES["open_unfiltered"]).format(**fragments)
    else:
        series = sql.SQL(QUERIES["filtered_series"]).format(filters=_conditions(filters))
        query = sql.SQL(QUERIES["open_filtered"]).format(**fragments, series=series)
    return query.as_bytes()


@lru_cache
def series_of_groups_query(dimensions: tuple[Dimension, ...], filters: tuple[str, ...]) -> bytes:
    """Return the query for the series of some groups; ``group_parameters`` returns its parameters.

    Args:
        dimensions: Those of the groups.
        filters: Names of ``Scope.filters``.
    """
    dimensions = _of_series(dimensions)
    arrays = [sql.SQL("{}::text[]").format(sql.Placeholder(f"shown_{name}")) for name in dimensions]
    names = [sql.Identifier(f"shown_{name}") for name in dimensions]
    matches = [
        # Nobody may own a service.
        sql.SQL("{} IS NOT DISTINCT FROM {}" if name == "application" else "{} = {}").format(
            sql.Identifier(name), shown
        )
        for name, shown in zip(dimensions, names, strict=True)
    ]
    return (
        sql.SQL(QUERIES["series_of_groups"])
        .format(
            owners=_owners(dimensions),
            arrays=sql.SQL(", ").join(arrays),
            names=sql.SQL(", ").join(names),
            matches=sql.SQL(" AND ").join(matches),
            filters=_conditions(filters or ("everything",)),
        )
        .as_bytes()
    )


def group_parameters(dimensions: Sequence[Dimension], keys: Collection[GroupKey]) -> Mapping[str, Any]:
    """Return the parameters of ``series_of_groups_query``; none if series do not tell the groups apart."""
    columns = {name: [key[position] for key in keys] for position, name in enumerate(dimensions)}
    return {f"shown_{name}": columns[name] for name in _of_series(dimensions)}


@lru_cache(maxsize=1000)
def build_query(spec: QuerySpec) -> bytes:
    """Return the text of a query."""
    return _compose(spec).as_bytes()


@lru_cache(maxsize=1000)
def build_totals_and_percentiles(totals: QuerySpec, percentiles: QuerySpec) -> bytes:
    """Return the text of two queries of one row each as one statement; their prefixes must differ."""
    return (
        sql.SQL(QUERIES["totals_with_percentiles"])
        .format(totals=_compose(totals), percentiles=_compose(percentiles))
        .as_bytes()
    )


def _compose(spec: QuerySpec) -> sql.Composed:
    parts = sql.SQL(" UNION ALL ").join([*_rollup_parts(spec), *_event_parts(spec)])
    columns = [sql.Identifier(name) for name in spec.group_by]
    series_columns = [sql.Identifier(name) for name in ("series", *spec.group_by) if name in ("series", "status_code")]
    return sql.SQL(QUERIES[spec.name]).format(
        parts=parts,
        bucket=sql.Literal(spec.bucket),
        group=sql.SQL(", ").join(columns),
        series_group=sql.SQL(", ").join(series_columns),
        owners=_owners(spec.group_by),
        order=sql.SQL(", ").join(map(_ordered, spec.order)),
    )


def _conditions(filters: Sequence[str]) -> sql.Composable:
    return sql.SQL(" AND ").join([sql.SQL(QUERIES[f"filter_{name}"]) for name in filters])


def _of_series(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the dimensions in which series differ: all but the status."""
    return tuple(name for name in dimensions if name != "status_code")


def _owners(dimensions: Sequence[Dimension]) -> sql.SQL:
    return sql.SQL(QUERIES["owners"] if "application" in dimensions else "")


def _ordered(field: str) -> sql.Composable:
    name, direction = field.removeprefix("-"), sql.SQL("DESC" if field.startswith("-") else "ASC")
    # COLLATE: the same order on every server, whatever its locale.
    collation = sql.SQL(' COLLATE "C"') if name in ("service", "endpoint") else sql.SQL("")
    return sql.SQL("{}{} {}").format(sql.Identifier(name), collation, direction)


def _rollup_parts(spec: QuerySpec) -> Sequence[sql.Composable]:
    fragments = _FRAGMENTS[spec.measures, spec.coarse is not None]
    parts: list[sql.Composable] = []
    repeated: list[sql.Composable] = []
    repeat: LiteralString = "for_each_method" if spec.coarse else "for_each_series"
    errors: LiteralString = "errors_of_status" if spec.has_continuous_aggregates else "errors_of_rollups"
    if spec.some_statuses:
        errors = "errors_of_statuses"
    for resolution, count in spec.span_counts:
        if resolution is Resolution.RAW:
            continue
        condition: LiteralString = spec.coarse or spec.series
        is_repeated = condition == "one_method"
        if condition == "few_series" and not (spec.has_continuous_aggregates and resolution is Resolution.HOUR):
            condition, is_repeated = "one_series", True
        (repeated if is_repeated else parts).extend(
            _span_parts(
                QUERIES[fragments.hour if resolution is Resolution.HOUR else fragments.day],
                f"{spec.prefix}{resolution}",
                count,
                view=sql.Identifier("observability", f"{fragments.view}_{resolution}"),
                hits=sql.SQL(QUERIES["hits_of_statuses"]),
                errors=sql.SQL(QUERIES[errors]),
                condition=sql.SQL(QUERIES[condition]),
            )
        )
    if repeated:
        parts.append(sql.SQL(QUERIES[repeat]).format(part=sql.SQL(" UNION ALL ").join(repeated)))
    return parts


def _event_parts(spec: QuerySpec) -> Sequence[sql.Composable]:
    """Return one part for all spans: aggregating each of them first would make as many groups again."""
    count = dict(spec.span_counts).get(Resolution.RAW)
    if count is None:
        return []
    condition = sql.SQL(QUERIES[spec.series])
    # A condition that looks series up in a table is outside, so that it is evaluated once, not for each span.
    is_outside = spec.series == "many_series"
    inside = [sql.SQL(QUERIES["all_series"]) if is_outside else condition]
    if spec.some_statuses:
        inside.append(sql.SQL(QUERIES["some_statuses"]))
    spans = _span_parts(
        QUERIES["events"],
        f"{spec.prefix}{Resolution.RAW}",
        count,
        time_group=sql.SQL(QUERIES[spec.event_time]),
        condition=sql.SQL(" AND ").join(inside),
    )
    events: sql.Composable = sql.SQL(" UNION ALL ").join(spans)
    if is_outside:
        events = sql.SQL(QUERIES["filtered_events"]).format(events=events, condition=condition)
    fragment = QUERIES[_FRAGMENTS[spec.measures, spec.coarse is not None].events]
    return [sql.SQL(fragment).format(events=events, errors=sql.SQL(QUERIES["errors_of_events"]))]


def _span_parts(
    fragment: LiteralString, bounds_name: str, count: int, **fields: sql.Composable
) -> Sequence[sql.Composable]:
    """Return a part for each span, or one for all if their number is ``_ANY_NUMBER``."""
    if count == _ANY_NUMBER:
        part = sql.SQL(fragment).format(
            start=sql.Identifier("span", "start_time"), end=sql.Identifier("span", "end_time"), **fields
        )
        starts, ends = sql.Placeholder(f"{bounds_name}_starts"), sql.Placeholder(f"{bounds_name}_ends")
        return [sql.SQL(QUERIES["for_each_span"]).format(starts=starts, ends=ends, part=part)]
    return [
        sql.SQL(fragment).format(
            start=sql.Placeholder(f"{bounds_name}_start_{number}"),
            end=sql.Placeholder(f"{bounds_name}_end_{number}"),
            **fields,
        )
        for number in range(count)
    ]
