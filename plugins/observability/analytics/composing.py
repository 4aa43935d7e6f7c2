"""Compose the queries of the analytics: one for each question, over all parts of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, LiteralString

import msgspec
from psycopg import sql

from kernel import load_queries
from plugins.observability.rollups.plan import Level, Plan, Span
from plugins.observability.rollups.touched import SEE_ROLLUPS

QUERIES = load_queries(__package__)
Unit = Literal["hour", "day"]
Kind = Literal["cells", "cells_coarse", "histograms", "histograms_coarse", "both", "both_coarse", "latencies"]
# What an event is counted under: events need no finer place than the bucket they are asked for.
Place = Literal["any_time", "hour_of_event", "step_of_event"]
Condition = Literal["of_everyone", "of_account", "of_series", "of_many_series"]
# A part with bounds of its own reads no partition in vain; of more than these, planning costs more than it saves.
_SINGLE_SPANS_MAX = 6
_MANY = -1


class Shape(msgspec.Struct, frozen=True):
    """What the text of a query depends on: few shapes, so that each is composed once, and prepared by the server.

    Args:
        name: Of the query.
        kind: What it reads.
        condition: Which series.
        place: What events are counted under.
        unit: What buckets are joined to, if it is by bucket.
        parts: How many spans of each level; ``_MANY`` takes any number.
        prefix: Of the names of their bounds, where another query stands beside it.
    """

    name: str
    kind: Kind
    condition: Condition
    place: Place
    unit: Unit | None
    parts: tuple[tuple[Level, int], ...]
    prefix: str = ""

    @property
    def fragment(self) -> LiteralString:
        """The name of what reads a part."""
        return "both" if self.kind == "both_coarse" else self.kind


def levels(plan: Plan) -> Sequence[tuple[Level, Sequence[Span]]]:
    """Return the levels a plan reads, with their spans."""
    found: tuple[tuple[Level, Sequence[Span]], ...] = (("day", plan.days), ("hour", plan.hours), ("raw", plan.raw))
    return [(level, spans) for level, spans in found if spans]


def parts_of(plan: Plan) -> tuple[tuple[Level, int], ...]:
    """Return how many parts a query over a plan has."""
    return tuple((level, len(spans) if len(spans) <= _SINGLE_SPANS_MAX else _MANY) for level, spans in levels(plan))


def bounds_of(plan: Plan, prefix: str = "") -> Mapping[str, Any]:
    """Return the parameters of those parts."""
    bounds: dict[str, Any] = {}
    for level, spans in levels(plan):
        if len(spans) > _SINGLE_SPANS_MAX:
            bounds[f"{prefix}{level}_starts"] = [span.start for span in spans]
            bounds[f"{prefix}{level}_ends"] = [span.end for span in spans]
            continue
        for number, span in enumerate(spans):
            bounds[f"{prefix}{level}_start_{number}"] = span.start
            bounds[f"{prefix}{level}_end_{number}"] = span.end
    return bounds


@lru_cache
def compose_see(filters: tuple[str, ...]) -> bytes:
    """Return the text of a query for what rollups know, and which series match by filters of these names."""
    rollups = sql.SQL(SEE_ROLLUPS)
    if not filters:
        return sql.SQL(QUERIES["see_everything"]).format(rollups=rollups).as_bytes()
    conditions = sql.SQL(" AND ").join([sql.SQL(QUERIES[f"match_{name}"]) for name in filters])
    series = sql.SQL(QUERIES["match_series"]).format(filters=conditions)
    return sql.SQL(QUERIES["see_some"]).format(rollups=rollups, series=series).as_bytes()


@lru_cache(maxsize=1000)
def compose(shape: Shape) -> bytes:
    """Return the text of a query."""
    return _composed(shape).as_bytes()


def _composed(shape: Shape) -> sql.Composed:
    parts = sql.SQL(" UNION ALL ").join([*_of_rollups(shape), *_of_events(shape)])
    return sql.SQL(QUERIES[shape.name]).format(parts=parts, unit=sql.Literal(shape.unit))


@lru_cache(maxsize=1000)
def compose_beside(totals: Shape, percentiles: Shape) -> bytes:
    """Return the text of one query for both, which have one row each; their bounds differ by prefix."""
    return (
        sql.SQL(QUERIES["totals_beside_percentiles"])
        .format(totals=_composed(totals), percentiles=_composed(percentiles))
        .as_bytes()
    )


def _of_rollups(shape: Shape) -> Sequence[sql.Composable]:
    condition, each = _looked_up(shape)
    parts: list[sql.Composable] = []
    for level, count in shape.parts:
        if level != "raw":
            filled = {
                "view": sql.Identifier("observability", f"{shape.kind}_{level}"),
                "errors": sql.SQL(QUERIES["errors_of_rollups"]),
                "scope": sql.SQL(QUERIES[condition]),
            }
            parts += _each_span(_text_of(shape, level), shape.prefix + level, count, **filled)
    if parts and each:
        return [sql.SQL(QUERIES[each]).format(part=sql.SQL(" UNION ALL ").join(parts))]
    return parts


def _text_of(shape: Shape, level: Level) -> LiteralString:
    # The histogram of an hour of one series is split into several numbers.
    if level == "hour" and shape.kind in ("both", "histograms"):
        return QUERIES[f"split_{shape.kind}"]
    return QUERIES[shape.fragment]


def _looked_up(shape: Shape) -> tuple[LiteralString, LiteralString | None]:
    """Return the condition on a part of rollups, and what the parts are repeated for."""
    if shape.kind.endswith("_coarse"):
        is_whole = shape.condition in ("of_everyone", "of_account")
        return ("of_coarse_account", None) if is_whole else ("of_one_method", "each_method")
    return ("of_one_series", "each_series") if shape.condition == "of_series" else (shape.condition, None)


def _of_events(shape: Shape) -> Sequence[sql.Composable]:
    is_wide = shape.condition in ("of_account", "of_many_series")
    scope, place = sql.SQL(QUERIES[shape.condition]), sql.SQL(QUERIES[shape.place])
    inside = sql.SQL(QUERIES["of_everyone"]) if is_wide else scope
    for level, count in shape.parts:
        if level == "raw":
            # Summed up over all spans at once: by span there would be as many sums again of each.
            spans = _each_span(QUERIES["events"], shape.prefix + level, count, scope=inside, at=place)
            events = sql.SQL(" UNION ALL ").join(spans)
            if is_wide:
                events = sql.SQL(QUERIES["events_of_many"]).format(events=events, scope=scope)
            errors = sql.SQL(QUERIES["errors_of_events"])
            return [sql.SQL(QUERIES[f"raw_{shape.fragment}"]).format(events=events, errors=errors)]
    return []


def _each_span(text: LiteralString, name: str, count: int, **filled: sql.Composable) -> Sequence[sql.Composable]:
    if count == _MANY:
        part = sql.SQL(text).format(
            start=sql.Identifier("span", "start_time"), end=sql.Identifier("span", "end_time"), **filled
        )
        starts, ends = sql.Placeholder(f"{name}_starts"), sql.Placeholder(f"{name}_ends")
        return [sql.SQL(QUERIES["each_span"]).format(starts=starts, ends=ends, part=part)]
    return [
        sql.SQL(text).format(
            start=sql.Placeholder(f"{name}_start_{number}"), end=sql.Placeholder(f"{name}_end_{number}"), **filled
        )
        for number in range(count)
    ]
