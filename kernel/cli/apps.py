"""``tiercel apps``: which applications there are, what each sees, and whether their endpoints keep their promises."""

from __future__ import annotations

import sys
from collections import Counter

import click
import msgspec

from kernel.app import Tiercel
from kernel.cli.output import print_json, print_table
from kernel.config import load
from kernel.datasets.summary import ApplicationSummary, FilterSummary, ItemCount, summarize_application
from kernel.logging import make_logger


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def apps(context: click.Context, *, as_json: bool) -> None:
    """List applications: features, filters, and how much each sees."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@click.command("list_apps", hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_apps(*, as_json: bool) -> None:
    """List applications, as `tiercel apps` does."""
    _list(as_json=as_json)


@apps.command("test")
@click.option("--url", metavar="URL", help="A running service; by default one in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run_test(*, url: str | None, as_json: bool) -> None:
    """Request every endpoint of every application; exit with 1 if one does not answer as documented.

    Routes and applications are those of the configuration here, so a running service should have the same.
    """
    _test(url, as_json=as_json)


@click.command("test_multi_app", hidden=True)
@click.option("--url", metavar="URL", help="A running service; by default one in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_multi_app(*, url: str | None, as_json: bool) -> None:
    """Request every endpoint of every application, as `tiercel apps test` does."""
    _test(url, as_json=as_json)


def _list(*, as_json: bool) -> None:
    service = Tiercel(load())
    shared = service.shared
    with service.database_open():
        found = [summarize_application(shared.datasets, each) for each in shared.applications.all]
    if as_json:
        print_json(found)
        return
    print_table(("application", "name", "features", "filters", "items"), [_row(each) for each in found])
    for each in found:
        for reason in sorted({count.reason for count in each.datasets if count.reason is not None}):
            click.echo(f"{each.slug}: {reason}")


def _row(application: ApplicationSummary) -> tuple[str, ...]:
    return (
        application.slug,
        application.name,
        ", ".join(application.features),
        ", ".join(map(_filter, application.filters)),
        ", ".join(map(_items, application.datasets)),
    )


def _filter(found: FilterSummary) -> str:
    return found.key if found.datasets else f"{found.key} (of no dataset)"


def _items(count: ItemCount) -> str:
    return f"{count.dataset} {'?' if count.items is None else f'{count.items:,}'}"


def _test(url: str | None, *, as_json: bool) -> None:
    # Imported where it is needed: httpx takes a tenth of a second, which most commands need not pay.
    from kernel.cli.smoke import Smoke, make_client

    configuration = load()
    # The table says it all; a line for each request would be in the way.
    quiet = make_logger(msgspec.structs.replace(configuration.settings.log, level="warning"))
    service = Tiercel(configuration, log=quiet)
    routes, slugs = service.shared.inventory.routes, service.shared.applications.slugs
    with make_client(url, service) as client:
        smoke = Smoke(client, routes, slugs)
        if url is None:
            with service.database_open():
                outcomes = list(smoke.run())
        else:
            outcomes = list(smoke.run())
    counts = Counter(outcome.result for outcome in outcomes)
    if as_json:
        print_json(outcomes)
    else:
        titles = ("application", "path", "status", "items", "result", "reason")
        print_table(titles, [[getattr(outcome, title) for title in titles] for outcome in outcomes])
        click.echo(", ".join(f"{counts[result]} {result}" for result in ("passed", "failed", "skipped")))
    if counts["failed"]:
        sys.exit(1)
