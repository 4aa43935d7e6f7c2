"""``tiercel observability retention``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kernel import Command
from kernel.cli import echo, print_json, print_table, progress
from plugins.observability.retention.apply import Retention, RetentionReport
from plugins.observability.retention.plan import PlannedRemoval

_REPORT_COLUMNS = ("partitions", "events", "rollups", "series", "moved", "ledger")
_PLAN_COLUMNS = ("level", "setting", "before", "oldest", "items", "partitions", "touched_hours")


def make_retention_command(retention: Retention) -> Command:
    """Return the command ``retention``."""

    @click.command("retention")
    @click.option("--plan", "only_plan", is_flag=True, help="Say what would be removed, and remove nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(*, only_plan: bool, as_json: bool) -> None:
        """Remove events and rollups that are older than `raw_days`, `hourly_days` and `daily_days` allow, now.

        A worker does so every night. Events are removed only after their rollups include all of them.
        """
        if only_plan:
            plan = retention.plan()
            if as_json:
                print_json(plan)
            else:
                _print_plan(plan)
            return
        with progress("retention") as bar:
            report = retention.apply(lambda step: bar.show(0, message=step))
        if as_json:
            print_json(report)
        else:
            _print_report(report)

    return Command(command=command)


def _print_plan(plan: Sequence[PlannedRemoval]) -> None:
    if not plan:
        echo("Everything is kept forever: raw_days, hourly_days and daily_days are 0.")
        return
    print_table(_PLAN_COLUMNS, [[getattr(removal, column) for column in _PLAN_COLUMNS] for removal in plan])
    for removal in plan:
        for consequence in removal.consequences:
            echo(f"{removal.level}, before {removal.before.isoformat()}: {consequence}")


def _print_report(report: RetentionReport) -> None:
    print_table(_REPORT_COLUMNS, [[getattr(report, column) for column in _REPORT_COLUMNS]])
    for level, since in report.kept_from.items():
        echo(f"{level}: kept from {since.isoformat()}")
