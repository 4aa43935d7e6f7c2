"""``tiercel observability kpis``, ``top``, ``hourly``, ``daily``, ``services`` and ``endpoints``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import click
import msgspec

from kernel import Command
from kernel.cli import echo, print_json, print_table, struct_options
from plugins.observability.access import Access, account_option
from plugins.observability.analytics.grouping import percentile_field
from plugins.observability.analytics.models import (
    ActiveEndpoint,
    ActiveService,
    BucketsQuery,
    EndpointsQuery,
    KpiQuery,
    Kpis,
    Percentile,
    Row,
    RowSet,
    ServicesQuery,
    TopQuery,
    iso_time,
)
from plugins.observability.analytics.service import AnalyticsService

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in the response of the route.")


def make_analytics_commands(analytics: AnalyticsService, page_size: int) -> Iterable[Command]:
    """Return the commands ``kpis``, ``top``, ``hourly``, ``daily``, ``services`` and ``endpoints``.

    Args:
        analytics: Computes them.
        page_size: Items of a page by default.
    """

    @click.command("kpis")
    @_as_json
    @account_option
    @struct_options(KpiQuery)
    def kpis(query: KpiQuery, *, as_json: bool, account: int) -> None:
        """Print hits, errors and latencies over a window, and of groups in it: the last 24 hours by default."""
        answer = analytics.kpis(query, Access(account=account))
        if as_json:
            print_json(answer.members)
            return
        print_table(("figure", "value"), list(_figures(answer)))
        if answer.groups:
            echo()
            _print_table(list(answer.groups[0]), answer.groups)

    @click.command("top")
    @_as_json
    @account_option
    @struct_options(TopQuery)
    def top(query: TopQuery, *, as_json: bool, account: int) -> None:
        """Print endpoints or other groups, the busiest of the last 24 hours first by default."""
        _print_rows(analytics.top_endpoints(query, Access(account=account)), as_json=as_json)

    @click.command("hourly")
    @_as_json
    @account_option
    @struct_options(BucketsQuery)
    def hourly(query: BucketsQuery, *, as_json: bool, account: int) -> None:
        """Print requests by hour, service and endpoint, the newest first: of the last 24 hours by default."""
        _print_rows(analytics.hourly(query, Access(account=account)), as_json=as_json)

    @click.command("daily")
    @_as_json
    @account_option
    @struct_options(BucketsQuery)
    def daily(query: BucketsQuery, *, as_json: bool, account: int) -> None:
        """Print requests by day, service and endpoint, the newest first: of the last 7 days by default."""
        _print_rows(analytics.daily(query, Access(account=account)), as_json=as_json)

    @click.command("services")
    @_as_json
    @account_option
    @struct_options(ServicesQuery)
    def services(query: ServicesQuery, *, as_json: bool, account: int) -> None:
        """Print services that have events, with the time of the first and the last."""
        size = query.page_size or page_size
        found = analytics.services(query, size, (query.page - 1) * size, Access(account=account))
        _print_page(ActiveService, *found, as_json=as_json)

    @click.command("endpoints")
    @_as_json
    @account_option
    @struct_options(EndpointsQuery)
    def endpoints(query: EndpointsQuery, *, as_json: bool, account: int) -> None:
        """Print endpoints that have events, with the time of the first and the last."""
        size = query.page_size or page_size
        found = analytics.endpoints(query, size, (query.page - 1) * size, Access(account=account))
        _print_page(ActiveEndpoint, *found, as_json=as_json)

    return [Command(command=command) for command in (kpis, top, hourly, daily, services, endpoints)]


def _print_page(item_type: type[msgspec.Struct], items: Sequence[msgspec.Struct], count: int, *, as_json: bool) -> None:
    if as_json:
        print_json(items)
    else:
        _print_table(item_type.__struct_fields__, [msgspec.structs.asdict(item) for item in items])
    if count > len(items):
        echo(f"{len(items)} of {count}", err=True)


def _print_rows(row_set: RowSet, *, as_json: bool) -> None:
    if as_json:
        print_json(row_set.rows)
    else:
        _print_table(row_set.columns, row_set.rows)
    for name, value in row_set.metadata.items():
        echo(f"{name}: {value}", err=True)


def _print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    print_table(columns, [[_format(row[column]) for column in columns] for row in rows])


def _figures(kpis: Kpis) -> Iterable[tuple[str, object]]:
    """Yield the names and values of KPIs; those that JSON leaves out are left out."""
    notes = {percentile_field(each.percentile): _accuracy(each) for each in kpis.percentiles}
    for name, value in kpis.members.items():
        if name in ("percentiles", "groups"):
            continue
        if name == "covered":
            yield name, f"{iso_time(value.start)} to {iso_time(value.end)}"
        elif name == "latency_share":
            yield f"share_up_to_{value.latency_ms}_ms", "" if value.share is None else _format(value.share)
        elif name in notes:
            yield name, f"{'' if value is None else _format(value)} {notes[name]}".strip()
        else:
            yield name, _format(value)


def _accuracy(percentile: Percentile) -> str:
    error = f" within {percentile.max_relative_error:.0%}" if percentile.max_relative_error else ""
    return f"({percentile.basis}{error})"


def _format(value: object) -> object:
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
