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
Kind = Literal["cells", "cells_coarse", "histograms", "histograms_coarse", "latencies"]
# What an event is counted under: events need no finer place than the bucket they are asked for.
Place = Literal["any_time", "hour_of_event", "step_of_event"]
Condition = Literal["of_account", "of_series", "of_many_series"]
# A part with bounds of its own reads no partition in vain; of more than these, planning costs more than it saves.
_SINGLE_SPANS_MAX = 6
_MANY = -1
_OF_ROLLUPS = {"of_series": "of_one_series"}


class Shape(msgspec.Struct, frozen=True):
    """What the text of a query depends on: few shapes, so that each is composed once, and prepared by the server.

    Args:
        name: Of the query.
        kinds: What it reads.
        condition: Which series.
        place: What events are counted under.
        unit: What buckets are joined to, if it is by bucket.
        parts: How many spans of each level; ``_MANY`` takes any number.
    """

    name: str
    kinds: tuple[Kind, ...]
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
    filled: dict[str, sql.Composable] = {kind.removesuffix("_coarse"): _parts(shape, kind) for kind in shape.kinds}
    return sql.SQL(QUERIES[shape.name]).format(**filled, unit=sql.Literal(shape.unit)).as_bytes()


def _parts(shape: Shape, kind: Kind) -> sql.Composable:
    parts: list[sql.Composable] = []
    for level, spans in shape.parts:
        if spans == _MANY:
            part = _part(shape, kind, level, sql.Identifier("span", "start_time"), sql.Identifier("span", "end_time"))
            starts, ends = sql.Placeholder(f"{level}_starts"), sql.Placeholder(f"{level}_ends")
            parts.append(sql.SQL(QUERIES["each_span"]).format(starts=starts, ends=ends, part=part))
            continue
        for number in range(spans):
            start, end = sql.Placeholder(f"{level}_start_{number}"), sql.Placeholder(f"{level}_end_{number}")
            parts.append(_part(shape, kind, level, start, end))
    return sql.SQL(" UNION ALL ").join(parts)


def _part(shape: Shape, kind: Kind, level: Level, start: sql.Composable, end: sql.Composable) -> sql.Composable:
    condition: str = shape.condition
    if level != "raw":
        condition = "of_coarse" if kind.endswith("_coarse") else _OF_ROLLUPS.get(condition, condition)
    scope, place = sql.SQL(QUERIES[condition]), sql.SQL(QUERIES[shape.place])
    filled = sql.SQL(_text(kind, level)).format(start=start, end=end, scope=scope, at=place)
    return sql.SQL(QUERIES["each_series"]).format(part=filled) if condition == "of_one_series" else filled


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
        case "latencies":
            return QUERIES[f"latencies_{level}"]
