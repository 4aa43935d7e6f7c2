"""``tiercel observability refresh``, and what it was called before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

import click

from kernel import Command, NotFoundError
from kernel.cli import print_json, progress
from plugins.observability.analytics.window import read_window
from plugins.observability.rollups.plan import DAY, HOUR, floor
from plugins.observability.rollups.refresh import Refreshed, Rollups

Unit = Literal["hourly", "daily"]
_STEPS: dict[Unit, timedelta] = {"hourly": HOUR, "daily": DAY}
_FIRST_DAY = "1970-01-01"
_START = click.option("--start", metavar="TIME", help="From when, ISO 8601; everything by default.")
_END = click.option("--end", metavar="TIME", help="Up to when; a date alone is the whole day. Everything by default.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def make_refresh_commands(rollups: Rollups, now: Callable[[], datetime]) -> Iterable[Command]:
    """Return ``refresh``, and the same under two older names."""

    def run(unit: Unit, start: str | None, end: str | None, *, as_json: bool) -> None:
        refreshed = _refresh(rollups, unit, start, end, now())
        if as_json:
            print_json(refreshed)
        else:
            click.echo(f"{refreshed.hours:,} hours on {refreshed.days:,} days refreshed.")

    @click.command("refresh")
    @click.argument("unit", type=click.Choice(list(_STEPS)))
    @_START
    @_END
    @_JSON
    def refresh(*, unit: Unit, start: str | None, end: str | None, as_json: bool) -> None:
        """Bring rollups up to date now, instead of waiting for the job.

        Only hours with events that rollups do not know are computed, and with them their days, whichever is asked for:
        `daily` only widens the range to whole days, `hourly` to whole hours. Answers are exact before and after.
        """
        run(unit, start, end, as_json=as_json)

    def older(unit: Unit) -> Command:
        @click.command(f"refresh_apirequest_{unit}", hidden=True, help=f"The same as `refresh {unit}`.")
        @_START
        @_END
        @_JSON
        def command(*, start: str | None, end: str | None, as_json: bool) -> None:
            run(unit, start, end, as_json=as_json)

        return Command(command=command, alias=command.name)

    return [Command(command=refresh), *map(older, _STEPS)]


def _refresh(rollups: Rollups, unit: Unit, start: str | None, end: str | None, now: datetime) -> Refreshed:
    # Events may be a day ahead.
    window = read_window(start or _FIRST_DAY, end or (now + 2 * DAY).isoformat(), now, DAY)
    step = _STEPS[unit]
    last = floor(window.end - datetime.resolution, step) + step
    with progress("days") as bar:
        refreshed = rollups.refresh(floor(window.start, step), last, progress=lambda done, total: bar.show(done, total))
    if not refreshed.hours:
        since = "" if start is None else f" from {start}"
        until = "" if end is None else f" to {end}"
        raise NotFoundError(f"There is nothing to refresh{since}{until}: the rollups know every event.")
    return refreshed
