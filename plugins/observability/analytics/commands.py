"""``tiercel observability kpis``, ``top``, ``hourly`` and ``daily``: what the routes answer, for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import click
import msgspec

from kernel import Command
from kernel.cli import print_json, print_table, struct_options
from plugins.observability.analytics.answers import Analytics
from plugins.observability.analytics.model import (
    BucketsQuery,
    DayRow,
    EndpointRow,
    Found,
    HourRow,
    KpiQuery,
    Kpis,
    R,
    TopQuery,
)

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the route answers it.")


_KPI_DEFAULTS = [field.default for field in msgspec.structs.fields(Kpis)]


def make_analytics_commands(analytics: Analytics) -> Iterable[Command]:
    """Return the commands."""

    @click.command("kpis")
    @_json
    @struct_options(KpiQuery)
    def kpis(query: KpiQuery, *, as_json: bool) -> None:
        """Print hits, errors and latencies over a window: the last 24 hours by default."""
        answer = analytics.kpis(query)
        if as_json:
            print_json(answer)
        else:
            print_table(("figure", "value"), list(_figures(answer)))

    @click.command("top")
    @_json
    @struct_options(TopQuery)
    def top(query: TopQuery, *, as_json: bool) -> None:
        """Print endpoints, the busiest of the last 24 hours first by default."""
        _print(EndpointRow, analytics.top_endpoints(query), as_json=as_json)

    @click.command("hourly")
    @_json
    @struct_options(BucketsQuery)
    def hourly(query: BucketsQuery, *, as_json: bool) -> None:
        """Print requests by hour, service and endpoint, the newest first: of the last 24 hours by default."""
        _print(HourRow, analytics.hourly(query), as_json=as_json)

    @click.command("daily")
    @_json
    @struct_options(BucketsQuery)
    def daily(query: BucketsQuery, *, as_json: bool) -> None:
        """Print requests by day, service and endpoint, the newest first: of the last 7 days by default."""
        _print(DayRow, analytics.daily(query), as_json=as_json)

    return [Command(command=command) for command in (kpis, top, hourly, daily)]


def _print(kind: type[msgspec.Struct], found: Found[R], *, as_json: bool) -> None:
    if as_json:
        print_json(found.rows)
    else:
        titles = kind.__struct_fields__
        print_table(titles, [[_cell(getattr(row, title)) for title in titles] for row in found.rows])
    for name, value in found.about.items():
        click.echo(f"{name}: {value}", err=True)


def _figures(answer: Kpis) -> Iterable[tuple[str, object]]:
    for name, default in zip(answer.__struct_fields__, _KPI_DEFAULTS, strict=True):
        value = getattr(answer, name)
        if value == default:
            continue  # JSON leaves it out as well
        if name == "percentiles":
            for each in answer.percentiles:
                off = f" within {each.max_relative_error:.0%}" if each.max_relative_error else ""
                yield f"p{each.percentile:.15g}_latency_ms", f"{_cell(each.value_ms) or ''} ({each.basis}{off})".strip()
        elif name == "covered":
            yield name, f"{_cell(value.start)} to {_cell(value.end)}"
        else:
            yield name, _cell(value)


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
