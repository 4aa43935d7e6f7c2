"""The command ``tiercel club refresh``."""

from __future__ import annotations

import sys

import click

from kernel import Command, Services
from kernel.cli import echo, print_json, print_table
from kernel.jobs import JobRecord
from plugins.club.health import NO_SOURCES, ClubHealth
from plugins.club.jobs import RefreshError, run_refresh
from plugins.club.report import RefreshReport
from plugins.club.settings import ClubSettings

_REPORT_COLUMNS = ("source", "dataset", "state", "items", "rejected", "ms", "reason")
_STATE_COLUMNS = ("source", "dataset", "state", "items", "succeeded_at", "failure")


def make_refresh_command(services: Services) -> Command:
    """Return the command."""

    @click.command("refresh")
    @click.argument("sources", nargs=-1, metavar="[SOURCE]...")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def refresh(*, sources: tuple[str, ...], as_json: bool) -> None:
        """Fetch all sources, or those named, now and publish the datasets; exit with 1 if a source failed.

        A source that fails keeps its last content. Needs no worker.
        """
        if services.settings(ClubSettings).sources:
            _refresh(services, sources, as_json=as_json)
        else:
            echo(f"{NO_SOURCES}.", err=True)
            if as_json:
                print_json(RefreshReport())

    return Command(command=refresh, alias="refresh_club")


def _refresh(services: Services, sources: tuple[str, ...], *, as_json: bool) -> None:
    try:
        report = run_refresh(services, ProgressPrinter(), sources=sources)
    except RefreshError as ex:
        echo(f"tiercel: {ex}", err=True)
        _print_states(services, as_json=as_json)
        sys.exit(1)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report.failed:
        sys.exit(1)


def _print_report(report: RefreshReport) -> None:
    print_table(_REPORT_COLUMNS, [[getattr(source, name) for name in _REPORT_COLUMNS] for source in report.sources])
    for dataset in report.datasets:
        version = "no version" if dataset.version is None else f"version {dataset.version}"
        rejected = f", {dataset.rejected:,} rejected" if dataset.rejected else ""
        echo(f"{dataset.dataset}: {dataset.outcome}, {version}, {dataset.items:,} items{rejected}")


def _print_states(services: Services, *, as_json: bool) -> None:
    sources = ClubHealth(services).list_sources()
    if as_json:
        print_json(sources)
    else:
        print_table(_STATE_COLUMNS, [[getattr(source, name) for name in _STATE_COLUMNS] for source in sources])


class ProgressPrinter:
    """Prints the progress of the job on standard error, one line whenever its message changes."""

    def __init__(self) -> None:
        self._last: str | None = None

    def __call__(self, record: JobRecord) -> None:
        """Handle new progress."""
        progress = record.progress
        if progress is not None and progress.message != self._last:
            self._last = progress.message
            echo(f"{progress.done:.0f} of {progress.total:.0f}: {progress.message}", err=True)
