"""``tiercel data``: list, compare, roll back, export and import datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from kernel.app import Tiercel
from kernel.cli.output import echo, format_age, print_difference, print_json, print_table
from kernel.config import load
from kernel.datasets.files import Folder, export_folder, publish_folder, read_folder
from kernel.datasets.models import Publication
from kernel.datasets.query import parse_as_of
from kernel.datasets.service import Datasets, summarize_dataset
from kernel.errors import BootError
from kernel.identity import ALL_SCOPES, SYSTEM_ACCOUNT, Identity, acting_as

HISTORY_SHOWN = 20
# Of each dataset.
REJECTED_SHOWN_MAX = 20
_HISTORY_TITLES = ("at", "outcome", "version", "items", "rejected", "source", "reason")
_ACCOUNT = click.option(
    "--account",
    default=SYSTEM_ACCOUNT,
    show_default=True,
    type=click.IntRange(0),
    help="Number of the account, of datasets that each account has for itself.",
)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """List, compare, export, import and roll back datasets."""


@data.command("list")
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_datasets(*, account: int, as_json: bool) -> None:
    """List datasets with their current versions, and when an export last published or confirmed them."""
    service = Tiercel(load())
    datasets = service.shared.datasets
    with service.database_open(), acting_as(_for_account(account)):
        found = [summarize_dataset(datasets, name) for name in datasets.all]
    if as_json:
        print_json(found)
        return
    now = service.clock.now()
    rows = [
        (
            each.name,
            each.version,
            each.items,
            None if each.published_at is None else f"{each.published_at:%Y-%m-%d %H:%M:%S}",
            None if each.confirmed_at is None else format_age(now - each.confirmed_at),
            each.file,
            each.warning or each.reason,
        )
        for each in found
    ]
    print_table(("name", "version", "items", "published", "confirmed", "file", "remark"), rows)


@data.command()
@click.argument("name")
@click.option("--limit", default=HISTORY_SHOWN, show_default=True, type=click.IntRange(1), help="The most to show.")
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def versions(*, name: str, limit: int, account: int, as_json: bool) -> None:
    """Show the versions of dataset NAME and the attempts to publish it, newest first."""
    service = Tiercel(load())
    datasets = service.shared.datasets
    with service.database_open(), acting_as(_for_account(account)):
        found, attempts = datasets.versions(name, limit), datasets.publications(name, limit)
    if as_json:
        print_json({"versions": found, "attempts": attempts})
        return
    rows = [(each.version, each.published_at, each.items, each.size_bytes, each.sha256[:12]) for each in found]
    print_table(("version", "published_at", "items", "size_bytes", "sha256"), rows)
    echo()
    print_table(_HISTORY_TITLES, [[getattr(each, title) for title in _HISTORY_TITLES] for each in attempts])


@data.command()
@click.argument("name")
@click.argument("earlier", metavar="FROM")
@click.argument("later", metavar="[TO]", required=False)
@click.option("--application", "slug", metavar="SLUG", help="Compare what this application sees.")
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(*, name: str, earlier: str, later: str | None, slug: str | None, account: int, as_json: bool) -> None:
    """Show the difference between two versions or times; TO is the current version by default."""
    service = Tiercel(load())
    shared = service.shared
    application = shared.applications.find(slug) if slug is not None else None
    until = None if later is None else parse_as_of(later, "TO")
    with service.database_open(), acting_as(_for_account(account)):
        found = shared.datasets.compare(name, parse_as_of(earlier, "FROM"), until, application)
    if as_json:
        print_json(found)
    else:
        print_difference(found, shared.datasets.find(name).key)


@data.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(*, name: str, version: int, account: int, as_json: bool) -> None:
    """Publish the content of an older VERSION of dataset NAME again, as a new version."""
    service = Tiercel(load())
    with service.database_open(), acting_as(_for_account(account)):
        attempt = service.shared.datasets.roll_back(name, version, source="tiercel data rollback")
    if as_json:
        print_json(attempt)
    elif attempt.outcome == "unchanged":
        echo(f"{name}: version {attempt.version} serves the content of version {version} already.")
    else:
        echo(f"{name}: version {attempt.version} serves the content of version {version}.")


# --- files ----------------------------------------------------------------------------------------------------------


@data.command("export")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_files(*, folder: Path, account: int, as_json: bool) -> None:
    """Write every dataset, and every index, to files of JSON in DIR."""
    service = Tiercel(load())
    with service.database_open(), acting_as(_for_account(account)):
        try:
            export = export_folder(service.shared.datasets, folder)
        except OSError as ex:
            raise BootError(f"{folder}: {ex}") from ex
    if as_json:
        print_json({"files": [path.name for path in export.files], "missing": export.warnings})
        return
    for path in export.files:
        echo(f"{path} written")
    for reason in export.warnings.values():
        echo(reason, err=True)


@data.command("import")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--dataset", "names", metavar="NAME", multiple=True, help="Only this one; may be given several times.")
@click.option("--if-empty", is_flag=True, help="Only datasets that were never published.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@_ACCOUNT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_files(
    *, folder: Path, names: Sequence[str], if_empty: bool, dry_run: bool, account: int, as_json: bool
) -> None:
    """Publish the files of JSON in DIR: everything at once, or nothing.

    A file holds a list, or an object with a list under `data`. Invalid items are rejected with their reasons. A dataset
    without a file in DIR stays as it is.
    """
    service = Tiercel(load())
    datasets = service.shared.datasets
    wanted = [datasets.find(name) for name in names] or list(datasets.all.values())
    with service.database_open(), acting_as(_for_account(account)):
        if if_empty:
            empty = datasets.never_published()
            wanted = [dataset for dataset in wanted if dataset in empty]
        found = read_folder(folder, wanted, datasets.indexes)
        if dry_run:
            _print_preview(datasets, found, as_json=as_json)
        else:
            published = publish_folder(datasets, found, source=f"tiercel data import {folder}")
            _print_published(found, published, as_json=as_json)


def _for_account(account: int) -> Identity:
    return Identity(scheme="job", name="tiercel data", account=account, scopes=ALL_SCOPES)


def _print_preview(datasets: Datasets, folder: Folder, *, as_json: bool) -> None:
    found = [(each, datasets.preview(each.dataset, each.items)) for each in folder.found]
    if as_json:
        print_json({each.dataset.name: {"rejected": each.rejected, "difference": diff} for each, diff in found})
        return
    for each, difference in found:
        print_difference(difference, each.dataset.key)
    _print_left_out(folder)


def _print_published(folder: Folder, published: Mapping[str, Publication], *, as_json: bool) -> None:
    if as_json:
        rejected = {each.dataset.name: each.rejected for each in folder.found if each.rejected}
        print_json({"published": published, "rejected": rejected, "ignored": folder.ignored})
        return
    if not folder.found:
        echo(f"{folder.path} has nothing to import.")
        _print_left_out(folder)
        return
    rows: list[tuple[object, ...]] = []
    for each in folder.found:
        one = published[each.dataset.name]
        files = ", ".join(each.files)
        rows.append((one.dataset, one.outcome, one.version, one.items, one.rejected, files))
    print_table(("dataset", "outcome", "version", "items", "rejected", "files"), rows)
    _print_left_out(folder)


def _print_left_out(folder: Folder) -> None:
    for each in folder.found:
        for one in each.rejected[:REJECTED_SHOWN_MAX]:
            echo(f"{each.dataset.name}: item {one.index} was rejected: {one.reason}", err=True)
        if len(each.rejected) > REJECTED_SHOWN_MAX:
            echo(f"{each.dataset.name}: and {len(each.rejected) - REJECTED_SHOWN_MAX:,} more", err=True)
    for name, reason in folder.ignored.items():
        echo(f"{name}: {reason}", err=True)
