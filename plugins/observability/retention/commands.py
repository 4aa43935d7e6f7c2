"""``tiercel observability retention``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kernel import Command
from kernel.cli import print_json, print_table, progress
from plugins.observability.retention.planning import Going
from plugins.observability.retention.removing import Retention
from plugins.observability.retention.sweeping import Removed

_COUNTS = ("partitions", "events", "rollups", "series", "moved", "ledger")
_TITLES = ("level", "setting", "before", "oldest", "items", "partitions", "touched_hours")


def make_retention_command(retention: Retention) -> Command:
    """Return the command."""

    @click.command("retention")
    @click.option("--plan", "only_plan", is_flag=True, help="Say what would go, and remove nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(*, only_plan: bool, as_json: bool) -> None:
        """Remove events and rollups that are older than `raw_days`, `hourly_days` and `daily_days` allow, now.

        A worker does so every night. Events go only after their rollups know them all.
        """
        if only_plan:
            going = retention.plan()
            if as_json:
                print_json(going)
            else:
                _print_plan(going)
            return
        with progress("retention") as bar:
            removed = retention.apply(lambda step: bar.show(0, message=step))
        if as_json:
            print_json(removed)
        else:
            _print_removed(removed)

    return Command(command=command)


def _print_plan(going: Sequence[Going]) -> None:
    if not going:
        click.echo("Everything is kept for ever: raw_days, hourly_days and daily_days are 0.")
        return
    print_table(_TITLES, [[getattr(each, title) for title in _TITLES] for each in going])
    for each in going:
        for consequence in each.consequences:
            click.echo(f"{each.level}, before {each.before.isoformat()}: {consequence}")


def _print_removed(removed: Removed) -> None:
    print_table(_COUNTS, [[getattr(removed, name) for name in _COUNTS]])
    for level, since in removed.kept_from.items():
        click.echo(f"{level}: kept from {since.isoformat()}")
