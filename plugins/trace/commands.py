"""The commands ``tiercel trace refresh``, ``tiercel trace check`` and ``tiercel trace webhook``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from kernel import Command, Services
from kernel.cli import echo, print_difference, print_json, print_table, progress
from kernel.jobs import JobRecord
from plugins.trace.checks import Check, DataSourceCheck, check_sources, list_problems
from plugins.trace.datasets import DATASETS
from plugins.trace.jobs import ExportError, ExportPreview, preview_export, run_export
from plugins.trace.settings import TraceSettings
from plugins.trace.store import delete_verification_tokens, list_verification_tokens
from plugins.trace.sync.completeness import ExportReport
from plugins.trace.sync.export import ExportMonitor
from plugins.trace.webhook import PATH

_PROGRESS_TITLE = "reading Notion"


def make_commands(services: Services) -> Iterable[Command]:
    """Return the commands."""
    return [
        Command(command=_make_refresh(services), alias="refresh_trace_data"),
        Command(command=_make_check(services)),
        Command(command=_make_webhook(services)),
    ]


def _warn_of_retry(reason: str) -> None:
    echo(f"trying again: {reason}", err=True)


# --- refresh ---------------------------------------------------------------------------------------------------------


def _make_refresh(services: Services) -> click.Command:
    @click.command("refresh")
    @click.option("--full", is_flag=True, help="Read every row, not only those that have changed.")
    @click.option("--dry-run", is_flag=True, help="Read every row and show what would change; store nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def refresh(*, full: bool, dry_run: bool, as_json: bool) -> None:
        """Export specifications from Notion now; exit with 1 if the export is refused.

        The last good export is still served then. Needs no worker.
        """
        if idle_reason := services.settings(TraceSettings).idle_reason:
            echo(f"{idle_reason}.", err=True)
            if as_json:
                print_json(ExportReport())
            return
        try:
            if dry_run:
                _print_preview(_preview(services), as_json=as_json)
            else:
                _print_report(_export(services, full=full), as_json=as_json)
        except ExportError as ex:
            echo(f"tiercel: {ex}", err=True)
            sys.exit(1)

    return refresh


def _export(services: Services, *, full: bool) -> ExportReport:
    with progress(_PROGRESS_TITLE) as bar:

        def show(record: JobRecord) -> None:
            if record.progress is not None:
                bar.show(record.progress.done, record.progress.total, record.progress.message)

        return run_export(services, full=full, on_progress=show)


def _preview(services: Services) -> ExportPreview:
    with progress(_PROGRESS_TITLE) as bar:
        monitor = ExportMonitor(
            check=lambda: None,
            progress=lambda rows, message: bar.show(rows, None, message),
            warn=_warn_of_retry,
        )
        return preview_export(services, monitor)


def _print_report(report: ExportReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    titles = ("dataset", "outcome", "version", "items", "rejected")
    print_table(titles, [[getattr(each, title) for title in titles] for each in report.datasets])
    _print_summary(report)


def _print_preview(preview: ExportPreview, *, as_json: bool) -> None:
    if as_json:
        print_json(preview)
        return
    keys = {dataset.name: dataset.key for dataset in DATASETS}
    for difference in preview.differences:
        print_difference(difference, keys[difference.dataset])
    _print_summary(preview.report)


def _print_summary(report: ExportReport) -> None:
    modes: list[str] = sorted({each.mode for each in report.sources})
    rows = sum(each.rows for each in report.sources)
    echo(f"{' and '.join(modes)}: {rows:,} rows, {report.requests:,} requests in {report.duration_s:,.1f} s")
    for source in report.sources:
        for warning in source.warnings:
            echo(f"{source.source}: {warning}", err=True)


# --- check -----------------------------------------------------------------------------------------------------------


def _make_check(services: Services) -> click.Command:
    @click.command("check")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def check(*, as_json: bool) -> None:
        """Compare [trace.sources] with what Notion has; exit with 1 on any problem.

        Reads databases, columns and the first rows, and stores nothing.
        """
        result = check_sources(services, _warn_of_retry)
        if as_json:
            print_json(result)
        else:
            _print_check(result)
        if not result.ok:
            sys.exit(1)

    return check


def _print_check(result: Check) -> None:
    api = f"{result.api_url}, version {result.api_version}"
    if result.problem is not None:
        echo(f"[PROBLEM] {api}: {result.problem}")
        return
    echo(f"{api}: the token is accepted")
    for source in result.sources:
        for each in source.data_sources:
            _print_data_source(source.source, each)
    problems = [problem for source in result.sources for problem in list_problems(source)]
    echo()
    for problem in problems:
        echo(f"[PROBLEM] {problem}")
    echo("all of it fits" if result.ok else f"problems: {len(problems)}")


def _print_data_source(source: str, found: DataSourceCheck) -> None:
    rows = f"the first {found.rows} rows" if found.has_more else f"rows: {found.rows}"
    echo(f"\n{source}: {found.title} ({found.id}), {rows}")
    titles = ("field", "column", "type", "state", "detail")
    print_table(titles, [[getattr(each, title) for title in titles] for each in found.fields])
    for note in found.notes:
        echo(note)


# --- webhook --------------------------------------------------------------------------------------------------------


def _make_webhook(services: Services) -> click.Command:
    @click.command("webhook")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def webhook(*, as_json: bool) -> None:
        """Show the verification token that Notion sent for a new webhook: for Notion's form, and NOTION_WEBHOOK_TOKEN.

        Once the variable is set, all received tokens are deleted.
        """
        if services.settings(TraceSettings).webhook_token is not None:
            delete_verification_tokens(services.db)
            echo("NOTION_WEBHOOK_TOKEN is set: events are accepted.", err=True)
            return
        tokens = list_verification_tokens(services.db)
        if as_json:
            print_json(tokens)
        elif tokens:
            rows = [(f"{each.offered_at:%Y-%m-%d %H:%M:%S}", each.token) for each in tokens]
            print_table(("received (UTC)", "verification token"), rows)
        else:
            url = f"https://<this service>{PATH}"
            echo(f"no token was received within a day; have Notion send one to {url}", err=True)

    return webhook
