"""``tiercel trace refresh`` and ``tiercel trace check``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from kernel import Command, Services, print_json, print_table
from plugins.trace.export.refresh import ExportError, export
from plugins.trace.freshness import NO_SOURCES, NO_TOKEN
from plugins.trace.settings import TraceSettings


def make_commands(services: Services) -> Iterable[Command]:
    """Return the commands."""
    return [_refresh(services)]


def _refresh(services: Services) -> Command:
    @click.command("refresh")
    @click.option("--full", is_flag=True, help="Read every row, not only those that have changed.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def refresh(*, full: bool, as_json: bool) -> None:
        """Read Notion now and publish what it has; exit with 1 if that is refused.

        What is refused leaves the last good export serving. Needs no worker.
        """
        settings = services.settings(TraceSettings)
        if not settings.is_active:
            click.echo(f"{NO_SOURCES if not settings.sources else NO_TOKEN}.", err=True)
            return
        try:
            certificate = export(services, full=full)
        except ExportError as ex:
            click.echo(f"tiercel: {ex}", err=True)
            sys.exit(1)
        if as_json:
            print_json(certificate)
            return
        titles = ("dataset", "outcome", "version", "items", "rejected")
        print_table(titles, [[getattr(each, title) for title in titles] for each in certificate.datasets])

    return Command(command=refresh, alias="refresh_trace_data")
