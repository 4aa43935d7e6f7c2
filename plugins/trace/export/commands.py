"""``tiercel trace refresh``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from kernel import Command, Services
from kernel.cli import print_difference, print_json, print_table, progress
from kernel.jobs import JobRecord
from plugins.trace.datasets import DATASETS
from plugins.trace.export.exporting import Watcher
from plugins.trace.export.model import Certificate
from plugins.trace.export.refresh import ExportError, Preview, preview, run_export
from plugins.trace.freshness import Freshness

_TITLE = "reading Notion"


def make_refresh_command(services: Services) -> Command:
    """Return the command."""

    @click.command("refresh")
    @click.option("--full", is_flag=True, help="Read every row, not only those that have changed.")
    @click.option("--dry-run", is_flag=True, help="Read every row and show what would change; store nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def refresh(*, full: bool, dry_run: bool, as_json: bool) -> None:
        """Read Notion now and publish what it has; exit with 1 if that is refused.

        What is refused leaves the last good export serving. Needs no worker.
        """
        if idle := Freshness(services).idle_reason():
            click.echo(f"{idle}.", err=True)
            return
        try:
            if dry_run:
                _print_preview(_preview(services), as_json=as_json)
            else:
                _print_certificate(_export(services, full=full), as_json=as_json)
        except ExportError as ex:
            click.echo(f"tiercel: {ex}", err=True)
            sys.exit(1)

    return Command(command=refresh, alias="refresh_trace_data")


def _export(services: Services, *, full: bool) -> Certificate:
    with progress(_TITLE) as bar:

        def show(record: JobRecord) -> None:
            if record.progress is not None:
                bar.show(record.progress.done, record.progress.total, record.progress.message)

        return run_export(services, full=full, on_progress=show)


def _preview(services: Services) -> Preview:
    with progress(_TITLE) as bar:
        watcher = Watcher(
            check=lambda: None,
            progress=lambda rows, message: bar.show(rows, None, message),
            warn=lambda reason: click.echo(f"trying again: {reason}", err=True),
        )
        return preview(services, watcher)


def _print_certificate(certificate: Certificate, *, as_json: bool) -> None:
    if as_json:
        print_json(certificate)
        return
    titles = ("dataset", "outcome", "version", "items", "rejected")
    print_table(titles, [[getattr(each, title) for title in titles] for each in certificate.datasets])
    _print_summary(certificate)


def _print_preview(found: Preview, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    keys = {dataset.name: dataset.key for dataset in DATASETS}
    for difference in found.differences:
        print_difference(difference, keys[difference.dataset])
    _print_summary(found.certificate)


def _print_summary(certificate: Certificate) -> None:
    modes: Sequence[str] = sorted({each.mode for each in certificate.sources})
    rows = sum(each.rows for each in certificate.sources)
    click.echo(
        f"{' and '.join(modes)}: {rows:,} rows, {certificate.requests:,} requests in {certificate.duration_s:,.1f} s"
    )
    for source in certificate.sources:
        for warning in source.warnings:
            click.echo(f"{source.source}: {warning}", err=True)
