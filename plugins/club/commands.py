"""``tiercel club refresh``."""

from __future__ import annotations

import sys

import click

from kernel import Command, Services
from kernel.cli import print_json, print_table
from kernel.jobs import JobRecord
from plugins.club.freshness import NOTHING_CONFIGURED, Freshness
from plugins.club.refresh import RefreshError, export
from plugins.club.settings import ClubSettings


def make_refresh_command(services: Services) -> Command:
    """Return the command."""

    @click.command("refresh")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def refresh(*, as_json: bool) -> None:
        """Fetch every source now and publish what they say; exit with 1 if one failed.

        A source that fails keeps what it gave last. Needs no worker.
        """
        if services.settings(ClubSettings).sources:
            _refresh(services, as_json=as_json)
        else:
            click.echo(f"{NOTHING_CONFIGURED}.", err=True)

    return Command(command=refresh, alias="refresh_club")


def _refresh(services: Services, *, as_json: bool) -> None:
    try:
        report = export(services, _Lines())
    except RefreshError as ex:
        click.echo(f"tiercel: {ex}", err=True)
        _print_states(services, as_json=as_json)
        sys.exit(1)
    if as_json:
        print_json(report)
    else:
        titles = ("source", "dataset", "state", "items", "rejected", "ms", "reason")
        print_table(titles, [[getattr(each, title) for title in titles] for each in report.sources])
        for dataset in report.datasets:
            version = "no version" if dataset.version is None else f"version {dataset.version}"
            rejected = f", {dataset.rejected:,} kept aside" if dataset.rejected else ""
            click.echo(f"{dataset.dataset}: {dataset.outcome}, {version}, {dataset.items:,} items{rejected}")
    if report.failed:
        sys.exit(1)


def _print_states(services: Services, *, as_json: bool) -> None:
    found = Freshness(services).list()
    if as_json:
        print_json(found)
        return
    titles = ("source", "dataset", "state", "items", "succeeded_at", "failure")
    print_table(titles, [[getattr(each, title) for title in titles] for each in found])


class _Lines:
    """Prints on standard error how far each source is, when that changes."""

    def __init__(self) -> None:
        self._last: str | None = None

    def __call__(self, record: JobRecord) -> None:
        progress = record.progress
        if progress is not None and progress.message != self._last:
            self._last = progress.message
            click.echo(f"{progress.done:.0f} of {progress.total:.0f}: {progress.message}", err=True)
