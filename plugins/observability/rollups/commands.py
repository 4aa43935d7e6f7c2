"""``tiercel observability refresh``, and its older names right under ``tiercel``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

import click

from kernel import Command
from kernel.cli import echo, print_json, progress, struct_options
from plugins.observability.analytics.scope import window_of
from plugins.observability.resolution import DAY, HOUR, ceil, floor
from plugins.observability.rollups.refresh import RefreshReport, Rollups
from plugins.observability.time_window import TimeWindowQuery

Unit = Literal["hourly", "daily"]
_LENGTHS: dict[Unit, timedelta] = {"hourly": HOUR, "daily": DAY}
# The policy of TimescaleDB refreshes every few minutes, for seconds.
LOCK_WAIT_S = 30.0
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class RefreshQuery(TimeWindowQuery, frozen=True):
    """Options of a refresh.

    Args:
        start: From when, ISO 8601; everything by default.
        end: Up to when; a date alone is the whole day. Everything by default.
    """


def make_refresh_commands(rollups: Rollups, now: Callable[[], datetime]) -> Iterable[Command]:
    """Return ``refresh``, and its older names ``refresh_apirequest_hourly`` and ``refresh_apirequest_daily``."""

    def run(unit: Unit, query: RefreshQuery, *, as_json: bool) -> None:
        report = _refresh(rollups, unit, query, now())
        if as_json:
            print_json(report)
        else:
            echo(_describe(report, query))

    @click.command("refresh")
    @click.argument("unit", type=click.Choice(list(_LENGTHS)))
    @_as_json
    @struct_options(RefreshQuery)
    def refresh(query: RefreshQuery, *, unit: Unit, as_json: bool) -> None:
        """Refresh rollups now, instead of waiting for the job.

        Only hours with events that rollups do not include are computed, and with them their days, whichever is asked
        for: `daily` only widens the range to whole days, `hourly` to whole hours. Answers are exact before and after.
        """
        run(unit, query, as_json=as_json)

    def older_name(unit: Unit) -> Command:
        @click.command(f"refresh_apirequest_{unit}", hidden=True, help=f"The same as `refresh {unit}`.")
        @_as_json
        @struct_options(RefreshQuery)
        def command(query: RefreshQuery, *, as_json: bool) -> None:
            run(unit, query, as_json=as_json)

        return Command(command=command, alias=command.name)

    return [Command(command=refresh), *map(older_name, _LENGTHS)]


def _refresh(rollups: Rollups, unit: Unit, query: RefreshQuery, now: datetime) -> RefreshReport:
    window = window_of(query.start, query.end, now, None)
    length = _LENGTHS[unit]
    with progress("days") as bar:
        return rollups.refresh(
            floor(window.start, length),
            ceil(window.end, length),
            lock_wait_s=LOCK_WAIT_S,
            progress=lambda done, total: bar.show(done, total),
        )


def _describe(report: RefreshReport, query: RefreshQuery) -> str:
    if report.hours:
        return f"{report.hours:,} hours on {report.days:,} days refreshed."
    since = "" if query.start is None else f" from {query.start:{_TIME_FORMAT}}"
    until = "" if query.end is None else f" to {query.end:{_TIME_FORMAT}}"
    return f"There is nothing to refresh{since}{until}: the rollups include every event."
