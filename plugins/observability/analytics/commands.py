"""``tiercel observability kpis``, ``top``, ``hourly`` and ``daily``: the analytics on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import click
import msgspec

from kernel import Command
from kernel.cli import print_json, print_table, struct_options
from plugins.observability.analytics.models import (
    BucketsQuery,
    DayRow,
    EndpointRow,
    HourRow,
    KpiQuery,
    Kpis,
    Row,
    RowSet,
    TopQuery,
    iso_time,
)
from plugins.observability.analytics.service import AnalyticsService

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in the response of the route.")


def make_analytics_commands(analytics: AnalyticsService) -> Iterable[Command]:
    """Return the commands ``kpis``, ``top``, ``hourly`` and ``daily``."""

    @click.command("kpis")
    @_as_json
    @struct_options(KpiQuery)
    def kpis(query: KpiQuery, *, as_json: bool) -> None:
        """Print hits, errors and latencies over a window: the last 24 hours by default."""
        answer = analytics.kpis(query)
        if as_json:
            print_json(answer)
        else:
            print_table(("figure", "value"), list(_figures(answer)))

    @click.command("top")
    @_as_json
    @struct_options(TopQuery)
    def top(query: TopQuery, *, as_json: bool) -> None:
        """Print endpoints, the busiest of the last 24 hours first by default."""
        _print_rows(EndpointRow, analytics.top_endpoints(query), as_json=as_json)

    @click.command("hourly")
    @_as_json
    @struct_options(BucketsQuery)
    def hourly(query: BucketsQuery, *, as_json: bool) -> None:
        """Print requests by hour, service and endpoint, the newest first: of the last 24 hours by default."""
        _print_rows(HourRow, analytics.hourly(query), as_json=as_json)

    @click.command("daily")
    @_as_json
    @struct_options(BucketsQuery)
    def daily(query: BucketsQuery, *, as_json: bool) -> None:
        """Print requests by day, service and endpoint, the newest first: of the last 7 days by default."""
        _print_rows(DayRow, analytics.daily(query), as_json=as_json)

    return [Command(command=command) for command in (kpis, top, hourly, daily)]


def _print_rows(row_type: type[msgspec.Struct], row_set: RowSet[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(row_set.rows)
    else:
        columns = row_type.__struct_fields__
        print_table(columns, [[_format(getattr(row, column)) for column in columns] for row in row_set.rows])
    for name, value in row_set.metadata.items():
        click.echo(f"{name}: {value}", err=True)


def _figures(kpis: Kpis) -> Iterable[tuple[str, object]]:
    """Yield the names and values of KPIs; those that JSON leaves out are left out."""
    for field in msgspec.structs.fields(kpis):
        value = getattr(kpis, field.name)
        if value == field.default:
            continue
        if field.name == "percentiles":
            for each in kpis.percentiles:
                error = f" within {each.max_relative_error:.0%}" if each.max_relative_error else ""
                text = f"{_format(each.value_ms) or ''} ({each.basis}{error})"
                yield f"p{each.percentile:.15g}_latency_ms", text.strip()
        elif field.name == "covered":
            yield field.name, f"{iso_time(value.start)} to {iso_time(value.end)}"
        else:
            yield field.name, _format(value)


def _format(value: object) -> object:
    if isinstance(value, datetime):
        return iso_time(value)
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
