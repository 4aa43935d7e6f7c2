"""``tiercel data``: datasets, their versions, what differs, and the way back."""

from __future__ import annotations

import click

from kernel.app import Tiercel
from kernel.cli.data_files import export_files, import_files
from kernel.cli.output import print_difference, print_json, print_table
from kernel.config import load
from kernel.datasets.selection import read_as_of
from kernel.datasets.summary import summarize_dataset

HISTORY_SHOWN = 20
_HISTORY_TITLES = ("at", "outcome", "version", "items", "rejected", "source", "reason")


@click.group()
def data() -> None:
    """See, compare, export, import and roll back datasets."""


data.add_command(export_files)
data.add_command(import_files)


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_datasets(*, as_json: bool) -> None:
    """List datasets with what serves of each."""
    service = Tiercel(load())
    datasets = service.shared.datasets
    with service.database_open():
        found = [summarize_dataset(datasets, name) for name in datasets.all]
    if as_json:
        print_json(found)
        return
    titles = ("name", "version", "items", "published_at", "file")
    rows = [[*(getattr(each, title) for title in titles), each.warning or each.reason] for each in found]
    print_table((*titles, "remark"), rows)


@data.command()
@click.argument("name")
@click.option("--limit", default=HISTORY_SHOWN, show_default=True, type=click.IntRange(1), help="The most to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def versions(*, name: str, limit: int, as_json: bool) -> None:
    """Show the versions of dataset NAME and the attempts to publish it, newest first."""
    service = Tiercel(load())
    datasets = service.shared.datasets
    with service.database_open():
        found, attempts = datasets.versions(name, limit), datasets.publications(name, limit)
    if as_json:
        print_json({"versions": found, "attempts": attempts})
        return
    rows = [(each.version, each.published_at, each.items, each.size_bytes, each.sha256[:12]) for each in found]
    print_table(("version", "published_at", "items", "size_bytes", "sha256"), rows)
    click.echo()
    print_table(_HISTORY_TITLES, [[getattr(each, title) for title in _HISTORY_TITLES] for each in attempts])


@data.command()
@click.argument("name")
@click.argument("earlier", metavar="FROM")
@click.argument("later", metavar="[TO]", required=False)
@click.option("--application", "slug", metavar="SLUG", help="Compare what this application sees.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(*, name: str, earlier: str, later: str | None, slug: str | None, as_json: bool) -> None:
    """Say what differs between two versions or times; TO is what serves at the moment by default."""
    service = Tiercel(load())
    shared = service.shared
    application = shared.applications.find(slug) if slug is not None else None
    until = None if later is None else read_as_of(later, "TO")
    with service.database_open():
        found = shared.datasets.compare(name, read_as_of(earlier, "FROM"), until, application)
    if as_json:
        print_json(found)
    else:
        print_difference(found, shared.datasets.find(name).key)


@data.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(*, name: str, version: int, as_json: bool) -> None:
    """Publish the content of an older VERSION of dataset NAME again, as a new one."""
    service = Tiercel(load())
    with service.database_open():
        attempt = service.shared.datasets.roll_back(name, version, source="tiercel data rollback")
    if as_json:
        print_json(attempt)
    elif attempt.outcome == "unchanged":
        click.echo(f"{name}: version {attempt.version} serves the content of version {version} already.")
    else:
        click.echo(f"{name}: version {attempt.version} serves the content of version {version}.")
