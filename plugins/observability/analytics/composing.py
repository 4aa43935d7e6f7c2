"""Compose the queries of the analytics: one for each question, over all parts of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, LiteralString

import msgspec
from psycopg import sql

from kernel import load_queries
from plugins.observability.rollups.plan import Level, Plan, Span

QUERIES = load_queries(__package__)
Unit = Literal["hour", "day"]
Kind = Literal["cells", "cells_coarse", "histograms", "histograms_coarse", "both", "both_coarse", "latencies"]
# What an event is counted under: events need no finer place than the bucket they are asked for.
Place = Literal["any_time", "hour_of_event", "step_of_event"]
Condition = Literal["of_account", "of_series", "of_many_series"]
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
    """

    name: str
    kind: Kind
    condition: Condition
    place: Place
    unit: Unit | None
    parts: tuple[tuple[Level, int], ...]


def levels(plan: Plan) -> Sequence[tuple[Level, Sequence[Span]]]:
    """Return the levels a plan reads, with their spans."""
    found: tuple[tuple[Level, Sequence[Span]], ...] = (("day", plan.days), ("hour", plan.hours), ("raw", plan.raw))
    return [(level, spans) for level, spans in found if spans]


def parts_of(plan: Plan) -> tuple[tuple[Level, int], ...]:
    """Return how many parts a query over a plan has."""
    return tuple((level, len(spans) if len(spans) <= _SINGLE_SPANS_MAX else _MANY) for level, spans in levels(plan))


def bounds_of(plan: Plan) -> Mapping[str, Any]:
    """Return the parameters of those parts."""
    bounds: dict[str, Any] = {}
    for level, spans in levels(plan):
        if len(spans) > _SINGLE_SPANS_MAX:
            bounds[f"{level}_starts"] = [span.start for span in spans]
            bounds[f"{level}_ends"] = [span.end for span in spans]
            continue
        for number, span in enumerate(spans):
            bounds[f"{level}_start_{number}"] = span.start
            bounds[f"{level}_end_{number}"] = span.end
    return bounds


@lru_cache(maxsize=1000)
def compose(shape: Shape) -> bytes:
    """Return the text of a query."""
    parts = sql.SQL(" UNION ALL ").join([*_of_rollups(shape), *_of_events(shape)])
    return sql.SQL(QUERIES[shape.name]).format(parts=parts, unit=sql.Literal(shape.unit)).as_bytes()


def _of_rollups(shape: Shape) -> Sequence[sql.Composable]:
    parts: list[sql.Composable] = []
    condition: str = shape.condition
    if shape.kind.endswith("_coarse"):
        condition = "of_coarse"
    elif condition == "of_series":
        condition = "of_one_series"
    for level, count in shape.parts:
        if level != "raw":
            parts += _each_span(_text(shape.kind, level), level, count, scope=sql.SQL(QUERIES[condition]))
    if parts and condition == "of_one_series":
        return [sql.SQL(QUERIES["each_series"]).format(part=sql.SQL(" UNION ALL ").join(parts))]
    return parts


def _of_events(shape: Shape) -> Sequence[sql.Composable]:
    scope, place = sql.SQL(QUERIES[shape.condition]), sql.SQL(QUERIES[shape.place])
    for level, count in shape.parts:
        if level == "raw":
            # Summed up over all spans at once: by span there would be as many sums again of each.
            events = sql.SQL(" UNION ALL ").join(_each_span(QUERIES["events"], level, count, scope=scope, at=place))
            return [sql.SQL(_text(shape.kind, level)).format(events=events)]
    return []


def _each_span(text: LiteralString, level: Level, count: int, **filled: sql.Composable) -> Sequence[sql.Composable]:
    if count == _MANY:
        part = sql.SQL(text).format(
            start=sql.Identifier("span", "start_time"), end=sql.Identifier("span", "end_time"), **filled
        )
        starts, ends = sql.Placeholder(f"{level}_starts"), sql.Placeholder(f"{level}_ends")
        return [sql.SQL(QUERIES["each_span"]).format(starts=starts, ends=ends, part=part)]
    return [
        sql.SQL(text).format(
            start=sql.Placeholder(f"{level}_start_{number}"), end=sql.Placeholder(f"{level}_end_{number}"), **filled
        )
        for number in range(count)
    ]


def _text(kind: Kind, level: Level) -> LiteralString:
    match kind:
        case "cells":
            return QUERIES[f"cells_{level}"]
        case "cells_coarse":
            return QUERIES[f"cells_coarse_{level}"]
        case "histograms":
            return QUERIES[f"histograms_{level}"]
        case "histograms_coarse":
            return QUERIES[f"histograms_coarse_{level}"]
        case "both":
            return QUERIES[f"both_{level}"]
        case "both_coarse":
            return QUERIES["both_raw"] if level == "raw" else QUERIES[f"both_coarse_{level}"]
        case "latencies":
            return QUERIES[f"latencies_{level}"]
