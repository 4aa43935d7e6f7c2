"""``tiercel observability refresh``, and its older names right under ``tiercel``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

import click

from kernel import Command
from kernel.cli import print_json, progress
from plugins.observability.analytics.scope import parse_window
from plugins.observability.resolution import DAY, HOUR, ceil, floor
from plugins.observability.rollups.refresh import RefreshReport, Rollups

Unit = Literal["hourly", "daily"]
_LENGTHS: dict[Unit, timedelta] = {"hourly": HOUR, "daily": DAY}
_FIRST_DAY = "1970-01-01"
# Ingest accepts events up to a day ahead.
_AHEAD = 2 * DAY
_start = click.option("--start", metavar="TIME", help="From when, ISO 8601; everything by default.")
_end = click.option("--end", metavar="TIME", help="Up to when; a date alone is the whole day. Everything by default.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def make_refresh_commands(rollups: Rollups, now: Callable[[], datetime]) -> Iterable[Command]:
    """Return ``refresh``, and its older names ``refresh_apirequest_hourly`` and ``refresh_apirequest_daily``."""

    def run(unit: Unit, start: str | None, end: str | None, *, as_json: bool) -> None:
        report = _refresh(rollups, unit, start, end, now())
        if as_json:
            print_json(report)
        else:
            click.echo(_describe(report, start, end))

    @click.command("refresh")
    @click.argument("unit", type=click.Choice(list(_LENGTHS)))
    @_start
    @_end
    @_as_json
    def refresh(*, unit: Unit, start: str | None, end: str | None, as_json: bool) -> None:
        """Refresh rollups now, instead of waiting for the job.

        Only hours with events that rollups do not include are computed, and with them their days, whichever is asked
        for: `daily` only widens the range to whole days, `hourly` to whole hours. Answers are exact before and after.
        """
        run(unit, start, end, as_json=as_json)

    def older_name(unit: Unit) -> Command:
        @click.command(f"refresh_apirequest_{unit}", hidden=True, help=f"The same as `refresh {unit}`.")
        @_start
        @_end
        @_as_json
        def command(*, start: str | None, end: str | None, as_json: bool) -> None:
            run(unit, start, end, as_json=as_json)

        return Command(command=command, alias=command.name)

    return [Command(command=refresh), *map(older_name, _LENGTHS)]


def _refresh(rollups: Rollups, unit: Unit, start: str | None, end: str | None, now: datetime) -> RefreshReport:
    window = parse_window(start or _FIRST_DAY, end or (now + _AHEAD).isoformat(), now, DAY)
    length = _LENGTHS[unit]
    with progress("days") as bar:
        return rollups.refresh(
            floor(window.start, length),
            ceil(window.end, length),
            progress=lambda done, total: bar.show(done, total),
        )


def _describe(report: RefreshReport, start: str | None, end: str | None) -> str:
    if report.hours:
        return f"{report.hours:,} hours on {report.days:,} days refreshed."
    since = "" if start is None else f" from {start}"
    until = "" if end is None else f" to {end}"
    return f"There is nothing to refresh{since}{until}: the rollups include every event."
